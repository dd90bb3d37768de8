"""A message stays where it was put first, though the model's verdict changes between two runs."""

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from lab.servers import free_port
from tests.acceptance.world import (
    World,
    garbage,
    kill,
    some_poison,
    stop,
    valid,
    wait_for_epochs,
)
from tests.kit.wall_clock import WallClock

# Of Apache Kafka: the embedded broker tells too low an end of a partition, behind which nobody
# looks for what a predecessor did.
pytestmark = [pytest.mark.apache_kafka, pytest.mark.timeout(300)]

STUCK = "stuck order"
"""Hangs at the model, so that no position goes past it and the next run reads all of it again."""

PATIENT = {"ML_API_TIMEOUT": "90", "SCORING_ADAPTIVE": "false"}
"""So that what hangs does not end, and the rest goes on beside it."""

HANGING: dict[str, Any] = {"name": "hang", "marker": STUCK}
SICK: dict[str, dict[str, Any]] = {
    "refuses": {"name": "poison", "marker": "poison"},
    # Of real requests: the check at the start sends none, and passes.
    "down": {"name": "outage", "marker": "order"},
}


@pytest.mark.parametrize("sickness", SICK)
@pytest.mark.parametrize("first", ["sick", "well"])
def test_a_verdict_that_changes_after_a_kill_moves_no_message(
    make_world: Callable[..., World], sickness: str, first: str
) -> None:
    """What was dead-lettered is not stored by the next run, what was stored not dead-lettered."""
    on_outage = "dead_letter" if sickness == "down" else "pause"
    world = make_world(SCORING_ON_OUTAGE=on_outage, MAX_RETRIES="0", **PATIENT)
    with world.flow("-s", "60") as flow:  # one epoch, which takes no position before the kill
        flow.wait_for("source.start")
        world.model_api.control(**HANGING)
        world.hold_back(valid(4, STUCK))
        if first == "sick":
            world.model_api.control(**SICK[sickness])
        world.send(some_poison())
        world.wait_until_ended(160)
        kill(flow)
    before = world.account()
    world.model_api.reset()
    if first == "well":
        world.model_api.control(**SICK[sickness])
    with world.flow() as flow:
        world.wait_until_committed()
        stop(flow)
    after = world.account()
    after.expect_each_once(world.sent)
    assert before.stored <= after.stored
    assert before.failed.keys() <= after.failed.keys()
    assert max(after.failed.values(), default=1) == 1
    assert world.audit().adds_up


@pytest.mark.apache_kafka
def test_dead_letters_far_older_than_the_position_are_not_written_again(
    world: World, clock: WallClock
) -> None:
    """The model was sick for long while epochs went on; then the machine was lost with its disk."""
    port = free_port()
    world.variables |= {"HTTP_PORT": str(port), **PATIENT}
    clock.move(-timedelta(minutes=30))
    with world.flow(**clock.variables) as flow:
        flow.wait_for("source.start")
        world.send(valid(20))
        world.wait_until_committed()
        world.model_api.control(**HANGING)
        world.hold_back(valid(4, STUCK))
        world.send(garbage(20))
        world.wait_until_ended(40)
        clock.move(timedelta(0))
        wait_for_epochs(port, 3)
        kill(flow)
    world.lose_recovery()
    world.model_api.reset()
    with world.flow() as flow:
        world.wait_until_committed()
        stop(flow)
    found = world.account()
    found.expect_each_once(world.sent)
    assert Counter(found.failed.values()) == {1: 20}
