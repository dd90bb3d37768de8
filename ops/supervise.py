"""Run a command as a container's first process, and start it again when it fails.

    python -m ops.supervise python -m bytewax.run dataflow …

When one process of a cluster ends, all others end with 1. Kubernetes starts containers again after
a pause that grows with every time, up to minutes; here it is seconds. After 10 failures in a row
this ends too, with the command's exit code, so that what does not heal by itself is seen.

SIGTERM and SIGINT are passed on, and after the first the command is not started again. A command
that is alive and does nothing is not this module's task: a liveness probe looks after that.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

__all__ = ["Limits", "supervise"]

_ENDINGS: Final = {signal.SIGTERM, signal.SIGINT}
_HEARD: Final = _ENDINGS | {signal.SIGCHLD}


@dataclass(frozen=True)
class Limits:
    """How often and how soon a command is started again."""

    failures: int = 10
    """In a row, after which there is no further start."""
    pause: timedelta = timedelta(seconds=1)
    """Before the first start that follows a failure; doubled before each further one."""
    longest_pause: timedelta = timedelta(seconds=10)
    healthy: timedelta = timedelta(seconds=30)
    """A run that lasted longer begins a new row. More than a start that fails: `START_TIMEOUT`."""


def supervise(command: Sequence[str], *, limits: Limits | None = None) -> int:
    """Run a command until it ends well, is told to end, or has failed too often.

    The signals of the calling thread stay blocked: this is all that its process does.

    :arg command: Program and arguments.

    :arg limits: Of its starts.

    :returns: Exit code of the last run; 128 and the signal's number if a signal ended it.

    """
    limits = limits or Limits()
    # Blocked, signals wait until they are asked for, so none falls between two lines.
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    failures = 0
    while True:
        began = time.monotonic()
        code, told = _run(command)
        if code == 0 or told:
            return code
        lasted = timedelta(seconds=time.monotonic() - began)
        failures = 1 if lasted > limits.healthy else failures + 1
        if failures >= limits.failures:
            _log("supervise.gave_up", exit_code=code, failures=failures)
            return code
        pause = min(limits.pause * 2 ** (failures - 1), limits.longest_pause)
        _log(
            "supervise.restart",
            exit_code=code,
            failures=failures,
            pause_seconds=pause.total_seconds(),
        )
        if _told_within(pause):
            return code


def _run(command: Sequence[str]) -> tuple[int, bool]:
    """Run it once: its exit code, and whether it was told to end."""
    # The mask is inherited, and the command has to hear signals. There is one thread here. In a
    # group of its own, or it would hear Ctrl-C twice, from the terminal and from here.
    child = subprocess.Popen(command, preexec_fn=_unblock, process_group=0)  # noqa: PLW1509
    told = False
    while (status := child.poll()) is None:
        number = signal.sigwait(_HEARD)
        if number in _ENDINGS:
            told = True
            child.send_signal(number)
    return (status if status >= 0 else 128 - status), told


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)


def _told_within(pause: timedelta) -> bool:
    # SIGCHLD of the last run may still be pending, so it is not among these.
    return signal.sigtimedwait(_ENDINGS, pause.total_seconds()) is not None


def _log(event: str, **fields: Any) -> None:
    """Write a line as the stream's own are with `LOG_FORMAT=json`."""
    line = {
        "event": event,
        **fields,
        "level": "warning",
        "timestamp": datetime.now(UTC).isoformat(),
    }
    print(json.dumps(line), file=sys.stderr, flush=True)


if __name__ == "__main__":
    if sys.argv[1:] in (["--help"], ["-h"]):
        print(__doc__)
        sys.exit()
    if len(sys.argv) == 1:
        sys.exit("usage: python -m ops.supervise COMMAND [ARGUMENT]…")
    sys.exit(supervise(sys.argv[1:]))
