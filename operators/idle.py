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

from operators.pacing import Pace

__all__ = ["NAP", "QUIET_AFTER", "Idle"]

QUIET_AFTER: Final = 1.0  # seconds without a message
NAP: Final = 0.05  # seconds; for so long a message of another partition may wait
SHORTEST: Final = 0.002  # seconds that are worth a wait


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

    def nap(self, partition: str) -> float:
        """How long to wait for the next message of a partition, in seconds; 0 if not at all.

        :arg partition: Which asks. The first that does is taken, if none had a message so far.

        :returns: For a worker that has nothing in hand.

        """
        if self._partition is None:
            self._partition = partition
        if partition != self._partition or time.monotonic() - self._came < QUIET_AFTER:
            return 0.0
        span = min(NAP, self._pace.left())
        return span if span > SHORTEST else 0.0
