"""How many rows are written as one transaction.

A database may be slow, and everything between the stream and it may have limits of its own: the
stream, the server, a pooler, somebody who ends what takes too long. So a write that fails is made
smaller until it passes, and grows again by a tenth with each that passes in good time.
"""

from typing import Final

__all__ = ["WRITE_ROWS", "WriteSize"]

WRITE_ROWS: Final = 4_000  # at most; with half of it the stream waits longer
GOOD_TIME: Final = 0.5  # of the limit of one write


class WriteSize:
    """The size of the next write.

    :arg limit: Of one write, in seconds.

    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self.rows = WRITE_ROWS

    def failed(self, rows: int) -> None:
        """Note that a write of so many rows did not come to an end."""
        self.rows = max(1, rows // 2)

    def passed(self, rows: int, seconds: float) -> None:
        """Note that one did.

        :arg seconds: That it took.

        """
        if rows >= self.rows and seconds < GOOD_TIME * self._limit:
            self.rows = min(WRITE_ROWS, self.rows + 1 + self.rows // 10)
