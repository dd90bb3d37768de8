"""See when the stream stores, and when it does not."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

import psycopg

__all__ = ["WATCH", "StalledError", "Watch"]

WATCH: Final = "watch"
"""Name of its database session."""

_LOOK_EVERY: Final = 0.1
_COUNT = "SELECT (SELECT count(*) FROM transactions) + (SELECT count(*) FROM duplicates)"


class StalledError(Exception):
    """Nothing is stored any more although all is well."""


class Watch:
    """Counts the rows ten times a second, in a thread, inside its block.

    :arg url: The database, not through a proxy.

    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self.rows = 0
        """As last seen."""
        self._seen = 0.0

    def next_row(self, rows: int, limit: float, well: Callable[[], bool]) -> float:
        """Wait until there are more rows.

        :arg rows: Than these.

        :arg limit: Seconds, since all was well.

        :arg well: Whether it is; raises if waiting is in vain.

        :returns: When they were seen, by the monotonic clock.

        :raises StalledError: There are none.

        """
        end = time.monotonic() + limit
        with self._changed:
            while self.rows <= rows:
                if not well():
                    end = time.monotonic() + limit
                elif time.monotonic() > end:
                    msg = f"no row in {limit:g} s"
                    raise StalledError(msg)
                self._changed.wait(_LOOK_EVERY)
            return self._seen

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End."""
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_EVERY):
            with (
                suppress(psycopg.Error),
                psycopg.connect(
                    self._url, autocommit=True, connect_timeout=2, application_name=WATCH
                ) as connection,
            ):
                while not self._stop.wait(_LOOK_EVERY):
                    self._look(connection)

    def _look(self, connection: psycopg.Connection[tuple[int]]) -> None:
        row = connection.execute(_COUNT).fetchone()
        if row is not None and row[0] > self.rows:
            with self._changed:
                self.rows, self._seen = row[0], time.monotonic()
                self._changed.notify_all()
