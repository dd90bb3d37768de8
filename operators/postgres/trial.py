"""Tell a bad row from a sick store: try it beside a row that the database has taken before.

The *canary* is the last row that this process has stored, as it was then; before there is one, the
newest of the partition as it is in the tables. It is written under an id and a position of its own,
and then repeated at another one, so that each table is written to; before the row and after it, in
one transaction that is rolled back. So a table that has changed is not mistaken for a bad row, nor
a bad row for a table that has changed, and what a trigger does is undone.
"""

import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final
from uuid import uuid4

import psycopg

from operators.postgres import sql as statements
from operators.postgres.connection import Connection, Cursor
from operators.postgres.errors import UnaccountedError, UnwritableError, verdict_of
from operators.postgres.tables import merge_staged, stage
from operators.records import Message, Scored

__all__ = ["refused_alone"]

UNUSED: Final = 2**62  # offsets that no topic reaches


async def refused_alone(
    row: Scored, stored: Scored | None, connection: Connection
) -> Exception | None:
    """Try a row beside one that was stored before, and undo both.

    :arg stored: The one; None for the newest of the row's partition.

    :returns: Why the row is refused while the other is taken. None if the row is taken, if the
        other is refused too, or if there is no other.

    :raises psycopg.Error: The store is sick.

    """
    canary = partial(_stage_canary, row.message, stored)
    async with connection.transaction(force_rollback=True):
        await connection.execute(statements.CONSTRAIN_NOW)
        if await _refusal(canary, 2, connection):
            return None
        refusal = await _refusal(partial(stage, [row]), 1, connection)
        if refusal is None or await _refusal(canary, 2, connection):
            return None
        return refusal


async def _stage_canary(message: Message, stored: Scored | None, cursor: Cursor) -> None:
    identity, offset = uuid4(), UNUSED + secrets.randbits(61)
    if stored is not None:
        external_id = stored.transaction.external_id and str(identity)
        transaction = stored.transaction._replace(id=identity, external_id=external_id)
        places = [stored.message._replace(offset=offset + number) for number in (0, 1)]
        await stage([Scored(at, transaction, stored.prediction) for at in places], cursor)
        return
    values = {
        "id": identity,
        "offset": offset,
        "topic": message.topic,
        "partition": message.partition,
    }
    await cursor.execute(statements.CANARY, values)
    if cursor.rowcount == 0:
        msg = "no row is stored"
        raise UnaccountedError(msg)


async def _refusal(
    put: Callable[[Cursor], Awaitable[None]], count: int, connection: Connection
) -> Exception | None:
    try:
        async with connection.transaction(force_rollback=True), connection.cursor() as cursor:
            await put(cursor)
            await merge_staged(count, cursor)
    except (UnaccountedError, UnwritableError, psycopg.Error) as error:
        if verdict_of(error) == "store":
            raise
        return error
    return None
