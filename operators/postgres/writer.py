"""Write scored transactions to PostgreSQL: both tables in one transaction, each message once.

`operators.postgres.sql` says what becomes of a row. A row that the database alone refuses, and one
in conflict with what is stored, is a dead letter; to find the former the batch is cut in halves.
Errors that may pass are retried (see `operators.postgres.session`), any other stops the stream.
"""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import psycopg

from operators.dead_letters.already_written import ReadBack
from operators.dead_letters.writer import DeadLetterWriter
from operators.engine.loop import Loop
from operators.postgres import sql as statements
from operators.postgres.session import Connection, Session, describe
from operators.records import Failure, Scored
from telemetry import Progress, metrics, tracing

__all__ = ["PostgresWriter"]

WRITE_ROWS: Final = 4_000  # in one transaction, at most; with half of it the stream waits longer
WAITING_ROWS: Final = 2 * WRITE_ROWS  # with more than these the stream waits


class PostgresWriter:
    """Writes the scored transactions of one worker, while the stream goes on.

    :arg session: Of this worker.

    :arg loop: Of this worker.

    :arg dead_letters: For rows that are refused.

    :arg read_back: Knows which restored rows are read again.

    :arg progress: Told of what is committed.

    """

    def __init__(
        self,
        session: Session,
        *,
        loop: Loop,
        dead_letters: DeadLetterWriter,
        read_back: ReadBack,
        progress: Progress,
    ) -> None:
        self._session, self._loop = session, loop
        self._dead_letters, self._progress = dead_letters, progress
        self._read_back = read_back
        self._waiting: list[Scored] = []
        self._task: asyncio.Task[None] | None = None
        self._users = 0

    def open(self, partition_key: str) -> None:
        """Begin to write a partition.

        :arg partition_key: Of the source.

        :raises StoreError: Another process writes it.

        """
        self._users += 1
        self._session.claim(partition_key)

    def close(self) -> None:
        """End the session when the last partition that uses it is closed; never raises."""
        self._users -= 1
        if self._users == 0:
            self._session.close()

    def write(self, rows: Sequence[Scored]) -> None:
        """Take rows; waits while too many are waiting already.

        :arg rows: Of this worker.

        :raises StoreError: Earlier rows could not be written.

        """
        self._waiting.extend(row for row in rows if not self._read_back.reads_again(row.message))
        self._advance()
        while len(self._waiting) > WAITING_ROWS:
            self._wait()
        self._loop.pump()

    def flush(self) -> None:
        """Wait until every row is committed and every refused one acknowledged.

        :raises StoreError: They could not be written, or not before the end of a stop.

        :raises DeliveryError: A refused one could not be delivered to the error topic.

        """
        while self._task is not None or self._waiting:
            self._wait()
        self._dead_letters.flush()

    def _wait(self) -> None:
        if self._task is not None:
            self._session.wait(self._task)
        self._advance()

    def _advance(self) -> None:
        if self._task is not None and self._task.done():
            task, self._task = self._task, None
            task.result()
        if self._task is None and self._waiting:
            self._task = self._loop.spawn(self._drain())

    async def _drain(self) -> None:
        # In one task until nothing waits: no callback may come before the end of the epoch.
        while self._waiting:
            rows, self._waiting = self._waiting[:WRITE_ROWS], self._waiting[WRITE_ROWS:]
            await self._store(rows)

    async def _store(self, rows: list[Scored]) -> None:
        started = time.monotonic()
        try:
            with tracing.writing(rows):
                stored, repeated, conflicts = await self._session.run(partial(_merge, rows))
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            await self._refuse(rows, error)
        except psycopg.Error as error:
            raise self._session.stopped(describe(error)) from None
        else:
            metrics.WRITE_DURATION.observe(time.monotonic() - started)
            metrics.WRITE_ROWS.observe(len(rows))
            self._progress.committed([row.message.timestamp for row in rows])
            self._progress.count("stored", stored)
            self._progress.count("duplicates", repeated)
            await self._dead_letters.send([_conflict(row) for row in conflicts])

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
        await self._dead_letters.send([failure])


async def _merge(rows: list[Scored], connection: Connection) -> tuple[int, int, list[Scored]]:
    """How many were stored, how many are new in `duplicates`, and which are in conflict."""
    async with connection.transaction(), connection.cursor() as cursor:
        async with cursor.copy(statements.COPY) as copy:
            copy.set_types(statements.COPY_TYPES)
            for ordinal, row in enumerate(rows):
                await copy.write_row(_columns(ordinal, row))
        await cursor.execute(statements.STORE)
        stored = cursor.rowcount
        if stored == len(rows):
            return stored, 0, []
        await cursor.execute(statements.REPEATED)
        repeated = cursor.rowcount
        await cursor.execute(statements.CONFLICTS)
        return stored, repeated, [rows[ordinal] for (ordinal,) in await cursor.fetchall()]


def _columns(ordinal: int, row: Scored) -> tuple[Any, ...]:
    message, transaction, prediction, _ = row
    position = (message.topic, message.partition, message.offset)
    return (ordinal, *transaction, *position, *prediction)


def _conflict(row: Scored) -> Failure:
    error = "id: a transaction with this id and other content is stored already"
    return Failure(row.message, "persist", "conflict", "id.conflict", error, trace=row.trace)
