"""End the process when its wall clock is set back.

Bytewax looks at partitions again, calls steps again and ends epochs at times of the wall clock.
When that is set back it waits until those times have come again, and nothing wakes it: for as long
no epoch ends, a partition that had nothing to read is not read, and SIGTERM is not followed.
librdkafka's threads wait in the same way. So the process ends, as by a kill, and its supervisor
starts it again, which takes seconds and loses nothing. A clock that is set forward wakes everything
once too early, which does no harm.
"""

import os
import threading
import time
from datetime import timedelta
from typing import Final

from telemetry import log

__all__ = ["watch"]

LIMIT: Final = timedelta(seconds=2)
"""By which the clock may go back at once: as long the stream pauses. A leap second is less."""

LOOK_EVERY: Final = 0.5  # seconds


def watch() -> None:
    """Watch the wall clock for as long as this process lives."""
    threading.Thread(target=_watch, name="clock", daemon=True).start()


def _watch() -> None:
    # How far the wall clock is ahead of the monotonic one. Time can pass between the looks at both,
    # and this thread be frozen there, so it is known to lie between two bounds.
    least, _ = _ahead()
    while True:
        time.sleep(LOOK_EVERY)
        before = least
        least, most = _ahead()
        back = before - most
        if back > LIMIT.total_seconds():
            try:
                log.error("clock.set_back", seconds=round(back, 1))
            finally:  # standing still would be worse than an end without a word
                os._exit(1)


def _ahead() -> tuple[float, float]:
    before = time.monotonic()
    wall = time.time()
    return wall - time.monotonic(), wall - before
