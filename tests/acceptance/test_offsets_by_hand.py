"""An operator sets the group's offsets, as `kafka-consumer-groups` does: it is a wish."""

import re
from collections.abc import Callable
from signal import SIGTERM

import pytest

from lab.servers import ApacheKafka, wait_until
from tests.acceptance.world import LONG, World, events, starts, stop, valid

pytestmark = [pytest.mark.apache_kafka, pytest.mark.timeout(300)]

EACH = 10
"""Messages of each partition that are done before somebody sets offsets."""


@pytest.mark.parametrize("wanted", [3, EACH + 5])
def test_a_reset_after_a_run_of_less_than_an_epoch_is_honoured(world: World, wanted: int) -> None:
    """The run ended gracefully: whatever it left, the offset set by hand takes precedence."""
    with world.flow("-s", "60") as flow:
        world.send(valid(4 * EACH))
        world.wait_until_ended()
        stop(flow)
    world.send(valid(4 * EACH))
    world.set_offsets(dict.fromkeys(range(4), wanted))
    with world.flow() as flow:
        wait_until(lambda: len(starts(flow)) == 4, LONG, what="all partitions")
        world.wait_until_committed()
        stop(flow)
        assert starts(flow) == dict.fromkeys(range(4), wanted)
    left_out = {(part, at) for part in range(4) for at in range(EACH, wanted)}
    sent = {(message.partition(), message.offset()) for message in world.sent}
    assert world.account().stored == sent - left_out


def _reset(world: World, _kafka: ApacheKafka) -> dict[int, int]:
    world.set_offsets({1: 3})
    return {1: 3}


def _delete(world: World, kafka: ApacheKafka) -> dict[int, int]:
    at = f"{world.topics.transactions}:1"
    kafka.group_tool("--delete-offsets", "--group", world.topics.group, "--topic", at)
    return {}


Hand = Callable[[World, ApacheKafka], dict[int, int]]


@pytest.mark.parametrize(("by_hand", "restart"), [(_reset, 3), (_delete, None)])
def test_offsets_changed_under_a_stream_that_works_stop_it(
    world: World, apache_kafka: ApacheKafka, by_hand: Hand, restart: int | None
) -> None:
    """One line names partition and offsets; what was set by hand stands, the next start obeys."""
    with world.flow() as flow:
        world.send(valid(4 * EACH))
        world.wait_until_committed()
        wish = by_hand(world, apache_kafka)
        world.send(valid(4 * EACH))  # so that there is something to commit
        wait_until(
            lambda: not flow.running or world.committed().get(1) != wish.get(1), LONG, what="a stop"
        )
        assert world.committed().get(1) == wish.get(1), "overwritten"
        assert flow.wait(LONG) == 1
        [line] = events(flow, "source.stopped")
    assert f"1-{world.topics.transactions}" in line["error"]
    offsets = {int(number) for number in re.findall(r"\boffset (\d+)\b", line["error"])}
    assert offsets >= {EACH, *wish.values()}
    with world.flow() as flow:
        wait_until(lambda: len(starts(flow)) == 4, LONG, what="all partitions")
        assert restart in {None, starts(flow)[1]}  # deleted, it is the snapshot's
        world.wait_until_committed()
        stop(flow)
    world.account().expect_each_once(world.sent)
    assert world.audit().adds_up


def test_a_reset_under_a_quiet_stream_outlives_its_end(world: World) -> None:
    """The last commit does not write over it: the next start begins there."""
    with world.flow() as flow:
        world.send(valid(4 * EACH))
        world.wait_until_committed()
        world.set_offsets({1: 3})
        flow.signal(SIGTERM)  # or it has stopped for it already
        flow.wait(LONG)
    assert world.committed() == {0: EACH, 1: 3, 2: EACH, 3: EACH}
    with world.flow() as flow:
        wait_until(lambda: len(starts(flow)) == 4, LONG, what="all partitions")
        assert starts(flow) == {0: EACH, 1: 3, 2: EACH, 3: EACH}
        stop(flow)
