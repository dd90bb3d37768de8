"""The wish to stop, and how long ago it came."""

import time
from datetime import timedelta
from typing import Final

__all__ = ["Stop"]

DRAIN_SHARE: Final = 0.5


class Stop:
    """A request to end the stream, which whoever waits looks at.

    The source reads no more, waits until what is in hand is done, commits, and ends. When that
    takes longer than `DRAIN_SHARE` of the limit, or the model is down, what is left will be read
    again by the next run. The rest of the limit is for the last commit and the engine's own end.

    :arg limit: How long a graceful end may take.

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

    def gives_up(self, is_hopeless: bool) -> bool:  # noqa: FBT001 - the only argument
        """Whether what is in hand is left to the next run.

        :arg is_hopeless: Whether it cannot be done soon.

        """
        if self._at is None:
            return False
        return is_hopeless or time.monotonic() - self._at > DRAIN_SHARE * self._limit
