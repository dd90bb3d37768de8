"""Write scored transactions to PostgreSQL: both tables in one transaction, each message once.

`operators.postgres.sql` says what becomes of a row. A row that the database alone refuses, and one
in conflict with what is stored, is a dead letter; to find the former the batch is cut in halves.
Errors that may pass are retried (see `operators.postgres.session`), and so is a transaction after
which not every row has its place; any other error stops the stream.
"""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Final, Protocol

import psycopg

from operators.engine.loop import EventLoop
from operators.engine.positions import finish
from operators.postgres.session import Session, describe
from operators.postgres.tables import Merged, UnaccountedError, merge
from operators.records import Failure, Message, Scored
from telemetry import Progress, log, metrics, tracing

__all__ = ["DeadLetters", "RowWriter"]

WRITE_ROWS: Final = 4_000  # in one transaction, at most; with half of it the stream waits longer
PAUSES: Final = (0.1, 0.5, 1.0, 2.0)  # seconds before a transaction that did not add up is repeated
SERIALISATION: Final = "40"  # what it is counted as: two transactions that got in each other's way


class DeadLetters(Protocol):
    """Where a row goes that is not stored."""

    def put(self, failures: list[Failure]) -> None:
        """Take failures; whoever does so finishes their messages."""

    def has(self, message: Message) -> bool:
        """Whether a predecessor has made a dead letter of a message."""


class RowWriter:
    """Writes the scored transactions of one worker, in the background.

    What is waiting is written as one database transaction, again and again until nothing waits. A
    message is finished when the transaction with its row is committed.

    :arg loop: Of this worker. It raises what stops the writer.

    :arg dead_letters: For rows that are refused.

    :arg pauses: Before each repetition of a transaction that did not add up; then it stops.

    """

    def __init__(
        self,
        session: Session,
        *,
        loop: EventLoop,
        dead_letters: DeadLetters,
        progress: Progress,
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        self._session, self._loop = session, loop
        self._dead_letters, self._progress = dead_letters, progress
        self._pauses = pauses
        self._waiting: list[Scored] = []
        self._is_writing = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is being written; never again after an error."""
        return not self._is_writing

    def write(self, rows: Sequence[Scored]) -> None:
        """Take rows, without waiting."""
        self._waiting.extend(rows)
        if self._waiting and not self._is_writing:
            self._is_writing = True
            self._loop.start(self._drain())

    async def _drain(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            for first in range(0, len(waiting), WRITE_ROWS):
                await self._place(waiting[first : first + WRITE_ROWS])
        self._is_writing = False

    async def _place(self, rows: list[Scored]) -> None:
        has = self._dead_letters.has
        missing = [row for row in rows if not has(row.message)]
        if len(missing) < len(rows):
            finish(row.message for row in rows if has(row.message))
        if missing:
            await self._store(missing)

    async def _store(self, rows: list[Scored]) -> None:
        started = time.monotonic()
        try:
            with tracing.writing(rows):
                merged = await self._merge(rows)
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            await self._refuse(rows, error)
        except psycopg.Error as error:
            raise self._session.stopped(describe(error)) from None
        else:
            metrics.WRITE_DURATION.observe(time.monotonic() - started)
            metrics.WRITE_ROWS.observe(len(rows))
            self._progress.committed([row.message.timestamp for row in rows])
            self._progress.count("stored", merged.stored)
            self._progress.count("duplicates", merged.duplicates)
            if merged.conflicts:
                self._dead_letters.put([_conflict(rows[at]) for at in sorted(merged.conflicts)])
                rows = [row for at, row in enumerate(rows) if at not in merged.conflicts]
            finish(row.message for row in rows)

    async def _merge(self, rows: list[Scored]) -> Merged:
        """Write rows until each has its place."""
        for attempt, pause in enumerate(self._pauses, start=1):
            try:
                return await self._session.run(partial(merge, rows))
            except UnaccountedError as error:
                metrics.DATABASE_RETRIES.labels(SERIALISATION).inc()
                log.warning("postgres.retry", reason=str(error), attempt=attempt, pause=pause)
            await asyncio.sleep(pause)
        try:
            return await self._session.run(partial(merge, rows))
        except UnaccountedError as error:
            raise self._session.stopped(str(error)) from None

    async def _refuse(self, rows: list[Scored], error: psycopg.Error) -> None:
        if len(rows) > 1:
            middle = len(rows) // 2
            await self._store(rows[:middle])
            await self._store(rows[middle:])
            return
        text = f"transaction: the database refuses it: {describe(error)}"
        code = f"sqlstate.{error.sqlstate}"
        [row] = rows
        failure = Failure(row.message, "persist", "rejected", code, text, trace=row.trace)
        self._dead_letters.put([failure])


def _conflict(row: Scored) -> Failure:
    error = "id: a transaction with this id and other content is stored already"
    return Failure(row.message, "persist", "conflict", "id.conflict", error, trace=row.trace)
