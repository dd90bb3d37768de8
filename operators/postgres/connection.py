"""A connection to PostgreSQL: how it is made, how long an answer may take, which errors pass."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import psycopg

from operators.postgres import sql as statements
from settings import Settings
from telemetry import metrics

__all__ = [
    "PATIENCE",
    "Connection",
    "break_off",
    "connect",
    "describe",
    "is_passing",
    "reason_of",
    "time_limit",
]

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

PATIENCE: Final = 0.1  # seconds between looks at the wish to stop, while waiting

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


async def connect(settings: Settings) -> Connection:
    """Begin a session: with limits, and with the temporary table that rows are copied to.

    :returns: A connection in autocommit mode.

    :raises psycopg.Error: There is none.

    """
    limit = settings.database_timeout.total_seconds()
    connection = await psycopg.AsyncConnection.connect(
        settings.database_url.get_secret_value(),
        autocommit=True,
        # Named in the message of a process that finds the lock taken; 63 bytes are kept.
        application_name=f"{socket.gethostname()}:{os.getpid()} {settings.kafka_consumer_group}",
        connect_timeout=max(1, round(limit)),
    )
    try:
        with time_limit(connection, limit):
            milliseconds = str(round(limit * 1000))
            await connection.execute(statements.LIMIT_SESSION, {"milliseconds": milliseconds})
            await connection.execute(statements.STAGED)
    except BaseException:
        connection.pgconn.finish()
        raise
    return connection


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


def is_passing(error: psycopg.Error) -> bool:
    """Whether the same statements may succeed later."""
    state = error.sqlstate
    if state is None:  # libpq's own: the connection
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return state[:2] in PASSING_CLASSES or state in PASSING


def reason_of(error: psycopg.Error) -> str:
    """Class of an error, as the metric of retries has it."""
    return error.sqlstate[:2] if error.sqlstate else NO_STATE


def describe(error: psycopg.Error) -> str:
    """Say what the database says, without a server's message, which may repeat a value.

    :returns: Its class, its code and the names in it; of an error of the connection, its text.

    """
    if error.sqlstate is None:
        return str(error).strip().partition("\n")[0] or type(error).__name__
    named = [error.sqlstate, error.diag.table_name, error.diag.column_name]
    return " ".join([type(error).__name__, *filter(None, [*named, error.diag.constraint_name])])
