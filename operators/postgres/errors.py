"""Whose an error is that comes out of the database or of its client: the one place that says so.

A *verdict* on an error, by the class of its SQLSTATE (`docs/tables.md` has the same as a table):

- `store`: the database, or the way to it, is sick for a while. It is waited for.
- `rows`: what was written is refused. It is a message's if a row that is stored already passes
  beside it; if that is refused too, the tables have changed, and they are waited for.
- `statement`: the statement itself is refused: a table, a column or a right is missing. It may be a
  message's in the same way, as with a policy for rows; else somebody has to act, and the stream
  stops.
"""

from typing import Final, Literal

import psycopg

__all__ = [
    "REASONS",
    "UnaccountedError",
    "UnwritableError",
    "Verdict",
    "code_of",
    "describe",
    "reason_of",
    "verdict_of",
]

Verdict = Literal["store", "rows", "statement"]

STORE: Final = {
    "08",  # connection exceptions
    "25",  # read only, as a standby is; a transaction that was idle or open for too long
    "28",  # the login is refused, as while a password is being changed
    "3D",  # no such database, as while it is being restored
    "40",  # deadlocks, serialisation
    "53",  # no disk, no memory, no connection left
    "55",  # a lock that is not to be had, an object in use
    "57",  # cancelled, shut down, starting up
    "58",  # errors of the system: a disk, a file
    "72",  # the snapshot is too old
    "F0",  # the server's own files
}
STATEMENT: Final = {
    "03",  # SQL statement not yet complete
    "0A",  # not supported, or a plan that was made before a table was changed
    "0B",  # invalid initiation of a transaction
    "0L",  # invalid grantor
    "0P",  # invalid role
    "24",  # invalid state of a cursor
    "26",  # no such prepared statement
    "2B",  # privileges that depend on others
    "34",  # no such cursor
    "3B",  # savepoints
    "3F",  # no such schema
    "42",  # a table or a column that is not there or not of this type, a right, the syntax
    "XX",  # internal errors, and what is corrupt
}
NO_STATE: Final = "connection"  # reason of a failure of which the database itself says nothing
SERIALISATION: Final = "40"  # what rows that did not add up are counted as: they met others

REASONS: Final = {NO_STATE, "08", "22", "23", "25", "40", "42", "53", "55", "57", "58", "P0"}
"""What most retries are counted as; others are classes of SQLSTATEs too."""


class UnaccountedError(Exception):
    """Not every row has its place, so that nothing was committed; the message has the counts."""


class UnwritableError(Exception):
    """The client has no form for a row; the message names the error and not the value."""


def verdict_of(error: Exception) -> Verdict:
    """Say whose an error is.

    :arg error: Of psycopg, or one of the above.

    """
    if not isinstance(error, psycopg.Error):
        return "rows"
    state = error.sqlstate
    if state is None:  # of libpq, the connection; of psycopg, that it is used in a wrong way
        is_connection = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        return "store" if is_connection else "statement"
    if state[:2] in STORE:
        return "store"
    return "statement" if state[:2] in STATEMENT else "rows"


def reason_of(error: Exception) -> str:
    """Class of an error, as the metric of retries has it."""
    if not isinstance(error, psycopg.Error):
        return SERIALISATION
    return error.sqlstate[:2] if error.sqlstate else NO_STATE


def code_of(error: Exception) -> str:
    """Short and stable, for a dead letter."""
    if isinstance(error, psycopg.Error):
        return f"sqlstate.{error.sqlstate}"
    return "row.not_writable" if isinstance(error, UnwritableError) else "row.left_out"


def describe(error: Exception) -> str:
    """Say what the database says, without a server's message, which may repeat a value.

    :returns: Its class, its code and the names in it. Of a statement that is refused the message
        too, unless a function of the database made it: it names tables, columns and rights. Of an
        error of the connection, its text.

    """
    if not isinstance(error, psycopg.Error):
        return str(error)
    if error.sqlstate is None:
        return str(error).strip().partition("\n")[0] or type(error).__name__
    diag = error.diag
    named = [error.sqlstate, diag.table_name, diag.column_name, diag.constraint_name]
    text = " ".join([type(error).__name__, *filter(None, named)])
    if error.sqlstate[:2] in {"3F", "42"} and diag.context is None and diag.message_primary:
        return f"{text}: {diag.message_primary}"
    return text
