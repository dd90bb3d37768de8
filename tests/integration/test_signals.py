"""SIGTERM and SIGINT, whatever the process is doing when they come."""

import array
import fcntl
import subprocess
import sys
import termios
from signal import SIGINT, SIGTERM, Signals

import pytest

from ops.servers import wait_until
from tests.support import CHECKOUT

LIMIT = 20  # seconds
PIPE = 4_096  # bytes that it holds

BEGIN = f"""
import sys
from datetime import timedelta
import dataflow
from operators.stop import Stop
from telemetry import Health, Progress, log, log_to_stderr

log_to_stderr("text", "INFO")
limit = timedelta(seconds={LIMIT})
stop = Stop(limit)
health = Health(Progress(), workers=1, live_timeout=limit, epoch_timeout=limit)
"""
# A line that does not fit into the pipe: the process hangs in the middle of it.
END = f"""
log.warning({"x" * 10 * PIPE!r})
sys.exit(0 if stop.requested and not health.ready()[0] else 3)
"""


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
@pytest.mark.parametrize("handlers", ["_end_on_signals()", "_stop_on_signals(stop, health)"])
def test_a_signal_in_the_middle_of_a_line_of_the_log_is_heard(
    number: Signals, handlers: str
) -> None:
    """While the stream is starting, and while it runs and who reads the log is slow."""
    child = subprocess.Popen(  # noqa: S603 - the code above
        [sys.executable, "-c", f"{BEGIN}dataflow.{handlers}{END}"],
        cwd=CHECKOUT,
        env={},
        stderr=subprocess.PIPE,
        pipesize=PIPE,
    )
    with child:
        try:
            assert child.stderr is not None
            pipe = child.stderr
            waiting = array.array("i", [0])

            def is_full() -> bool:
                fcntl.ioctl(pipe, termios.FIONREAD, waiting)
                return waiting[0] == PIPE

            wait_until(is_full)
            child.send_signal(number)
            child.communicate(timeout=LIMIT)
        finally:
            child.kill()
    assert child.returncode == 0
