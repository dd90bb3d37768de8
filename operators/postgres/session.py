"""A worker's session with PostgreSQL, and the locks that keep others from writing beside it.

*Fencing.* For each source partition that it writes, a session holds an advisory lock named by
consumer group, topic and partition. The rows of a partition are written in the session that holds
its lock, so that a process which lost the session, frozen or cut off, cannot commit any more: it
has to get the lock again, and ends if another has it by then. Locks go with the session, so a
process that is killed leaves none behind. A pooler in front of the database has to pool sessions,
not transactions.

A lost session is made anew for as long as it takes, with a pause between attempts.
"""

import asyncio
import hashlib
import itertools
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Final, TypeVar

import psycopg

from operators.engine.loop import Loop
from operators.engine.shutdown import Stop
from operators.errors import DependencyError, StoreError
from operators.postgres import sql as statements
from settings import Settings
from telemetry import log, metrics

__all__ = ["Connection", "Session", "await_predecessor", "describe"]

X = TypeVar("X")

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

PATIENCE: Final = 0.1  # seconds between looks at the wish to stop, while waiting
LONGEST_PAUSE: Final = 5.0  # seconds between attempts
LOCK_WAIT: Final = timedelta(seconds=10)  # for a predecessor's session to end
LEASE: Final = 5.0  # seconds for which a session is believed to be there without a look

PASSING_CLASSES: Final = {
    "08",  # connection exceptions
    "40",  # deadlocks, serialisation
    "57",  # shutdowns and time-outs
}
PASSING: Final = {
    "25006",  # read only: a standby that is not yet, or a primary that is no longer, the primary
    "25P03",  # idle in transaction for too long: this process was frozen
    "25P04",  # transaction for too long, likewise
    "53300",  # too many connections
    "55P03",  # lock not available
}
NO_STATE: Final = "connection"  # reason of a failure of which the database itself says nothing

# Known from the start, as `telemetry.metrics` has it.
for _reason in {NO_STATE, *PASSING_CLASSES, *(state[:2] for state in PASSING)}:
    metrics.DATABASE_RETRIES.labels(_reason)


def await_predecessor(settings: Settings, partition_keys: Iterable[str]) -> None:
    """Wait until no other process holds a lock, before Bytewax opens the recovery directory.

    A run that begins there and finds the partitions locked only later leaves a mark: the run that
    has them writes on, and none can be resumed from what both wrote. Processes of one cluster do
    not meet here: none of them takes a lock before all have started.

    :arg settings: The database and the group.

    :arg partition_keys: Of the source.

    :raises DependencyError: Another process has a lock after ten seconds.

    """
    end = time.monotonic() + LOCK_WAIT.total_seconds()
    limit = max(1, round(settings.database_timeout.total_seconds()))
    with (
        suppress(psycopg.Error),  # the run waits for a database that is away
        psycopg.connect(
            settings.database_url.get_secret_value(), autocommit=True, connect_timeout=limit
        ) as connection,
    ):
        connection.execute(statements.LIMIT_STATEMENTS, [str(limit * 1000)])
        for partition in partition_keys:
            key = _lock_key(settings.kafka_consumer_group, partition)
            while row := connection.execute(statements.LOCK_HOLDER, [key]).fetchone():
                if time.monotonic() > end:
                    msg = f"DATABASE_URL: {partition} is being written by {row[0]}"
                    raise DependencyError(msg)
                time.sleep(PATIENCE)


class Session:
    """A worker's session with PostgreSQL.

    :arg settings: The database and its limits; the group and the topic that name the locks.

    :arg loop: Of this worker.

    :arg stop: When overdue, the database is not waited for any more.

    """

    def __init__(self, settings: Settings, *, loop: Loop, stop: Stop) -> None:
        self._url = settings.database_url.get_secret_value()
        self._group = settings.kafka_consumer_group
        self._limit = settings.database_timeout.total_seconds()
        self._loop, self._stop = loop, stop
        self._claimed: set[str] = set()
        self._locked: set[str] = set()
        self._connection: Connection | None = None
        self._seen = 0.0

    def claim(self, partition_key: str) -> None:
        """Hold a partition's lock before anything is done for it; quick if that was just so.

        :arg partition_key: Of the source partition.

        :raises StoreError: Another process writes this partition, or the database does not answer
            before the end of a stop.

        """
        self._claimed.add(partition_key)
        fresh = time.monotonic() - self._seen < LEASE
        if not fresh or partition_key not in self._locked:
            task = self._loop.spawn(self.run(_look))
            while not task.done():
                self.wait(task)
            task.result()

    def wait(self, task: "asyncio.Task[Any]") -> None:
        """Let everything on the loop go on for a moment, or until a task is done.

        :arg task: That uses this session.

        :raises StoreError: A stop is overdue.

        """
        self._loop.wait_any([task], PATIENCE)
        if not task.done() and self._stop.overdue():
            task.cancel()
            reason = "no answer before the end of the stop"
            raise self.stopped(reason)

    async def run(self, work: Callable[[Connection], Awaitable[X]]) -> X:
        """Do something in the session, as often as it takes.

        :arg work: Is given the connection, which holds all locks that were claimed. It is done
            again from its beginning after an error that may pass.

        :returns: What it returns.

        :raises psycopg.Error: An error that will not pass.

        :raises StoreError: Another process holds a lock.

        """
        for attempt in itertools.count(1):
            try:
                connection = self._connection or await self._connect()
                with _time_limit(connection, self._limit + LOCK_WAIT.total_seconds()):
                    await self._lock(connection)
                with _time_limit(connection, self._limit):
                    result = await work(connection)
            except psycopg.Error as error:
                if not _is_passing(error):
                    raise
                reason = error.sqlstate[:2] if error.sqlstate else NO_STATE
                metrics.DATABASE_RETRIES.labels(reason).inc()
                if self._connection is not None:
                    metrics.CONNECTION_LOSSES.labels("postgres").inc()
                self.close()
                ceiling = min(LONGEST_PAUSE, 0.1 * 2**attempt)
                pause = round(random.uniform(0, ceiling), 2)  # noqa: S311 - jitter, no secret
                log.warning("postgres.retry", reason=describe(error), attempt=attempt, pause=pause)
                await asyncio.sleep(pause)
            else:
                self._seen = time.monotonic()
                return result
        raise AssertionError

    def close(self) -> None:
        """End the session, and with it the locks; never raises."""
        if self._connection is not None:
            self._connection.pgconn.finish()
        self._connection = None
        self._locked.clear()
        self._seen = 0.0

    def stopped(self, reason: str) -> StoreError:
        """Log why the stream stops, and make the error that says it."""
        msg = f"DATABASE_URL: rows cannot be stored: {reason}"
        # In a cluster the traceback of a worker does not reach the terminal.
        log.error("postgres.stopped", error=msg)
        return StoreError(msg)

    async def _connect(self) -> Connection:
        connection = await psycopg.AsyncConnection.connect(
            self._url,
            autocommit=True,
            # Named in the message of a process that finds the lock taken; 63 bytes are kept.
            application_name=f"{socket.gethostname()}:{os.getpid()} {self._group}",
            connect_timeout=max(1, round(self._limit)),
        )
        # Kept at once: if what follows fails, the next attempt closes it.
        self._connection = connection
        with _time_limit(connection, self._limit):
            milliseconds = str(round(self._limit * 1000))
            await connection.execute(statements.LIMIT_SESSION, {"milliseconds": milliseconds})
            await connection.execute(statements.STAGED)
        return connection

    async def _lock(self, connection: Connection) -> None:
        end = time.monotonic() + LOCK_WAIT.total_seconds()
        for partition in sorted(self._claimed - self._locked):
            key = _lock_key(self._group, partition)
            while not await _first(connection, statements.LOCK, key):
                if time.monotonic() > end or self._stop.requested:
                    holder = await _first(connection, statements.LOCK_HOLDER, key)
                    reason = f"{partition} is being written by {holder or 'another process'}"
                    raise self.stopped(reason)
                await asyncio.sleep(PATIENCE)
            self._locked.add(partition)


async def _look(connection: Connection) -> None:
    await connection.execute("SELECT 1")


async def _first(connection: Connection, statement: str, value: int) -> Any:
    row = await (await connection.execute(statement, [value])).fetchone()
    return row[0] if row else None


def _lock_key(group: str, partition_key: str) -> int:
    name = f"{group}\0{partition_key}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big", signed=True)


@contextmanager
def _time_limit(connection: Connection, seconds: float) -> Iterator[None]:
    """Break the connection if the block takes longer.

    The server has the same limit, but a frozen one does not keep it; and to cancel the task is no
    way out, since psycopg then waits for the server's answer to the cancellation.
    """
    timer = asyncio.get_running_loop().call_later(seconds, _break, connection)
    try:
        yield
    finally:
        timer.cancel()


def _break(connection: Connection) -> None:
    with (
        suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(connection.fileno())) as copy,
    ):
        copy.shutdown(socket.SHUT_RDWR)


def _is_passing(error: psycopg.Error) -> bool:
    """Whether the same statements may succeed later."""
    state = error.sqlstate
    if state is None:  # libpq's own: the connection
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return state[:2] in PASSING_CLASSES or state in PASSING


def describe(error: psycopg.Error) -> str:
    """Say what the database says, without a server's message, which may repeat a value.

    :arg error: From the database.

    :returns: Its class, its code and the names in it; of an error of the connection, its text.

    """
    if error.sqlstate is None:
        return str(error).strip().partition("\n")[0] or type(error).__name__
    named = [error.sqlstate, error.diag.table_name, error.diag.column_name]
    return " ".join([type(error).__name__, *filter(None, [*named, error.diag.constraint_name])])
