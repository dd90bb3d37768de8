"""What the stream does to its tables, on a connection that is given."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg

from operators.postgres import sql as statements
from operators.postgres.connection import Connection, Cursor
from operators.postgres.errors import UnaccountedError, UnwritableError
from operators.records import Scored

__all__ = ["Merged", "merge", "merge_staged", "note_topic", "stage", "stored_positions"]


class Merged(NamedTuple):
    """What became of rows."""

    stored: int
    """That were new."""
    duplicates: int
    """That are new in `duplicates`."""
    conflicts: frozenset[int]
    """Which of the rows, by their number, another content of their id kept out."""


async def merge(rows: Sequence[Scored], connection: Connection) -> Merged:
    """Write rows as one transaction; see `operators.postgres.sql` for what becomes of each.

    :arg rows: To be stored.

    :arg connection: That nobody else uses meanwhile.

    :returns: What became of them.

    :raises UnaccountedError: Rows were deleted meanwhile, or the database left some out.

    :raises UnwritableError: The client has no form for one of them.

    :raises psycopg.Error: As the database has it.

    """
    async with connection.transaction(), connection.cursor() as cursor:
        await stage(rows, cursor)
        return await merge_staged(len(rows), cursor)


async def stage(rows: Sequence[Scored], cursor: Cursor) -> None:
    """Copy rows to the temporary table; raises as `merge` does."""
    async with cursor.copy(statements.COPY) as copy:
        copy.set_types(statements.COPY_TYPES)
        for ordinal, row in enumerate(rows):
            try:
                await copy.write_row(_columns(ordinal, row))
            except (psycopg.OperationalError, psycopg.InterfaceError):
                raise
            # Whatever psycopg raises for one row belongs to that row: UnicodeEncodeError,
            # DataError, OverflowError, struct.error ... psycopg tells the server why the copy is
            # broken off, so the value must not be in the text.
            except Exception as error:  # noqa: BLE001 - see above
                msg = f"{type(error).__name__}: the row has no form in PostgreSQL's protocol"
                raise UnwritableError(msg) from None


async def merge_staged(count: int, cursor: Cursor) -> Merged:
    """Put each of the staged rows where it belongs, and count.

    :arg count: How many are staged.

    """
    await cursor.execute(statements.STORE)
    [(stored, predicted, others)] = await cursor.fetchall()
    if stored != predicted:
        msg = f"{stored} transactions were stored with {predicted} predictions"
        raise UnaccountedError(msg)
    if not others:
        return Merged(stored, 0, frozenset())
    await cursor.execute(statements.CLASSIFY, [others])
    [(redelivered, repeated, conflicts, new)] = await cursor.fetchall()
    if redelivered + repeated + len(conflicts) != len(others):
        msg = (
            f"of {count} rows {stored} were stored, {redelivered} stored already,"
            f" {repeated} repeated and {len(conflicts)} in conflict"
        )
        raise UnaccountedError(msg)
    return Merged(stored, new, frozenset(conflicts))


async def stored_positions(
    connection: Connection, topic: str, partition: int, offsets: Sequence[int]
) -> set[int]:
    """Look up which messages of a partition have a row.

    :arg connection: In any state that takes a statement.

    :arg topic: Of the source.

    :arg offsets: That are asked for.

    :returns: Those of them in `transactions` or in `duplicates`.

    """
    values = {"topic": topic, "partition": partition, "offsets": list(offsets)}
    cursor = await connection.execute(statements.STORED_POSITIONS, values)
    return {offset for (offset,) in await cursor.fetchall()}


async def note_topic(connection: Connection, topic: str, topic_id: str) -> str:
    """Note which topic the rows come from, unless it is noted already.

    :arg topic_id: Of the topic that has this name now.

    :returns: The id of the topic that the rows of this name come from.

    """
    await connection.execute(statements.NOTE_TOPIC, [topic, topic_id])
    cursor = await connection.execute(statements.TOPIC_ID, [topic])
    [(noted,)] = await cursor.fetchall()
    return str(noted)


def _columns(ordinal: int, row: Scored) -> tuple[Any, ...]:
    message, transaction, prediction, _ = row
    position = (message.topic, message.partition, message.offset)
    return (ordinal, *transaction, *position, *prediction)
