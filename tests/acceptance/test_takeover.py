"""What one process had in hand is another's after a restart with another number of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIGCONT, SIGSTOP

import pytest

from lab.servers import free_port, wait_until
from tests.acceptance.world import LONG, World, events, kill, stop, valid, wait_for_epochs
from tests.kit.postgres import query

pytestmark = pytest.mark.timeout(300)

STUCK = "stuck order"
"""Hangs at the model, so that it is in hand when the process is frozen."""
PATIENT = {"ML_API_TIMEOUT": "90", "STOP_TIMEOUT": "1"}


@contextmanager
def _taken_over_while_the_model_is_sick(world: World) -> Iterator[None]:
    """One process, then two, neither of which gets an answer; epochs go on meanwhile."""
    world.variables |= PATIENT
    with world.flow() as flow:
        flow.wait_for("source.start")
        world.model_api.control(name="hang", marker="order")
        world.send(valid(160))
        wait_until(lambda: world.model_api.state()["in_flight"] > 0, LONG, what="a request")
        stop(flow)
    ports = [free_port(), free_port()]
    with world.cluster(ports) as flows:
        for port in ports:
            wait_for_epochs(port, 3)
        yield
        kill(*flows)


def test_what_two_processes_took_over_survives_the_loss_of_the_recovery_directory(
    world: World,
) -> None:
    """The group's offset is never past what another process has in hand."""
    with _taken_over_while_the_model_is_sick(world):
        pass
    world.lose_recovery()
    world.model_api.reset()
    with world.flow() as flow:
        flow.wait_for("source.start")
        canaries = world.send(valid(4))
        behind = {(sent.partition(), sent.offset()) for sent in canaries}
        wait_until(lambda: behind <= world.account().stored, LONG, what="what was sent last")
        stop(flow)
    found = world.account()
    found.expect_each_once(world.sent)
    assert not found.failed


def test_the_audit_misses_nothing_that_another_process_has_in_hand(world: World) -> None:
    """What two processes took over is in progress until it is in its place."""
    with _taken_over_while_the_model_is_sick(world):
        found = world.audit()
        assert found.total("missing") == 0
        assert found.total("in_progress") == 160


@pytest.mark.apache_kafka
@pytest.mark.parametrize("verdict", ["refuses", "takes"])
def test_a_process_whose_successor_came_and_went_writes_nothing(world: World, verdict: str) -> None:
    """It finds its locks free again, and somebody else's takeover in the group: it ends."""
    world.variables |= PATIENT | {"MAX_RETRIES": "0"}
    with world.flow() as frozen:
        frozen.wait_for("source.start")
        world.send(valid(4))
        world.wait_until_ended(4)
        world.wait_until_committed()
        world.model_api.control(name="hang", marker=STUCK)
        world.send(valid(20, STUCK))
        wait_until(lambda: world.model_api.state()["in_flight"] > 0, LONG, what="a request")
        frozen.signal(SIGSTOP)
        end = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE %s"
        )
        query(world.variables["DATABASE_URL"], end, f"%{world.topics.group}")
        world.model_api.reset()
        world.model_api.control(name="poison", marker=STUCK)
        world.lose_recovery()
        with world.flow() as successor:
            successor.wait_for("source.start")
            world.send(valid(4))
            world.wait_until_committed()
            stop(successor)
        if verdict == "takes":
            world.model_api.reset()
        frozen.signal(SIGCONT)
        assert frozen.wait(LONG) == 1
        lines = events(frozen, "source.stopped")
        assert {"taken the partition over" in line["error"] for line in lines} == {True}
    world.account().expect_each_once(world.sent)
    assert world.audit().adds_up
