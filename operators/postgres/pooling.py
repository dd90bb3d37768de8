"""Find out whether a session is one: the locks of the stream are a session's.

A pooler that pools transactions or statements gives the server's session to somebody else as soon
as the client has no transaction open. A lock that was taken there is held by nobody, or by all. The
way to know is to look: take a lock outside a transaction, let another connection work, and see who
has it.
"""

import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import psycopg

from operators.errors import DependencyError
from operators.postgres import locks
from operators.postgres.connection import Connection, time_limit

__all__ = ["POOLED", "require_session"]

POOLED: Final = (
    "a pooler in front of the database does not keep sessions apart, and the locks of the stream"
    " are a session's: set pool_mode=session (PgBouncer), or connect to the database itself"
)
OTHERS_LIMIT: Final = 2.0  # seconds for the other connection to get a session
LOOKS: Final = 3  # whose server's session a pooler gives to whom is its own affair
GROUP: Final = "check"


async def require_session(connection: Connection, other: Connection, limit: float) -> None:
    """See that a lock is held by the connection that took it, and by no other.

    :arg other: To the same address. If it gets no answer, as where a pooler has one session for
        each client and no second one, it does not interfere either.

    :arg limit: Of each, in seconds.

    :raises DependencyError: Sessions are shared.

    :raises psycopg.Error: Of the first connection.

    """
    key = secrets.token_hex(8)

    async def holds(one: Connection) -> bool:
        return not await locks.take(one, GROUP, [key])

    try:
        is_held = True
        for _ in range(LOOKS):
            with time_limit(connection, limit):
                is_held = is_held and await holds(connection)
            is_held = is_held and not await _interferes(other, limit, holds, connection)
        if not is_held:
            msg = f"DATABASE_URL: {POOLED}"
            raise DependencyError(msg)
    finally:
        for one in (other, connection):
            with suppress(psycopg.Error), time_limit(one, min(limit, OTHERS_LIMIT)):
                await locks.unlock(one, GROUP, [key])


async def _interferes(
    other: Connection,
    limit: float,
    holds: Callable[[Connection], Awaitable[bool]],
    connection: Connection,
) -> bool:
    """Whether the lock is the other's too, or is lost while the other keeps a session busy."""
    with suppress(psycopg.Error), time_limit(other, min(limit, OTHERS_LIMIT)):
        async with other.transaction():
            if await holds(other):
                return True
            with time_limit(connection, limit):
                return not await holds(connection)
    return False
