"""Let a worker without work sleep.

Bytewax's workers wake up every millisecond, whatever there is to do (`step_or_park` in its
`worker.rs`), which takes 2 to 3 % of a core. Only a callback that waits makes that less. So a
worker that has had no message for a second, and nothing in hand, waits for the next one in the
source: on the partition that had the last one. Between two such waits it looks at the others.

Nobody waits for it longer: it never sleeps past the end of its epoch, and while an epoch is being
closed Bytewax does not call the source.
"""

import time
from typing import Final

from operators.engine.epochs import Pace

__all__ = ["Idle", "patience"]

WAIT_SHARE: Final = 0.05  # of the silence before a message
LEAST, MOST = 0.01, 0.1  # seconds
QUIET_AFTER: Final = 1.0  # seconds without a message
AWAKE: Final = 0.02
"""Seconds before the end of an epoch from which on nobody sleeps. Bytewax looks at the clock before
it calls the source, so a nap in the call that ends an epoch would make that and the next longer."""


def patience(silence: float) -> float:
    """How long a message may wait until it is seen, if there was none before.

    :arg silence: For how long, in seconds.

    :returns: A twentieth of that, 10 to 100 ms; in seconds.

    """
    return min(max(LEAST, WAIT_SHARE * silence), MOST)


class Idle:
    """When and on which partition a worker sleeps.

    :arg pace: Of the worker's epochs.

    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._partition: str | None = None
        self._came = time.monotonic()

    def came(self, partition: str) -> None:
        """Note that a partition had messages."""
        self._partition, self._came = partition, time.monotonic()

    def is_watched(self, partition: str) -> bool:
        """Whether a worker that sleeps does so on this partition."""
        return partition == self._partition

    def nap(self, partition: str) -> float:
        """How long to wait for the next message of a partition, in seconds; 0 if not at all.

        :arg partition: Which asks. The first that does is taken, if none had a message so far.

        :returns: For a worker that has nothing in hand.

        """
        if self._partition is None:
            self._partition = partition
        silence = time.monotonic() - self._came
        if not self.is_watched(partition) or silence < QUIET_AFTER:
            return 0.0
        return max(0.0, min(patience(silence), self._pace.left() - AWAKE))
