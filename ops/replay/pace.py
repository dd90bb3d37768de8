"""How fast a replay goes."""

import time
from collections.abc import Callable
from typing import Final

__all__ = ["Pace"]

LARGEST: Final = 100  # messages in a transaction; it is open for some 10 ms
A_SECOND: Final = 10  # transactions, if the rate allows less than the largest


class Pace:
    """Divides a rate into transactions and the pauses between them.

    It never catches up: after a delay it goes on at its rate.

    :arg rate: Messages a second.

    :arg wait: Pauses for seconds, or less if the replay is to stop.

    :arg clock: Seconds.

    """

    def __init__(
        self,
        rate: float,
        *,
        wait: Callable[[float], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.at_once = max(1, min(LARGEST, int(rate / A_SECOND)))
        self._rate, self._wait, self._clock = rate, wait, clock
        self._next = clock()

    def keep(self, count: int) -> None:
        """Wait until so many messages may go.

        :arg count: How many go next.

        """
        pause = self._next - self._clock()
        if pause > 0:
            self._wait(pause)
        self._next = max(self._next, self._clock()) + count / self._rate
