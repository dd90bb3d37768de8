"""`python -m ops.supervise`: signals, exit codes, starts after a failure, with real processes."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, Signals

import pytest

from lab.servers import wait_until
from tests.kit.checkout import CHECKOUT

LIMIT = 20
QUICK = """
import sys
from datetime import timedelta
from ops.supervise import Limits, supervise
milliseconds = [timedelta(milliseconds=float(each)) for each in sys.argv[2:5]]
limits = Limits(int(sys.argv[1]), *milliseconds)
sys.exit(supervise(sys.argv[5:], limits=limits))
"""
"""A supervisor with other limits: failures, then pause, longest pause and healthy in ms."""

NOTE = "import os, pathlib, sys; pathlib.Path(sys.argv[1]).open('a').write(f'{os.getpid()}\\n');"
WAITS = f"{NOTE} import time; time.sleep(60)"
ENDS_WELL_WHEN_TOLD = """
import signal
def end(number, frame):
    print('heard', number, flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
"""


class Supervised:
    """A supervisor and what it runs: a text of Python that notes its process id at every start."""

    def __init__(self, folder: Path, code: str, *, limits: tuple[float, ...] | None) -> None:
        self.notes = folder / "started"
        self.log = folder / "log"
        quick = [] if limits is None else ["-c", QUICK, *map(str, limits)]
        module = ["-m", "ops.supervise"] if limits is None else quick
        command = [sys.executable, *module, sys.executable, "-c", code, str(self.notes)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 - a test's own
                command, cwd=CHECKOUT, stdout=log, stderr=subprocess.STDOUT
            )

    def started(self) -> list[int]:
        """Process ids of all starts so far."""
        return [int(line) for line in self.notes.read_text().split()] if self.notes.exists() else []

    def wait_for_starts(self, count: int) -> list[int]:
        """Wait until it was started so often."""
        wait_until(lambda: len(self.started()) >= count, what=f"{count} starts")
        return self.started()

    def end(self) -> int:
        """Wait for the supervisor's own end: its exit code."""
        return self.process.wait(LIMIT)


Supervise = Callable[..., Supervised]


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Supervise]:
    """Start a supervisor with quick limits: `supervise(code, limits=(10, 10, 20, 60_000))`."""
    made: list[Supervised] = []

    def start(code: str, *, limits: tuple[float, ...] | None = (10, 10, 20, 60_000)) -> Supervised:
        made.append(Supervised(tmp_path, code, limits=limits))
        return made[-1]

    yield start
    for each in made:
        each.process.kill()
        each.process.wait()
        for pid in each.started():
            _kill(pid)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, SIGKILL)
    except ProcessLookupError:
        return


def test_an_end_that_went_well_is_the_end(supervise: Supervise) -> None:
    """Exit code 0 is not started again."""
    supervised = supervise(NOTE)
    assert supervised.end() == 0
    assert len(supervised.started()) == 1


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_a_signal_reaches_the_command(supervise: Supervise, number: Signals) -> None:
    """Its own handler runs, and its exit code is the supervisor's."""
    code = f"import sys; {ENDS_WELL_WHEN_TOLD}\n{WAITS}"
    supervised = supervise(code, limits=None)
    supervised.wait_for_starts(1)
    supervised.process.send_signal(number)
    assert supervised.end() == 0
    assert f"heard {int(number)}" in supervised.log.read_text()
    assert len(supervised.started()) == 1


def test_a_command_that_was_told_to_end_is_not_started_again(supervise: Supervise) -> None:
    """Even when it ends with another code than 0, which is then the supervisor's."""
    supervised = supervise(WAITS)
    supervised.wait_for_starts(1)
    supervised.process.send_signal(SIGTERM)
    assert supervised.end() == 128 + SIGTERM
    assert len(supervised.started()) == 1


def test_a_killed_command_is_started_again(supervise: Supervise) -> None:
    """After a second, by default, and with a line that says so."""
    supervised = supervise(WAITS, limits=None)
    [first] = supervised.wait_for_starts(1)
    os.kill(first, SIGKILL)
    second = supervised.wait_for_starts(2)[1]
    assert second != first
    assert supervised.process.poll() is None
    log = supervised.log.read_text()
    assert '"event": "supervise.restart", "exit_code": 137, "failures": 1' in log
    assert '"pause_seconds": 1.0' in log


def test_what_fails_again_and_again_ends_with_its_exit_code(supervise: Supervise) -> None:
    """After so many failures in a row, with growing pauses between them."""
    supervised = supervise(f"{NOTE} sys.exit(7)", limits=(4, 10, 20, 60_000))
    assert supervised.end() == 7
    assert len(supervised.started()) == 4
    log = supervised.log.read_text()
    assert [log.count(f'"pause_seconds": {pause}') for pause in (0.01, 0.02)] == [1, 2]
    assert "supervise.gave_up" in log


def test_a_run_that_lasted_begins_a_new_row(supervise: Supervise) -> None:
    """Failures that lie far apart never add up."""
    supervised = supervise(f"{NOTE} sys.exit(7)", limits=(2, 10, 20, 0))
    supervised.wait_for_starts(5)
    assert supervised.process.poll() is None


def test_a_signal_during_a_pause_ends_it(supervise: Supervise) -> None:
    """At once, and without another start."""
    hour = timedelta(hours=1) / timedelta(milliseconds=1)
    supervised = supervise(f"{NOTE} sys.exit(7)", limits=(10, hour, hour, 60_000))
    wait_until(lambda: "supervise.restart" in supervised.log.read_text(), what="the pause")
    supervised.process.send_signal(SIGTERM)
    assert supervised.end() == 7
    assert len(supervised.started()) == 1


def test_the_command_does_not_inherit_blocked_signals(supervise: Supervise) -> None:
    """Or it would never hear SIGTERM, nor of the end of its own children."""
    code = f"{NOTE} import signal; sys.exit(len(signal.pthread_sigmask(signal.SIG_BLOCK, [])))"
    assert supervise(code).end() == 0
