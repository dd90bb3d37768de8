"""Two streams read one topic, each for its own database, and share the error topic."""

from collections import Counter

import pytest

from lab.servers import wait_until
from tests.acceptance.world import LONG, World, garbage, kill, some_poison, stop, valid
from tests.kit.kafka import header, read_all

pytestmark = pytest.mark.timeout(300)

BAD = 40
POISON = {"name": "poison", "marker": "poison"}


@pytest.fixture
def other(world: World, other_database_url: str) -> World:
    """The second stream: a group, a database and a recovery directory of its own."""
    return world.beside("other", database_url=other_database_url)


def _letters(world: World) -> Counter[str | None]:
    """Count the dead letters of each stream."""
    return Counter(
        header(record, "dlq.group") for record in read_all(world.broker, world.topics.failed)
    )


def test_what_one_stream_dead_lettered_is_not_dropped_by_the_other(
    world: World, other: World
) -> None:
    """The other had the same messages in hand when it was killed, and refuses them later itself."""
    with other.flow(ML_API_TIMEOUT="90") as flow:
        flow.wait_for("source.start")
        other.model_api.control(name="hang", marker="order")
        world.send(some_poison())
        wait_until(lambda: other.model_api.state()["in_flight"] > 0, LONG, what="a request")
        kill(flow)
    other.model_api.reset()
    other.model_api.control(**POISON)
    for stream in (world, other):
        with stream.flow() as flow:
            stream.wait_until_committed()
            stop(flow)
    assert _letters(world) == {world.topics.group: BAD, other.topics.group: BAD}
    assert world.audit().adds_up
    assert other.audit().adds_up


def test_a_message_that_is_bad_for_both_is_doubled_for_neither(world: World, other: World) -> None:
    """Each stream's audit looks at its own dead letters only."""
    with world.flow() as flow, other.flow() as other_flow:
        flow.wait_for("source.start")
        other_flow.wait_for("source.start")
        for messages in (garbage(4), [*valid(40), *garbage(16)]):
            world.send(messages)
            world.wait_until_committed()
            other.wait_until_committed()
        stop(flow)
        stop(other_flow)
    for stream in (world, other):
        found = stream.audit()
        assert found.total("doubled") == 0
        assert found.total("stored") == 40
        assert found.total("dead_letters") == 20
        assert found.adds_up
    assert _letters(world) == {world.topics.group: 20, other.topics.group: 20}
