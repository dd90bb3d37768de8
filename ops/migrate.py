"""Bring a database to the state that the files in `migrations/` describe.

The history is kept in Flyway's own table and guarded by Flyway's own lock, so Flyway and this
module can take turns on one database, even at the same moment. Table, checksum and lock follow
Flyway's source: `PostgreSQLDatabase.getRawCreateScript`, `ChecksumCalculator` and
`PostgreSQLAdvisoryLockTemplate`.
"""

import re
import time
import zlib
from ctypes import c_int32
from datetime import timedelta
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

__all__ = ["MigrationError", "migrate", "pending"]

_FOLDER = Path(__file__).resolve().parent.parent / "migrations"
_NAME = re.compile(r"V(?P<version>\d+(?:[._]\d+)*)__(?P<description>.{1,200})\.sql", re.ASCII)

_HISTORY = "flyway_schema_history"
_CREATE_HISTORY = """
CREATE TABLE {table} (
    "installed_rank" INT NOT NULL,
    "version" VARCHAR(50),
    "description" VARCHAR(200) NOT NULL,
    "type" VARCHAR(20) NOT NULL,
    "script" VARCHAR(1000) NOT NULL,
    "checksum" INTEGER,
    "installed_by" VARCHAR(100) NOT NULL,
    "installed_on" TIMESTAMP NOT NULL DEFAULT now(),
    "execution_time" INTEGER NOT NULL,
    "success" BOOLEAN NOT NULL
);
ALTER TABLE {table} ADD CONSTRAINT "flyway_schema_history_pk" PRIMARY KEY ("installed_rank");
CREATE INDEX "flyway_schema_history_s_idx" ON {table} ("success")
"""
_READ_HISTORY = """
SELECT "version", "type", "success", "script", "description", "checksum"
FROM {table} ORDER BY "installed_rank"
"""
_MAY_LOOK = """
SELECT to_regclass(%s) IS NOT NULL AND has_table_privilege(to_regclass(%s), 'SELECT')
"""
_ADD_TO_HISTORY = """
INSERT INTO {table} ("installed_rank", "version", "description", "type", "script", "checksum",
                     "installed_by", "execution_time", "success")
SELECT coalesce(max("installed_rank"), 0) + 1, %s, %s, 'SQL', %s, %s, current_user, %s, true
FROM {table}
"""

_Connection = psycopg.Connection[tuple[Any, ...]]
_Version = tuple[int, ...]


class MigrationError(Exception):
    """One line that says what was wrong, where, and what to do; it never holds a password."""


class _File(NamedTuple):
    """A migration; its checksum is a CRC-32 of the lines without their ends."""

    name: str
    version: str
    description: str
    text: str
    checksum: int


def migrate(
    database_url: str, *, folder: Path = _FOLDER, lock_timeout: timedelta = timedelta(minutes=1)
) -> list[str]:
    """Apply what is not applied yet, each migration in a transaction of its own.

    Safe to run from several places at once: one of them applies a migration, the others wait.

    :arg database_url: Of a role that may create tables.

    :arg lock_timeout: How long to wait for another migration to end, and for each lock on a
        table in use: a change that waits for such a lock holds up everyone behind it.

    :returns: Names of the files applied by this call, in order.

    :raises MigrationError: One of them cannot be applied. Those applied before it stay.

    """
    files = _read(folder)
    parameters: dict[str, Any] = {"connect_timeout": 10, **conninfo_to_dict(database_url)}
    applied: list[str] = []
    try:
        with psycopg.connect(**parameters | {"client_encoding": "utf8"}) as conn:
            # What another one committed while this one waited for the lock has to be visible.
            conn.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
            while (name := _apply_next(conn, files, lock_timeout)) is not None:
                applied.append(name)
    except psycopg.Error as error:
        msg = f"DATABASE_URL: {_one_line(error)}"
        raise MigrationError(msg) from error
    return applied


def pending(
    database_url: str, *, folder: Path = _FOLDER, limit: timedelta = timedelta(seconds=10)
) -> list[str]:
    """Look which migrations are not applied yet.

    :arg database_url: Of any role. One that may not read the history cannot know.

    :arg limit: Of an answer.

    :returns: Names of the files, in order. None are pending where there is no history: then
        something else makes the tables.

    :raises MigrationError: It cannot be found out.

    """
    files = _read(folder)
    seconds = max(1, round(limit.total_seconds()))
    parameters: dict[str, Any] = {**conninfo_to_dict(database_url), "connect_timeout": seconds}
    try:
        with psycopg.connect(**parameters | {"client_encoding": "utf8"}, autocommit=True) as conn:
            conn.execute("SELECT set_config('statement_timeout', %s, false)", [str(seconds * 1000)])
            [[may_look]] = conn.execute(_MAY_LOOK, [_HISTORY, _HISTORY])
            if not may_look:
                return []
            rows = conn.execute(sql.SQL(_READ_HISTORY).format(table=sql.Identifier(_HISTORY)))
            applied, baseline = _replay(rows.fetchall())
    except psycopg.Error as error:
        msg = f"DATABASE_URL: {_one_line(error)}"
        raise MigrationError(msg) from None
    return [
        file.name
        for version, file in files.items()
        if version > baseline and version not in applied
    ]


def _read(folder: Path) -> dict[_Version, _File]:
    """Read the files, in the order of their versions."""
    files: dict[_Version, _File] = {}
    for path in sorted(folder.rglob("*.sql")):
        file = _parse(path, folder)
        other = files.setdefault(_version(file.version), file)
        if other is not file:
            msg = f"{other.name} and {file.name} have one version: renumber the newer"
            raise MigrationError(msg)
    if not files:
        msg = f"no migrations in {folder}: were they left out of the image or the checkout?"
        raise MigrationError(msg)
    return dict(sorted(files.items()))


def _parse(path: Path, folder: Path) -> _File:
    match = _NAME.fullmatch(path.name)
    if match is None or path.parent != folder:
        msg = f"{path.relative_to(folder)}: expected V<number>__<description>.sql in {folder}"
        raise MigrationError(msg)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path.name}: cannot be read as UTF-8 text ({type(error).__name__})"
        raise MigrationError(msg) from error
    if "${" in text:
        msg = f"{path.name}: contains ${{, which Flyway would replace: write it in another way"
        raise MigrationError(msg)
    checksum = c_int32(zlib.crc32(text.encode().translate(None, b"\r\n"))).value
    version, description = (
        match["version"].replace("_", "."),
        match["description"].replace("_", " "),
    )
    return _File(path.name, version, description, text, checksum)


def _version(text: str) -> _Version:
    """Compare as Flyway does: by number, and 1 equals 1.0."""
    return tuple(int(part) for part in re.sub(r"(\.0+)+$", "", text).split("."))


def _apply_next(
    conn: _Connection, files: dict[_Version, _File], lock_timeout: timedelta
) -> str | None:
    """Apply one migration under the lock, which ends with the transaction.

    A lock of the session would outlive its transactions, and so get lost behind a pooler.
    """
    with conn.transaction():
        table = _lock(conn, lock_timeout)
        [[is_new]] = conn.execute("SELECT to_regclass(%s) IS NULL", [table.as_string(conn)])
        read = sql.SQL(_READ_HISTORY).format(table=table)
        file = _next([] if is_new else conn.execute(read).fetchall(), files)
        if file is None:
            return None
        if is_new:
            conn.execute(sql.SQL(_CREATE_HISTORY).format(table=table))
        _apply(conn, file, table)
        return file.name


def _lock(conn: _Connection, timeout: timedelta) -> sql.Identifier:
    """Take Flyway's lock on the history, whose name this returns.

    Its number is Flyway's name in ASCII plus Java's hash of the table's quoted name.
    """
    [[schema]] = conn.execute("SELECT current_schema()")
    if schema is None:
        msg = f"no schema to work in: set search_path for {conn.info.user} to one that exists"
        raise MigrationError(msg)
    quoted = '"{}"."{}"'.format(schema.replace('"', '""'), _HISTORY)
    units = memoryview(quoted.encode("utf-16")[2:]).cast("H")
    hashed = reduce(lambda value, unit: 31 * value + unit, units)
    number = int.from_bytes(b"Flyway") + c_int32(hashed).value
    milliseconds = max(1, timeout // timedelta(milliseconds=1))
    conn.execute("SELECT set_config('lock_timeout', %s, true)", [str(milliseconds)])
    try:
        conn.execute("SELECT pg_advisory_xact_lock(%s)", [number])
    except psycopg.errors.LockNotAvailable as error:
        waited = f"{timeout.total_seconds():g} seconds"
        msg = f"another migration has held the lock for {waited} (see pg_locks): try again later"
        raise MigrationError(msg) from error
    return sql.Identifier(schema, _HISTORY)


def _next(rows: list[tuple[Any, ...]], files: dict[_Version, _File]) -> _File | None:
    """Compare the history with the files, and return the first that is not in it."""
    applied, baseline = _replay(rows)
    for version, (script, *recorded) in applied.items():
        file = files.get(version)
        if file is None:
            msg = f"{script} was applied but is not among the files: use the code that has it"
            raise MigrationError(msg)
        if [file.description, file.checksum] != recorded:
            msg = f"{file.name} is not the file that was applied: put changes into a new migration"
            raise MigrationError(msg)
    newest = max(applied, default=())
    missing = [version for version in files if version > baseline and version not in applied]
    if missing and missing[0] < newest:
        older, newer = files[missing[0]].name, files[newest].name
        msg = f"{older} is older than {newer}, which was applied: give it a higher number"
        raise MigrationError(msg)
    return files[missing[0]] if missing else None


def _replay(rows: list[tuple[Any, ...]]) -> tuple[dict[_Version, tuple[Any, ...]], _Version]:
    """Find out what is applied in the end, and the version that Flyway took as its baseline."""
    applied: dict[_Version, tuple[Any, ...]] = {}
    baseline: _Version = ()
    for text, kind, success, *what in rows:
        version = _version(text) if text else None
        if not success:
            msg = f"{what[0]} failed half-way: undo what it left behind, then run Flyway's repair"
            raise MigrationError(msg)
        if version is None:  # a schema that Flyway created, or a repeatable migration
            continue
        if kind == "BASELINE":
            baseline = version
        elif kind == "DELETE" or kind.startswith("UNDO"):
            applied.pop(version, None)
        else:
            applied[version] = tuple(what)
    return applied, baseline


def _apply(conn: _Connection, file: _File, table: sql.Identifier) -> None:
    started = time.monotonic()
    try:
        conn.execute(file.text.encode())
    except psycopg.errors.LockNotAvailable as error:
        msg = f"{file.name}: a table it changes is in use: try again when load is lower"
        raise MigrationError(msg) from error
    except psycopg.Error as error:
        position = error.diag.statement_position
        line = position and f", line {file.text[: int(position) - 1].count(chr(10)) + 1}"
        msg = f"{file.name}{line or ''}: {_one_line(error)} (rolled back; correct it, try again)"
        raise MigrationError(msg) from error
    if conn.info.transaction_status != TransactionStatus.INTRANS:
        msg = f"{file.name}: ends its transaction: undo what it did, take COMMIT and ROLLBACK out"
        raise MigrationError(msg)
    took = round((time.monotonic() - started) * 1000)
    values = [file.version, file.description, file.name, file.checksum, took]
    conn.execute(sql.SQL(_ADD_TO_HISTORY).format(table=table), values)


def _one_line(error: psycopg.Error) -> str:
    """Leave out the detail, which may quote rows, and the text of the statement."""
    return " ".join((error.diag.message_primary or str(error)).split())
