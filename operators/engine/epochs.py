"""Keep the epochs of all workers in step.

A partition may read in an epoch only when every worker has closed the one before. Each worker
closes its epochs a little late, some more than others, so that without care their phases drift
apart, until the quick one reads a single batch in each epoch: the epoch's length is counted from
when *it* closed the last one, and the time is over before the slow one lets it read
(https://github.com/bytewax/bytewax/pull/556).

So a worker that had to wait for the others closes its next epoch later by that time, and then
closes it with them. Only the engine can close an epoch, when it next calls the worker's source
after the epoch's length is over; therefore the partitions of the worker do not wake up before. They
do not read meanwhile, but what they read before goes on. The slowest worker never waits, and
neither does one that is alone.

All partitions of a worker close an epoch in one call of the engine, so one of them is asked.
"""

import time
from datetime import timedelta
from typing import Final

__all__ = ["EpochPacer"]

TOLERANCE: Final = 0.02  # seconds of waiting for others that are left alone
LONGEST: Final = 0.5  # seconds by which an epoch is made longer at most: a stop waits for them
TURN_SHARE: Final = 0.1  # of the newest turn in the mean of all


class EpochPacer:
    """The epochs of one worker; times are those of the monotonic clock."""

    def __init__(self) -> None:
        self._closed: float | None = None
        self._held = False
        self._waited = 0.0
        self._length: float | None = None
        self._turn = 0.0

    def turned(self, seconds: float) -> None:
        """Note how long a turn of the worker took, between two calls of its source."""
        self._turn += TURN_SHARE * (min(seconds, LONGEST) - self._turn)

    def closed(self) -> None:
        """Note that the engine closes the worker's epoch."""
        now = time.monotonic()
        if self._closed is not None and not self._held:
            length = now - self._closed
            self._length = min(length, self._length or length)
        self._closed, self._waited, self._held = now, 0.0, False

    def closed_by_all(self) -> None:
        """Note that every worker has closed the epoch, as the scoring step is notified."""
        if self._closed is not None and not self._waited:
            self._waited = max(0.0, time.monotonic() - self._closed - self._turn)

    def left(self) -> float:
        """Seconds until the epoch should end; 0 if that is over or not known yet."""
        end = self._end()
        return 0.0 if end is None else max(0.0, end - time.monotonic())

    def hold(self) -> timedelta | None:
        """How long the partitions of this worker should not wake up; None if they may."""
        end = self._end()
        if end is None or self._waited < TOLERANCE:
            return None
        now = time.monotonic()
        until = end + min(self._waited, LONGEST)
        if now + 2 * self._turn < end or now >= until:
            return None
        self._held = True
        return timedelta(seconds=until - now)

    def clear_of_end(self, pause: float) -> float:
        """Make a pause longer if it would end where the engine should be held.

        :arg pause: In seconds.

        :returns: The pause, or one to where the epoch is closed in any case.

        """
        left = self.left()
        return left + LONGEST if 0 < left <= pause < left + LONGEST else pause

    def _end(self) -> float | None:
        if self._closed is None or self._length is None:
            return None
        return self._closed + self._length
