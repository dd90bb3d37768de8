"""How many requests may be in flight: as many as the service carries.

Additive increase, multiplicative decrease, as TCP does it (Chiu and Jain, 1989), with latency as a
signal beside refusals, as Netflix's concurrency-limits and Vector's adaptive request concurrency:

- A window is as many full batches as may be in flight. At its end the limit grows by one if it was
  reached, unless the median latency is more than `TOLERANCE` times that of an unhurried service;
  then it shrinks by a tenth. A median, so that a slow tail is no signal.
- A refusal for overload (429, 503) or a time-out halves the limit, once for each round trip.

Only full batches are compared: a small one is quicker for reasons of its own. But where none is
full, transactions wait for a request that could be in flight. So small ones that meet the limit let
it grow too, up to `PARTIAL_REQUESTS`.
"""

import statistics
import time
from typing import Final

__all__ = ["PARTIAL_REQUESTS", "Limiter"]

TOLERANCE: Final = 3.0
FIRST: Final = 2  # low, so that the first latencies are those of an unhurried service
WINDOW: Final = 10  # samples at least
PARTIAL_REQUESTS: Final = 4
"""With as many in flight, one more has to be full: enough to keep the model busy, few enough that a
backlog gathers into full batches."""


class Limiter:
    """The number of requests that may be in flight, between 1 and `most`.

    :arg most: Highest limit.

    :arg adaptive: Whether it moves; if not, it is the highest always.

    """

    def __init__(self, most: int, *, adaptive: bool) -> None:
        self._most, self._adaptive = most, adaptive
        self._limit = float(min(FIRST, most) if adaptive else most)
        self._latencies: list[float] = []
        self._small = 0
        self._reached = False
        self._unhurried: float | None = None
        self._halved = 0.0

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
        now = time.monotonic()
        if self._adaptive and now - self._halved > (self._unhurried or 0.0):
            self._halved = now
            self._begin_window()
            self._limit = max(1.0, self._limit / 2)

    def restart(self) -> None:
        """Begin anew: the service was down, and comes back cold."""
        if self._adaptive:
            self._limit = float(min(FIRST, self._most))
            self._begin_window()

    def _begin_window(self) -> None:
        self._latencies.clear()
        self._small, self._reached = 0, False

    def _judge(self, median: float) -> None:
        known = self._unhurried
        # Alone in the service, a request is as quick as it will be: a service that became slower
        # for good lowers the limit to one, is measured anew, and gets more again.
        alone = self.limit == 1
        self._unhurried = median if known is None or alone else min(known, median)
        if known is not None and median > TOLERANCE * known and not alone:
            self._limit *= 0.9
        elif self._reached:
            self._grow()

    def _grow(self) -> None:
        self._limit = min(float(self._most), self._limit + 1)
