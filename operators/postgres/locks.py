"""Advisory locks in PostgreSQL, one for each source partition that somebody writes.

A lock is named by consumer group, topic and partition, and belongs to a session: whoever is killed
leaves none behind. Who has one is always asked of the server.
"""

import hashlib
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Final, NamedTuple

import psycopg

from operators.errors import DependencyError
from operators.postgres import sql as statements
from operators.postgres.connection import PATIENCE, Connection
from settings import Settings

__all__ = ["LOCK_WAIT", "Holder", "await_predecessor", "holder", "take", "unlock"]

LOCK_WAIT: Final = timedelta(seconds=10)  # for a predecessor's session to end


def await_predecessor(
    settings: Settings, partition_keys: Iterable[str], *, lock_wait: timedelta = LOCK_WAIT
) -> None:
    """Wait until no other process holds a lock, before Bytewax opens the recovery directory.

    A run that begins there and finds the partitions locked only later leaves a mark: the run that
    has them writes on, and none can be resumed from what both wrote. Processes of one cluster do
    not meet here: none of them takes a lock before all have started.

    :arg lock_wait: For how long.

    :raises DependencyError: Another process has a lock even then.

    """
    end = time.monotonic() + lock_wait.total_seconds()
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


async def take(connection: Connection, group: str, partition_keys: Collection[str]) -> set[str]:
    """Look which locks this session holds, and take the others if they are free.

    :arg connection: The session.

    :arg group: That writes.

    :arg partition_keys: Whose locks it should hold; all in one round trip.

    :returns: Those that another session holds.

    """
    by_key = {_lock_key(group, partition): partition for partition in partition_keys}
    rows = await (await connection.execute(statements.TAKE_LOCKS, [list(by_key)])).fetchall()
    return {by_key[key] for key, held in rows if not held}


class Holder(NamedTuple):
    """Who holds a lock."""

    text: str
    pid: int | None


async def holder(connection: Connection, group: str, partition_key: str) -> Holder:
    """Say which process holds a partition's lock."""
    key = _lock_key(group, partition_key)
    row = await (await connection.execute(statements.LOCK_HOLDER, [key])).fetchone()
    return Holder(*row) if row else Holder("another process", None)


async def unlock(connection: Connection, group: str, partition_keys: Iterable[str]) -> None:
    """Give up locks that this session holds."""
    keys = [_lock_key(group, partition) for partition in partition_keys]
    await connection.execute(statements.UNLOCK, [keys])


def _lock_key(group: str, partition_key: str) -> int:
    name = f"{group}\0{partition_key}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big", signed=True)
