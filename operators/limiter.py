"""How many requests may be in flight: as many as the service carries.

Additive increase, multiplicative decrease, as TCP does it (Chiu and Jain, 1989), with latency as a
signal beside refusals, as Netflix's concurrency-limits and Vector's adaptive request concurrency:

- A window is as many batches as may be in flight. At its end the limit grows by one if it was
  reached, unless the median latency is more than `TOLERANCE` times that of an unhurried service;
  then it shrinks by a tenth. A median, so that a slow tail is no signal.
- A refusal for overload (429, 503) or a time-out halves the limit, once for each round trip.

Only the latencies of full batches are compared: a small one is quicker for reasons of its own. But
where the limit is reached with small ones too, transactions wait that need not, so they let it
grow: by no more than the scoring step sends of them at once. The first full ones, with which all
later are compared, meet a low limit again.
"""

import statistics
import time
from typing import Final

__all__ = ["Limiter"]

TOLERANCE: Final = 3.0
FIRST: Final = 2  # low, so that the first latencies are those of an unhurried service
WINDOW: Final = 10  # samples at least


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
        if full and self._unhurried is None and not self._latencies:
            self._limit = min(self._limit, FIRST)
        self._reached = self._reached or in_flight >= self.limit
        if full:
            self._latencies.append(seconds)
        else:
            self._small += 1
        window = max(WINDOW, self.limit)
        if len(self._latencies) >= window:
            self._judge(statistics.median(self._latencies))
        elif self._small >= window:
            self._grow()
        else:
            return
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
        else:
            self._grow()

    def _grow(self) -> None:
        if self._reached:
            self._limit = min(float(self._most), self._limit + 1)
