"""The wish to stop, and how long ago it came."""

import threading
import time
from datetime import timedelta

__all__ = ["Stop"]


class Stop:
    """A request to end the stream, which every step that waits looks at.

    Sources end at once. Scoring finishes what is in flight for half of the limit, and leaves the
    rest to the snapshot or the consumer group. Sinks have until the limit; then the stream fails
    rather than hang.

    :arg limit: How long an end in good order may take.

    """

    def __init__(self, limit: timedelta) -> None:
        self._limit = limit.total_seconds()
        self._event = threading.Event()
        self._at = 0.0

    def request(self) -> None:
        """Ask for the end; may be called from a signal handler."""
        if not self._event.is_set():
            self._at = time.monotonic()
            self._event.set()

    @property
    def requested(self) -> bool:
        """Whether the end was asked for."""
        return self._event.is_set()

    def overdue(self, share: float = 1.0) -> bool:
        """Whether the end was asked for longer ago than this share of the limit."""
        return self.requested and time.monotonic() - self._at > share * self._limit
