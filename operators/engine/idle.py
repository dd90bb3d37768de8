"""Let a worker without work sleep.

Bytewax's workers wake up every millisecond, whatever there is to do (`step_or_park` in its
`worker.rs`), which takes 2 to 3 % of a core. Only a callback that waits makes that less. So a
worker that has had no message for a second, and nothing in flight, waits for the next one in the
source.

Nobody waits for it longer: it never sleeps past the end of its epoch, and while an epoch is being
closed Bytewax does not call the source.
"""

import time
from typing import Final

from operators.engine.epochs import EpochPacer

__all__ = ["IdleWait"]

WAIT_SHARE: Final = 0.05  # of the silence before a message
LEAST, MOST = 0.01, 0.1  # seconds
QUIET_AFTER: Final = 1.0  # seconds without a message
AWAKE: Final = 0.02
"""Seconds before the end of an epoch from which on nobody sleeps. Bytewax looks at the clock before
it calls the source, so a wait in the call that ends an epoch would make that and the next longer.
"""


class IdleWait:
    """How long a worker sleeps in its source."""

    def __init__(self, pacer: EpochPacer) -> None:
        self._pacer = pacer
        self._came = time.monotonic()

    def came(self) -> None:
        """Note that there were messages."""
        self._came = time.monotonic()

    def poll_timeout(self) -> float:
        """How long to wait for the next message, in seconds; 0 if not at all.

        :returns: A twentieth of the silence so far, 10 to 100 ms.

        """
        silence = time.monotonic() - self._came
        if silence < QUIET_AFTER:
            return 0.0
        timeout = min(max(LEAST, WAIT_SHARE * silence), MOST)
        return max(0.0, min(timeout, self._pacer.left() - AWAKE))
