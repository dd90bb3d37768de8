"""SIGTERM and SIGINT, whatever the process is doing when they come."""

import array
import fcntl
import subprocess
import sys
import termios
from datetime import timedelta
from signal import SIGINT, SIGTERM, Signals

import pytest

from lab.servers import wait_until
from tests.kit.checkout import CHECKOUT

LIMIT = 20  # seconds

BEGIN = f"""
import sys
from datetime import timedelta
import startup
from operators.engine.shutdown import Stop
from telemetry import Health, Progress, log, log_to_stderr

log_to_stderr("text", "INFO")
limit = timedelta(seconds={LIMIT})
stop = Stop(limit)
health = Health(Progress(), workers=1, live_timeout=limit, epoch_timeout=limit)
"""
# A line that does not fit into the pipe: the process hangs in the middle of it.
LINE = """
log.warning("x" * 1_000_000)
"""
STARTING = "startup._end_on_signals()" + LINE
RUNNING = f"""
reporter = startup._stop_on_signals(stop, health)
{LINE}
reporter.join({LIMIT})
sys.exit(0 if stop.requested and not health.ready()[0] else 3)
"""


@pytest.mark.skipif(not hasattr(fcntl, "F_GETPIPE_SZ"), reason="only Linux tells a pipe's size")
@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
@pytest.mark.parametrize(("code", "told"), [(STARTING, False), (RUNNING, True)])
def test_a_signal_in_the_middle_of_a_line_of_the_log_is_heard(
    number: Signals,
    code: str,
    told: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """While the stream is starting, and while it runs and who reads the log is slow."""
    child = subprocess.Popen(  # noqa: S603 - the code above
        [sys.executable, "-c", BEGIN + code],
        cwd=CHECKOUT,
        env={},
        stderr=subprocess.PIPE,
    )
    with child:
        try:
            assert child.stderr is not None
            pipe = child.stderr
            size = fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
            waiting = array.array("i", [0])

            def is_full() -> bool:
                fcntl.ioctl(pipe, termios.FIONREAD, waiting)
                return waiting[0] == size

            wait_until(is_full, timedelta(seconds=LIMIT), what="a full pipe")
            child.send_signal(number)
            _, output = child.communicate(timeout=LIMIT)
        finally:
            child.kill()
    assert child.returncode == 0
    assert not told or f"signal={number.name}".encode() in output
