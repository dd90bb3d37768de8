"""Do once what the stream will do with the database, and undo it: a lock, a row in each table.

What can be asked for by name is looked at first, so that it is named. What nobody can foresee, such
as a column that was added or a trigger, the row finds.
"""

import asyncio
import secrets
import time
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import uuid4

import psycopg

from operators.errors import DependencyError
from operators.postgres import sql
from operators.postgres.connection import Connection, time_limit
from operators.postgres.errors import UnaccountedError
from operators.postgres.pooling import POOLED, require_session
from operators.postgres.tables import merge
from operators.records import Message, Prediction, Scored, Transaction
from settings import Settings

__all__ = ["check"]

STANDBY: Final = (
    "the database is a standby, which takes no rows: name the primary, or all hosts and"
    " target_session_attrs=read-write"
)
READ_ONLY: Final = (
    "default_transaction_read_only is on: ALTER ROLE or ALTER DATABASE … RESET"
    " default_transaction_read_only, or take it out of the URL's options"
)
OF_THE_VALUES: Final = (
    psycopg.errors.CheckViolation,
    psycopg.errors.ForeignKeyViolation,
    psycopg.errors.RaiseException,
    psycopg.DataError,
)
"""What a rule of the tables' owner says to made-up values tells nothing of real ones."""


def check(settings: Settings) -> str:
    """Connect to the database, and take and undo a lock and a row.

    :returns: What was found.

    :raises DependencyError: Which setting to look at.

    """
    limit, began = settings.start_timeout.total_seconds(), time.monotonic()
    try:
        return asyncio.run(_check(settings, limit))
    # UnicodeError: a name that cannot be a host's, such as one with two dots in a row.
    except (psycopg.Error, UnaccountedError, UnicodeError) as error:
        # The first line names host and reason, or table and column, never a password.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "statement pooling mode" in reason:
            reason = POOLED
        elif isinstance(error, psycopg.OperationalError) and time.monotonic() - began > limit:
            reason = f"{reason} (no answer within {limit:g} s)"
        msg = f"DATABASE_URL: {reason}"
        raise DependencyError(msg) from None


async def _check(settings: Settings, limit: float) -> str:
    async with await _connect(settings, limit) as connection:
        with time_limit(connection, limit):
            await connection.execute(sql.LIMIT_STATEMENTS, [str(round(limit * 1000))])
            await _require_writable(connection)
            await _require_privileges(connection)
        with suppress(psycopg.OperationalError):  # one session may be all that there is
            async with await _connect(settings, limit) as other:
                await require_session(connection, other, limit)
        with time_limit(connection, limit):
            await _write_and_undo(connection)
        info = connection.info
        version = info.server_version // 10_000
        return f"{info.dbname} at {info.host}:{info.port}, PostgreSQL {version}"


async def _connect(settings: Settings, limit: float) -> Connection:
    return await psycopg.AsyncConnection.connect(
        settings.database_url.get_secret_value(),
        autocommit=True,
        client_encoding="utf8",
        connect_timeout=max(1, round(limit)),
    )


async def _require_writable(connection: Connection) -> None:
    is_standby, is_read_only = await _ask(connection, sql.TAKES_NO_WRITES)
    if is_standby or is_read_only:
        msg = f"DATABASE_URL: {STANDBY if is_standby else READ_ONLY}"
        raise DependencyError(msg)


async def _require_privileges(connection: Connection) -> None:
    for table, privilege in sql.PRIVILEGES:
        [exists] = await _ask(connection, sql.TABLE_EXISTS, table)
        if not exists:
            hidden = await _ask(connection, sql.HIDDEN_IN, table)
            msg = f"DATABASE_URL: there is no table {table}: run python -m ops migrate"
            if hidden:
                msg = f"DATABASE_URL: this user lacks USAGE on schema {hidden[0]}"
            raise DependencyError(msg)
        [may] = await _ask(connection, sql.MAY, table, privilege)
        if not may:
            msg = f"DATABASE_URL: this user lacks {privilege} on {table}"
            raise DependencyError(msg)
    [may] = await _ask(connection, sql.MAY_STAGE)
    if not may:
        msg = f"DATABASE_URL: this user lacks TEMPORARY on database {connection.info.dbname}"
        raise DependencyError(msg)


async def _write_and_undo(connection: Connection) -> None:
    async with connection.transaction(force_rollback=True):
        await connection.execute(sql.STAGED)
        await connection.execute(sql.CONSTRAIN_NOW)
        try:
            await merge([_made_up(0), _made_up(1)], connection)
        except OF_THE_VALUES:
            pass
        except psycopg.IntegrityError as error:
            diag = error.diag
            named = filter(None, [diag.table_name, diag.column_name, diag.constraint_name])
            msg = f"DATABASE_URL: no row can be stored: {diag.sqlstate} {' '.join(named)}"
            raise DependencyError(msg) from None


def _made_up(offset: int) -> Scored:
    topic = f"check-{secrets.token_hex(8)}"
    fields = ("check", Decimal(1), datetime.now(UTC), "check", "check", "check")
    return Scored(
        Message(None, b"", [], topic, 0, offset, -1),
        Transaction(uuid4(), None, *fields),
        Prediction("check", 0.5, None),
    )


async def _ask(connection: Connection, query: str, *values: str) -> tuple[Any, ...]:
    """Give the first row; empty if there is none."""
    return await (await connection.execute(query, values)).fetchone() or ()
