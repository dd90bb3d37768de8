"""How many requests may be in flight: as many as the service carries.

The limit grows as TCP's window does, with latency as a signal beside refusals, as in Netflix's
concurrency-limits and Vector's adaptive request concurrency:

- *Slow start* (RFC 5681, 3.1). The limit is doubled until the first sign that the service carries
  no more. A sign halves it, which takes the last doubling back. The name is TCP's: it is slow only
  beside a start with all requests at once.
- *Additive increase, multiplicative decrease* (Chiu and Jain, 1989) from then on. The limit grows
  by one, and shrinks by a tenth where answers become slow.
- A refusal for overload (429, 503) or a time-out halves it, once for each round trip.

A window is as many full batches as may be in flight, ten at least. At its end the limit grows if it
was reached, unless the median latency is more than `TOLERANCE` times the *baseline*: that of a
service that has little to do. A median, so that a slow tail is no sign.

Only full batches are compared: a small one is quicker for reasons of its own. But where none is
full, transactions wait for a request that could be in flight. So small ones that meet the limit let
it grow too, up to `PARTIAL_REQUESTS`.
"""

import statistics
import time
from collections.abc import Callable
from typing import Final

__all__ = ["FIRST", "PARTIAL_REQUESTS", "WINDOW", "Limiter"]

TOLERANCE: Final = 3.0
FIRST: Final = 2  # low, so that the first latencies are the baseline
WINDOW: Final = 10  # samples at least
PARTIAL_REQUESTS: Final = 4
"""With as many in flight, one more has to be full: enough to keep the model busy, few enough that a
backlog gathers into full batches."""


class Limiter:
    """The number of requests that may be in flight, between 1 and `most`.

    :arg most: Highest limit.

    :arg adaptive: Whether it moves; if not, it is the highest always.

    :arg clock: Gives monotonic seconds.

    """

    def __init__(
        self, most: int, *, adaptive: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most, self._adaptive, self._clock = most, adaptive, clock
        self._limit = float(min(FIRST, most) if adaptive else most)
        self._slow_start = True
        self._latencies: list[float] = []
        self._small = 0
        self._reached = False
        self._baseline: float | None = None
        self._halved_at = 0.0

    @property
    def limit(self) -> int:
        """How many requests may be in flight now."""
        return int(self._limit)

    def succeeded(self, seconds: float, *, in_flight: int, full: bool) -> None:
        """Learn from a batch that was answered.

        :arg seconds: How long that took.

        :arg in_flight: Requests that were in flight when it was sent, itself included.

        :arg full: Whether it was as large as batches may be.

        """
        if not self._adaptive:
            return
        reached = in_flight >= self.limit
        if full:
            self._latencies.append(seconds)
            self._reached = self._reached or reached
            if len(self._latencies) >= max(WINDOW, self.limit):
                self._judge(statistics.median(self._latencies))
                self._begin_window()
        elif reached and self.limit < PARTIAL_REQUESTS:
            self._small += 1
            if self._small == WINDOW:
                self._grow()
                self._begin_window()

    def overloaded(self) -> None:
        """Learn from a refusal for overload, or a time-out."""
        now = self._clock()
        if self._adaptive and now - self._halved_at > (self._baseline or 0.0):
            self._halved_at = now
            self._halve()
            self._begin_window()

    def restart(self) -> None:
        """Begin again: the service was down, and comes back cold."""
        if self._adaptive:
            self._limit = float(min(FIRST, self._most))
            self._slow_start = True
            self._begin_window()

    def _begin_window(self) -> None:
        self._latencies.clear()
        self._small, self._reached = 0, False

    def _judge(self, median: float) -> None:
        baseline = self._baseline
        # Alone in the service, a request is as quick as it will be: a service that became slower
        # for good lowers the limit to one, is measured again, and gets more again.
        alone = self.limit == 1
        self._baseline = median if baseline is None or alone else min(baseline, median)
        if baseline is not None and median > TOLERANCE * baseline and not alone:
            self._shrink()
        elif self._reached:
            self._grow()

    def _grow(self) -> None:
        grown = self._limit * 2 if self._slow_start else self._limit + 1
        self._limit = min(grown, float(self._most))

    def _shrink(self) -> None:
        if self._slow_start:
            self._halve()
        else:
            self._limit *= 0.9

    def _halve(self) -> None:
        self._slow_start = False
        self._limit = max(1.0, self._limit / 2)
