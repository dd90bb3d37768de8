"""The wish to stop, and how long ago it came."""

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
        self._at: float | None = None

    def request(self) -> None:
        """Ask for the end; may be called from a signal handler, so it takes no lock."""
        if self._at is None:
            self._at = time.monotonic()

    @property
    def requested(self) -> bool:
        """Whether the end was asked for."""
        return self._at is not None

    def overdue(self, share: float = 1.0) -> bool:
        """Whether the end was asked for longer ago than this share of the limit."""
        return self._at is not None and time.monotonic() - self._at > share * self._limit
