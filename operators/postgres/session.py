"""A worker's session with PostgreSQL, and the locks that keep others from writing beside it.

*Fencing.* For each source partition that it writes, a session holds an advisory lock
(`operators.postgres.locks`). The rows of a partition are written in the session that holds its
lock, so that a process which lost the session, frozen or cut off, cannot commit any more: it has to
get the lock again, and ends if another has it by then. A pooler in front of the database has to
pool sessions, not transactions.

That the locks are held is never remembered, it is looked up: on each new connection, and again when
the last look is older than `LEASE`.

One task at a time has the session, so at most one connection is ever being made. A lost session is
made again for as long as it takes, with a pause between attempts. Its process at the database may
outlive it, in a statement or in a commit that waits for a synchronous standby, and holds the locks
until then: that one is waited for, and no further one is sent after it.
"""

import asyncio
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, suppress
from datetime import timedelta
from functools import partial
from typing import Final, TypeVar

import psycopg

from operators.backoff import Backoff
from operators.errors import StoreError, fatal
from operators.postgres import locks
from operators.postgres.connection import (
    PATIENCE,
    Connection,
    break_off,
    connect,
    time_limit,
)
from operators.postgres.errors import describe, reason_of, verdict_of
from operators.postgres.locks import LOCK_WAIT, await_predecessor
from settings import Settings
from telemetry import database_waits, log, metrics

__all__ = ["LEASE", "Connection", "Session", "await_predecessor"]

X = TypeVar("X")

PAUSES: Final = Backoff(first=0.2, longest=5.0)  # between attempts
LEASE: Final = 5.0  # seconds for which a look at the locks holds good


class Session:
    """A worker's session with PostgreSQL.

    :arg lock_wait: How long a predecessor's session is waited for.

    """

    def __init__(self, settings: Settings, *, lock_wait: timedelta = LOCK_WAIT) -> None:
        self._settings = settings
        self._group = settings.kafka_consumer_group
        self._lock_wait = lock_wait.total_seconds()
        self.limit = settings.database_timeout.total_seconds()
        """Seconds for one piece of work."""
        self._turn = asyncio.Lock()
        self._claimed: set[str] = set()
        self._connection: Connection | None = None
        self._pid = 0
        self._left: set[int] = set()  # processes at the database of sessions that were lost
        self._closed = self._is_lost = False
        self.made_again: Callable[[], Awaitable[None]] | None = None
        """Called when a lost session has its locks again, before anything is done in it: others
        may have had them meanwhile, and have given them back. It raises if so."""
        self.confirmed_at = -math.inf
        """When the last look that found every claimed lock began, in monotonic seconds."""

    async def claim(self, partition_keys: Iterable[str]) -> None:
        """Take the locks of partitions before anything is done for them.

        Others may use the session while a predecessor is waited for.

        :arg partition_keys: Of the source; what is claimed already is left as it is.

        :raises StoreError: Another process still writes one of them; none of them is claimed then.

        """
        wanted = set(partition_keys) - self._claimed
        end = time.monotonic() + self._lock_wait
        while wanted and (missing := await self.run(partial(self._take, wanted))):
            if time.monotonic() > end:
                error = await self.run(partial(self._taken_by_another, min(missing)))
                if error is not None:
                    await self.release(wanted)
                    raise error
                end = time.monotonic() + self._lock_wait
            await asyncio.sleep(PATIENCE)

    async def release(self, partition_keys: Iterable[str]) -> None:
        """Give up the locks of partitions, and do not take them again."""
        released = set(partition_keys)
        async with self._turn:
            self._claimed -= released
            if self._connection is None:
                return
            try:
                with self._time_limit(self._connection):
                    await locks.unlock(self._connection, self._group, released)
            except psycopg.Error:
                self._lose()  # its end gives them up as well

    async def confirm(self) -> None:
        """See at the server that this session holds every lock that was claimed.

        A session that is lost is made again, with its locks.

        :raises StoreError: Another process has one of them.

        """
        asked = time.monotonic()
        async with self._turn:
            if self.confirmed_at < asked:  # else another's look, while this waited, serves both
                await self._repeat_or_stop(_nothing, asked)

    async def run(self, work: Callable[[Connection], Awaitable[X]]) -> X:
        """Do something in the session, as often as it takes, while no other task uses it.

        :arg work: Is given the connection, which holds all locks that were claimed. It is done
            again from its beginning after an error that may pass.

        :returns: What it returns.

        :raises StoreError: Another process holds a lock, or the database refuses the work.

        """
        async with self._turn:
            return await self._repeat_or_stop(work, time.monotonic() - LEASE)

    async def attempt(self, work: Callable[[Connection], Awaitable[X]]) -> X:
        """Do the same, for a caller that looks into a refusal.

        :raises psycopg.Error: The database refuses the work.

        :raises StoreError: Another process holds a lock.

        """
        async with self._turn:
            return await self._repeat(work, time.monotonic() - LEASE)

    async def renew(self) -> None:
        """Let the next work have a new connection: to this one a table may not be as it is."""
        async with self._turn:
            self._lose()

    def close(self) -> None:
        """End the session for good, and with it the locks; never raises."""
        self._closed = True
        database_waits(self, None)
        with suppress(Exception):
            if self._connection is not None and self._turn.locked():
                break_off(self._connection)  # the task that uses it is woken by that
            else:
                self._drop()

    def stopped(self, reason: str) -> StoreError:
        """Log why the stream stops, and make the error that says it."""
        return fatal(StoreError(f"DATABASE_URL: rows cannot be stored: {reason}"))

    async def _repeat_or_stop(self, work: Callable[[Connection], Awaitable[X]], since: float) -> X:
        try:
            return await self._repeat(work, since)
        except psycopg.Error as error:
            raise self.stopped(describe(error)) from None

    async def _repeat(self, work: Callable[[Connection], Awaitable[X]], since: float) -> X:
        """Do something as often as it takes.

        :arg work: See `run`.

        :arg since: In monotonic seconds; a look at the locks that is older is made again.

        """
        for attempt in itertools.count(1):
            self._raise_if_closed()
            began = math.inf
            try:
                connection = self._connection or await self._connect()
                if self.confirmed_at < since:
                    await self._hold(connection)
                began = time.monotonic()
                with self._time_limit(connection):
                    result = await work(connection)
            except psycopg.Error as error:
                if verdict_of(error) != "store":
                    raise
                self._lose()
                self._raise_if_closed()
                reason = self._reason(error, time.monotonic() - began)
                metrics.DATABASE_RETRIES.labels(reason_of(error)).inc()
                pause = round(PAUSES.pause(attempt), 2)
                log.warning("postgres.retry", reason=reason, attempt=attempt, pause=pause)
                database_waits(self, reason)
            else:
                database_waits(self, None)
                return result
            await asyncio.sleep(pause)
        raise AssertionError

    def _reason(self, error: psycopg.Error, seconds: float) -> str:
        if seconds >= self.limit and error.sqlstate in {None, "57014"}:
            # Else the log would blame the server for it.
            return f"DATABASE_TIMEOUT: broken off here after {self.limit:g} s without an end"
        return describe(error)

    async def _connect(self) -> Connection:
        self._connection, self._pid = await connect(self._settings)
        self._raise_if_closed()  # it may have been closed meanwhile
        return self._connection

    async def _hold(self, connection: Connection) -> None:
        """See that the session holds what was claimed, and take again what it has lost."""
        end = time.monotonic() + self._lock_wait
        while True:
            looked = time.monotonic()
            with self._time_limit(connection):
                missing = await locks.take(connection, self._group, self._claimed)
            if not missing:
                if self._is_lost and self.made_again is not None:
                    await self.made_again()
                self._is_lost = False
                self._left.clear()
                self.confirmed_at = looked
                return
            if looked > end:
                with self._time_limit(connection):
                    error = await self._taken_by_another(min(missing), connection)
                if error is not None:
                    raise error
                end = time.monotonic() + self._lock_wait
            self._raise_if_closed()
            await asyncio.sleep(PATIENCE)

    async def _take(self, wanted: set[str], connection: Connection) -> set[str]:
        missing = await locks.take(connection, self._group, wanted)
        self._claimed |= wanted - missing
        return missing

    async def _taken_by_another(
        self, partition_key: str, connection: Connection
    ) -> StoreError | None:
        """Say that another process has a lock; None if it is one that this session has left."""
        holder = await locks.holder(connection, self._group, partition_key)
        if holder.pid not in self._left:
            return self.stopped(f"{partition_key} is being written by {holder.text}")
        reason = f"the session before has not ended: {holder.text}"
        log.warning("postgres.waiting", reason=reason)
        database_waits(self, reason)
        return None

    def _time_limit(self, connection: Connection) -> AbstractContextManager[None]:
        return time_limit(connection, self.limit)

    def _raise_if_closed(self) -> None:
        if self._closed:
            self._drop()
            msg = "DATABASE_URL: the session is closed"
            raise StoreError(msg)

    def _lose(self) -> None:
        self._is_lost = True
        if self._connection is not None:
            metrics.CONNECTION_LOSSES.labels("postgres").inc()
            self._left.add(self._pid)
        self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self.confirmed_at = -math.inf
        if connection is not None:
            connection.pgconn.finish()


async def _nothing(_connection: Connection) -> None:
    """Only the look at the locks is wanted."""
