"""Write scored transactions to PostgreSQL: both tables in one transaction, each message once.

`operators.postgres.sql` says what becomes of a row. One in conflict with what is stored is a dead
letter. Of rows that are refused, or that do not add up, the halves are written apart, until a row
stands alone; it is a dead letter only if the database takes another one at the same time
(`operators.postgres.trial`). If it takes none, the row is set aside, all is written again after a
pause, and nothing is given up. `operators.postgres.errors` says which errors are waited for at once
(see `operators.postgres.session`), and which stop the stream if they are of no single row.
"""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Final, Protocol

import psycopg

from operators.backoff import Backoff
from operators.engine.loop import EventLoop
from operators.engine.positions import finish
from operators.errors import StreamError, bug, fatal
from operators.postgres.connection import Connection
from operators.postgres.errors import (
    UnaccountedError,
    UnwritableError,
    code_of,
    describe,
    reason_of,
    verdict_of,
)
from operators.postgres.session import Session
from operators.postgres.tables import Merged, merge
from operators.postgres.trial import refused_alone
from operators.postgres.write_size import WRITE_ROWS, WriteSize
from operators.records import Failure, Message, Scored
from telemetry import Progress, database_waits, log, metrics, tracing

__all__ = ["DeadLetters", "RowWriter"]

PAUSES: Final = Backoff(first=0.2, longest=5.0)  # before a row that nobody can judge is tried again
REFUSED_IN_A_ROW: Final = 100
"""Dead letters with no row stored between them; then the table is doubted, and not the rows."""
STATEMENTS: Final = 4  # statements that are refused in a row, after which the stream stops


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

    """

    def __init__(
        self,
        session: Session,
        *,
        loop: EventLoop,
        dead_letters: DeadLetters,
        progress: Progress,
        pauses: Backoff = PAUSES,
    ) -> None:
        self._session, self._loop = session, loop
        self._dead_letters, self._progress = dead_letters, progress
        self._pauses = pauses
        self._size = WriteSize(session.limit)
        self._waiting: list[Scored] = []
        self._parts: list[list[Scored]] = []  # of what was taken, the next one last
        self._stored: Scored | None = None  # the last one
        self._refused = 0  # rows in a row
        self._undecided = 0  # trials in a row
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
        while self._parts or self._waiting:
            if not self._parts:
                taken, self._waiting = self._waiting[:WRITE_ROWS], self._waiting[WRITE_ROWS:]
                self._parts.append(taken)
            rows = self._parts.pop()
            try:
                await self._place(rows)
            except StreamError:
                raise
            except Exception as error:  # noqa: BLE001 - it is told where, and raised
                first, doing = rows[0].message, f"storing {len(rows)} messages from there on"
                raise fatal(bug(error, doing, first.partition_key, first.offset)) from None
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
                written, merged = await self._session.attempt(partial(self._write, rows))
        except (psycopg.Error, UnaccountedError, UnwritableError) as error:
            await self._look_for_the_refused(rows, error)
        else:
            if written < len(rows):
                self._parts.append(rows[written:])
                rows = rows[:written]
            metrics.WRITE_DURATION.observe(time.monotonic() - started)
            metrics.WRITE_ROWS.observe(len(rows))
            self._note(rows, merged)

    async def _write(self, rows: list[Scored], connection: Connection) -> tuple[int, Merged]:
        """Write as many of the rows as the database takes in time; again if it fails."""
        part = rows[: self._size.rows]
        started = time.monotonic()
        try:
            merged = await merge(part, connection)
        except psycopg.Error as error:
            if verdict_of(error) == "store":
                self._size.failed(len(part))
            raise
        self._size.passed(len(part), time.monotonic() - started)
        return len(part), merged

    def _note(self, rows: list[Scored], merged: Merged) -> None:
        if merged.stored == len(rows):
            self._stored = rows[-1]
        self._undecided = 0
        if merged.stored:
            self._refused = 0
        database_waits(self, None)
        self._progress.committed([row.message.timestamp for row in rows])
        self._progress.count("stored", merged.stored)
        self._progress.count("duplicates", merged.duplicates)
        if merged.conflicts:
            self._dead_letters.put([_conflict(rows[at]) for at in sorted(merged.conflicts)])
            rows = [row for at, row in enumerate(rows) if at not in merged.conflicts]
        finish(row.message for row in rows)

    async def _look_for_the_refused(self, rows: list[Scored], error: Exception) -> None:
        if len(rows) > 1:
            middle = len(rows) // 2
            self._parts += [rows[middle:], rows[:middle]]
            return
        if verdict_of(error) == "statement":
            await self._session.renew()
        [row] = rows
        refusal = await self._try_alone(row)
        if refusal is not None and self._refused < REFUSED_IN_A_ROW:
            self._refused += 1
            self._dead_letters.put([_rejected(row, refusal)])
            return
        self._undecided += 1
        if verdict_of(error) == "statement" and self._undecided >= STATEMENTS:
            raise self._session.stopped(describe(error)) from None
        self._set_aside(row)
        await self._pause(error)

    async def _try_alone(self, row: Scored) -> Exception | None:
        try:
            return await self._session.attempt(partial(refused_alone, row, self._stored))
        except psycopg.Error:  # not even that can be asked
            return None

    def _set_aside(self, row: Scored) -> None:
        """Let all others go first: what becomes of them is told of the row, too."""
        rest = [each for part in reversed(self._parts) for each in part]
        self._parts.clear()
        self._waiting = [*rest, *self._waiting, row]

    async def _pause(self, error: Exception) -> None:
        reason = f"{describe(error)}: no row is taken until the tables take such rows again"
        pause = round(self._pauses.pause(self._undecided), 2)
        metrics.DATABASE_RETRIES.labels(reason_of(error)).inc()
        log.warning("postgres.refuses", reason=reason, attempt=self._undecided, pause=pause)
        database_waits(self, reason)
        await asyncio.sleep(pause)


def _rejected(row: Scored, refusal: Exception) -> Failure:
    error = f"transaction: the database refuses it: {describe(refusal)}"
    return Failure(row.message, "persist", "rejected", code_of(refusal), error, trace=row.trace)


def _conflict(row: Scored) -> Failure:
    error = "id: a transaction with this id and other content is stored already"
    return Failure(row.message, "persist", "conflict", "id.conflict", error, trace=row.trace)
