"""How a stream ends that cannot go on: the last line says why, and nothing stands around it."""

from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL

import pytest

from lab.servers import free_port, wait_until
from tests.acceptance.world import LONG, World, stop, valid, wait_for_epochs
from tests.kit.feed import json_lines
from tests.kit.flow import Flow, cluster
from tests.kit.postgres import query

BUGGY = """
import dataflow
from operators.takeover import Assignment

def read(self):
    return 1 // 0

Assignment.read = read
flow = dataflow.flow
"""


BUGGY_DECODE = """
import dataflow
from operators import decode

def decode_message(message):
    return 1 // 0

decode.decode_message = decode_message
flow = dataflow.flow
"""


def _refuse_the_token(world: World) -> str:
    world.model_api.control(name="status", code=403)
    return "score.stopped"


def _drop_a_table(world: World) -> str:
    query(world.variables["DATABASE_URL"], "DROP TABLE predictions")
    return "postgres.stopped"


def _only_lines(flow: Flow) -> list[str]:
    """Events of the output, of which every line is one of the log's."""
    return [str(line["event"]) for line in json_lines(flow)]


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("spoil", [_refuse_the_token, _drop_a_table])
def test_what_ends_the_stream_is_the_last_line(
    make_world: Callable[..., World], spoil: Callable[[World], str], workers: str
) -> None:
    """With the totals before it, exit code 1, and no traceback, neither Python's nor Rust's."""
    world = make_world(RUST_BACKTRACE="1")
    with world.flow("-w", workers) as flow:
        wait_until(lambda: "source.start" in flow.output(), LONG, what="a start")
        event = spoil(world)
        world.send(valid(4))
        assert flow.wait(LONG) == 1
        assert _only_lines(flow)[-2:] == ["failed", event]


def test_at_debug_the_tracebacks_are_there(make_world: Callable[..., World]) -> None:
    """For whoever wants to know where in the code it was."""
    world = make_world(LOG_LEVEL="DEBUG")
    with world.flow() as flow:
        world.send(valid(4))
        flow.wait_for("source.start", LONG)
        event = _refuse_the_token(world)
        world.send(valid(4))
        assert flow.wait(LONG) == 1
        assert event in flow.output()
        assert "Traceback" in flow.output()


def test_a_recovery_directory_that_cannot_be_resumed_from_is_told(world: World) -> None:
    """It says what to do, and that nothing is lost by it."""
    with world.flow() as flow:
        flow.wait_for("source.start", LONG)
        stop(flow)
    part = next((world.folder / "recovery").glob("part-0.*"))
    old = part.read_bytes()
    port = free_port()
    with world.flow(HTTP_PORT=str(port)) as flow:
        wait_for_epochs(port, 4)
        stop(flow)
    for file in (world.folder / "recovery").glob("part-0.*"):
        file.unlink()
    part.write_bytes(old)
    with world.flow() as flow:
        assert flow.wait(LONG) == 1
        assert "the offsets of the consumer group are enough" in flow.lines()[-1]
        assert "Traceback" not in flow.output()


def test_a_bug_shows_its_traceback(world: World, tmp_path: Path) -> None:
    """It is not an end that has a name: whoever mends it has to see where it was."""
    module = tmp_path / "buggy.py"
    module.write_text(BUGGY)
    with Flow(tmp_path / "bug", world.variables, module=("bytewax.run", str(module))) as flow:
        assert flow.wait(LONG) == 1
        assert "ZeroDivisionError" in flow.output()
        assert "return 1 // 0" in flow.output()


def test_a_bug_at_a_message_shows_its_traceback_and_then_the_message(
    world: World, tmp_path: Path
) -> None:
    """The last line has partition and offset."""
    module = tmp_path / "buggy.py"
    module.write_text(BUGGY_DECODE)
    world.send(valid(1))
    with Flow(tmp_path / "bug", world.variables, module=("bytewax.run", str(module))) as flow:
        assert flow.wait(LONG) == 1
        assert "return 1 // 0" in flow.output()
        assert "offset 0: decode failed with ZeroDivisionError" in flow.lines()[-1]


def test_the_processes_that_are_left_of_a_cluster_say_why_they_end(
    world: World, tmp_path: Path
) -> None:
    """One line for each, instead of a panic in Rust's words; the one that ended has the reason."""
    with cluster(tmp_path / "cluster", world.variables, [], processes=2) as flows:
        for flow in flows:
            flow.wait_for("source.start", LONG)
        killed, left = flows
        killed.signal(SIGKILL)
        assert left.wait(LONG) == 1
        lines = [line for line in left.lines() if "retrying" not in line]
        assert '"cluster.ended"' in lines[-1]
        assert not any("Traceback" in line or "panic" in line for line in lines)
