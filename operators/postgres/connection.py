"""A connection to PostgreSQL: how it is made, and how long an answer may take."""

import asyncio
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

import psycopg

from operators.postgres import sql as statements
from operators.postgres.errors import REASONS
from settings import Settings
from telemetry import metrics

__all__ = [
    "PATIENCE",
    "Backend",
    "Connection",
    "Cursor",
    "break_off",
    "connect",
    "time_limit",
]

Connection = psycopg.AsyncConnection[tuple[Any, ...]]
Cursor = psycopg.AsyncCursor[tuple[Any, ...]]

PATIENCE: Final = 0.1  # seconds between looks at the wish to stop, while waiting

# It warns of what comes after an error that is raised, and so told here; and it puts down to the
# server what the stream has broken off.
logging.getLogger("psycopg").setLevel(logging.ERROR)

# Known from the start, as `telemetry.metrics` has it.
for _reason in REASONS:
    metrics.DATABASE_RETRIES.labels(_reason)


class Backend(NamedTuple):
    """A connection, and the process at the database behind it."""

    connection: Connection
    pid: int
    """As the server has it: a pooler tells its clients a number of its own."""


async def connect(settings: Settings) -> Backend:
    """Begin a session: with limits, and with the temporary table that rows are copied to.

    The URL is read again: a file that it came from may have another password by now.

    :returns: A connection in autocommit mode.

    :raises psycopg.Error: There is none.

    """
    limit = settings.database_timeout.total_seconds()
    connection = await psycopg.AsyncConnection.connect(
        settings.read_again("database_url").get_secret_value(),
        autocommit=True,
        # Whatever the role or the database has: else some texts could not even be sent.
        client_encoding="utf8",
        # Named in the message of a process that finds the lock taken; 63 bytes are kept.
        application_name=f"{socket.gethostname()}:{os.getpid()} {settings.kafka_consumer_group}",
        connect_timeout=max(1, round(limit)),
    )
    try:
        with time_limit(connection, limit):
            milliseconds = str(round(limit * 1000))
            values = {"milliseconds": milliseconds}
            cursor = await connection.execute(statements.LIMIT_SESSION, values)
            [(pid, *_)] = await cursor.fetchall()
            async with connection.transaction():
                await connection.execute(statements.COMMIT_LOCALLY)
                await connection.execute(statements.STAGED)
    except BaseException:
        connection.pgconn.finish()
        raise
    return Backend(connection, pid)


@contextmanager
def time_limit(connection: Connection, seconds: float) -> Iterator[None]:
    """Break the connection off if the block takes longer.

    The server has the same limit, but a frozen one does not keep it; and to cancel the task is no
    way out, since psycopg then waits for the server's answer to the cancellation.
    """
    timer = asyncio.get_running_loop().call_later(seconds, break_off, connection)
    try:
        yield
    finally:
        timer.cancel()


def break_off(connection: Connection) -> None:
    """Let whoever waits for the server's answer see the end of the connection; never raises."""
    with (
        suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(connection.fileno())) as copy,
    ):
        copy.shutdown(socket.SHUT_RDWR)
