"""The demo: it proves what it claims, and leaves nothing behind."""

import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from lab.servers import wait_until

_CHECKOUT = Path(__file__).resolve().parents[2]

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the demo makes its own; not below pytest's, which PostgreSQL's user may not enter."""
    with tempfile.TemporaryDirectory(prefix="demo-test-") as name:
        yield Path(name)


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Start the demo in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(arguments: str) -> "subprocess.Popen[str]":
        program = f"from lab.demo import demo; raise SystemExit(demo({arguments}))"
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-c", program],
            cwd=_CHECKOUT,
            env={"TMPDIR": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _left(folder: Path) -> list[str]:
    """What is still there: folders, and processes that were given a path below."""
    processes = [
        " ".join(process.info["cmdline"])
        for process in psutil.process_iter(["cmdline"])
        if any(str(folder) in argument for argument in process.info["cmdline"] or [])
    ]
    return processes + [str(path) for path in folder.glob("fraud-scoring-demo-*")]


def test_every_message_ends_in_exactly_one_place(start: Start, folder: Path) -> None:
    """Exit code 0 says so, and nothing is left."""
    process = start("count=1_000")

    output, _ = process.communicate(timeout=90)

    assert process.returncode == 0, output
    assert "All 1,000 messages ended in exactly one place, each in the right one." in output
    assert _left(folder) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("server", ["initdb", "postgres -D", "bytewax.run"])
def test_a_signal_ends_everything(
    start: Start, folder: Path, server: str, number: signal.Signals
) -> None:
    """While it starts or while it runs: no process and no file stays."""
    process = start("count=100_000")
    wait_until(
        lambda: any(server in line for line in _left(folder)),
        timedelta(seconds=60),
        what=f"{server} to start",
    )

    process.send_signal(number)
    output, _ = process.communicate(timeout=60)

    assert process.returncode == 128 + number, output
    assert _left(folder) == []


def test_a_failure_keeps_the_logs(start: Start, folder: Path) -> None:
    """And shows the end of the one that matters: here the flow gives up on the model."""
    process = start("count=200, fault='status,code=401'")

    output, _ = process.communicate(timeout=90)

    assert process.returncode == 1, output
    assert "ML_API" in output
    (kept,) = folder.glob("fraud-scoring-demo-*")
    assert (kept / "flow" / "flow.log").exists()
