"""Bring a database to the state that the files in `migrations/` describe.

The history is kept in Flyway's own table and guarded by Flyway's own lock, so Flyway and this
module can take turns on one database, even at the same moment. Table, checksum and lock follow
Flyway's source: `PostgreSQLDatabase.getRawCreateScript`, `ChecksumCalculator` and
`PostgreSQLAdvisoryLockTemplate`.

What goes wrong is told in one line, which never contains a password:

```
MigrationError
├── UnreachableError     no connection to the database
├── FilesError           the folder holds something that cannot be applied
├── HistoryError         what the database went through is not what the files say
├── LockError            waited too long for another migration, or for a table in use
└── StatementError       Postgres refused a migration; it was rolled back
```

"""

import re
import time
import zlib
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import class_row, scalar_row

__all__ = [
    "FilesError",
    "HistoryError",
    "LockError",
    "MigrationError",
    "StatementError",
    "UnreachableError",
    "migrate",
    "pending",
]

_FOLDER = Path(__file__).resolve().parent.parent / "migrations"
_HISTORY = "flyway_schema_history"
_NAME = re.compile(r"V(?P<version>\d+(?:[._]\d+)*)__(?P<description>.{1,200})\.sql", re.ASCII)
_CONNECT_SECONDS = 10

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
SELECT "version", "description", "type", "script", "checksum", "success"
FROM {table} ORDER BY "installed_rank"
"""
_ADD_TO_HISTORY = """
INSERT INTO {table} ("installed_rank", "version", "description", "type", "script", "checksum",
                     "installed_by", "execution_time", "success")
SELECT coalesce(max("installed_rank"), 0) + 1, %s, %s, 'SQL', %s, %s, current_user, %s, true
FROM {table}
"""

_Connection = psycopg.Connection[Any]
_Version = tuple[int, ...]


class MigrationError(Exception):
    """Base of what this module raises; the message says what was wrong, where, and what to do."""


class UnreachableError(MigrationError):
    """No connection to the database."""


class FilesError(MigrationError):
    """The folder holds something that cannot be applied."""


class HistoryError(MigrationError):
    """What the database went through is not what the files say."""


class LockError(MigrationError):
    """Waited too long for another migration, or for a table in use."""


class StatementError(MigrationError):
    """Postgres refused a migration."""


class _Row(NamedTuple):
    """A row of the history, as this module and as Flyway write it."""

    version: str | None
    description: str
    type: str
    script: str
    checksum: int | None
    success: bool


@dataclass(frozen=True)
class _Migration:
    """A file of the folder."""

    name: str
    version_text: str
    description: str
    content: bytes

    @cached_property
    def version(self) -> _Version:
        return _version(self.version_text)

    @cached_property
    def checksum(self) -> int:
        """CRC-32 of the lines without their ends, as Java's signed int."""
        crc = zlib.crc32(self.content.translate(None, b"\r\n"))
        return crc - (1 << 32) if crc >= 1 << 31 else crc

    def line_of(self, position: str | None) -> str:
        """Where in the file Postgres found an error, as far as it says."""
        if position is None:
            return self.name
        before = self.content.decode()[: int(position) - 1]
        return f"{self.name}, line {before.count(chr(10)) + 1}"


def migrate(
    database_url: str,
    *,
    folder: Path = _FOLDER,
    lock_timeout: timedelta = timedelta(minutes=1),
) -> list[str]:
    """Apply what is not applied yet, each migration in a transaction of its own.

    Safe to run from several places at once: one of them applies a migration, the others wait.

    :arg database_url: Connection string of a role that may create tables.

    :arg folder: Where the migrations lie, in Flyway's naming.

    :arg lock_timeout: How long to wait for another migration to end, and for each lock on a
        table in use: a change that waits for such a lock holds up everyone behind it.

    :returns: Names of the files applied by this call, in order.

    :raises MigrationError: One of the tree above. Migrations applied before it stay.

    """
    migrations = _read(folder)
    applied: list[str] = []
    with _connect(database_url) as conn:
        while (name := _apply_next(conn, migrations, lock_timeout)) is not None:
            applied.append(name)
    return applied


def pending(conn: _Connection, *, folder: Path = _FOLDER) -> list[str]:
    """Name the migrations that this database still needs.

    Reads only, and needs no right but SELECT on the history. A database that is ahead of the
    files is taken as it is, so that an older version can be started again beside a newer one.

    :arg conn: Connection in any state; a transaction that is open stays open.

    :arg folder: Where the migrations lie, in Flyway's naming.

    :returns: Names of the files not applied yet, in order.

    :raises FilesError: As for `migrate`.

    :raises HistoryError: If a file was changed or a migration failed, or the history may not be
        read.

    """
    migrations = _read(folder)
    try:
        with conn.transaction():
            rows = _history(conn, _schema(conn))
    except psycopg.errors.InsufficientPrivilege as error:
        msg = f"may not read {_HISTORY}: grant SELECT on it to {conn.info.user}"
        raise HistoryError(msg) from error
    return [it.name for it in _missing_from(rows or [], migrations, allow_newer=True)]


# Files.


def _version(text: str) -> _Version:
    """Compare as Flyway does: by number, and 1 equals 1.0."""
    parts = [int(part) for part in re.split("[._]", text)]
    while len(parts) > 1 and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def _read(folder: Path) -> list[_Migration]:
    migrations: dict[_Version, _Migration] = {}
    for path in sorted(folder.rglob("*.sql")):
        migration = _parse(path, folder)
        other = migrations.setdefault(migration.version, migration)
        if other is not migration:
            msg = f"{other.name} and {migration.name} have one version: renumber the newer"
            raise FilesError(msg)
    if not migrations:
        msg = f"no migrations in {folder}: were they left out of the image or the checkout?"
        raise FilesError(msg)
    return [migrations[version] for version in sorted(migrations)]


def _parse(path: Path, folder: Path) -> _Migration:
    match = _NAME.fullmatch(path.name)
    if match is None or path.parent != folder:
        msg = f"{path.relative_to(folder)}: expected V<number>__<description>.sql in {folder}"
        raise FilesError(msg)
    try:
        text = path.read_bytes().decode("utf-8").removeprefix("\ufeff")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path.name}: cannot be read as UTF-8 text ({type(error).__name__})"
        raise FilesError(msg) from error
    if "${" in text:
        msg = f"{path.name}: contains ${{, which Flyway would replace: write it in another way"
        raise FilesError(msg)
    return _Migration(
        name=path.name,
        version_text=match["version"].replace("_", "."),
        description=match["description"].replace("_", " "),
        content=text.encode(),
    )


# Database.


def _connect(database_url: str) -> _Connection:
    try:
        params = conninfo_to_dict(database_url)
    except psycopg.ProgrammingError:
        params = None
    # A password with an unescaped @ or / ends up in host, port or name of the database, and
    # from there in libpq's messages.
    if (
        params is None
        or "@" in f"{params.get('host', '')}{params.get('dbname', '')}"
        or not re.fullmatch(r"[\d,]*", str(params.get("port", "")))
    ):
        msg = (
            "the database URL cannot be read: expected postgresql://user:password@host:5432/name, "
            "with special characters in the password percent-encoded"
        )
        raise UnreachableError(msg) from None
    try:
        conn = psycopg.connect(
            make_conninfo("", **{"connect_timeout": _CONNECT_SECONDS, **params}),
            client_encoding="utf8",
        )
    except psycopg.OperationalError as error:
        msg = f"no connection to the database: {_one_line(error)}"
        raise UnreachableError(msg) from error
    # What another one committed while this one waited for the lock has to be visible.
    conn.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    return conn


def _apply_next(
    conn: _Connection, migrations: list[_Migration], lock_timeout: timedelta
) -> str | None:
    """Apply one migration under the lock, which ends with the transaction.

    A lock of the session would outlive its transactions, and so get lost behind a pooler.
    """
    try:
        with conn.transaction():
            schema = _schema(conn)
            _lock(conn, schema, lock_timeout)
            rows = _history(conn, schema)
            missing = _missing_from(rows or [], migrations, allow_newer=False)
            if not missing:
                return None
            table = sql.Identifier(schema, _HISTORY)
            if rows is None:
                conn.execute(sql.SQL(_CREATE_HISTORY).format(table=table))
            _apply(conn, missing[0], table)
            return missing[0].name
    except psycopg.Error as error:
        msg = f"the database refused: {_one_line(error)}"
        raise StatementError(msg) from error


def _schema(conn: _Connection) -> str:
    with conn.cursor(row_factory=scalar_row) as cursor:
        schema: str | None = cursor.execute("SELECT current_schema()").fetchone()
    if schema is None:
        msg = f"no schema to work in: set search_path for {conn.info.user} to one that exists"
        raise HistoryError(msg)
    return schema


def _lock(conn: _Connection, schema: str, timeout: timedelta) -> None:
    milliseconds = max(1, round(timeout.total_seconds() * 1000))
    conn.execute("SELECT set_config('lock_timeout', %s, true)", [str(milliseconds)])
    try:
        conn.execute("SELECT pg_advisory_xact_lock(%s)", [_lock_number(schema)])
    except psycopg.errors.LockNotAvailable as error:
        msg = (
            f"another migration of this database has been running for {timeout.total_seconds():g} "
            "seconds: wait for it to end, then try again (pg_locks shows who holds the advisory "
            "lock)"
        )
        raise LockError(msg) from error


def _lock_number(schema: str) -> int:
    """Flyway's key: its name in ASCII plus Java's hash of the table's quoted name."""
    quoted = '"{}"."{}"'.format(schema.replace('"', '""'), _HISTORY)
    units = quoted.encode("utf-16-be")
    value = 0
    for i in range(0, len(units), 2):
        value = (31 * value + int.from_bytes(units[i : i + 2])) & 0xFFFF_FFFF
    return int.from_bytes(b"Flyway") + (value - (1 << 32) if value >= 1 << 31 else value)


def _history(conn: _Connection, schema: str) -> list[_Row] | None:
    """Read the history; None if there is no table for it yet."""
    table = sql.Identifier(schema, _HISTORY)
    with conn.cursor(row_factory=scalar_row) as cursor:
        name = table.as_string(conn)
        if cursor.execute("SELECT to_regclass(%s)::text", [name]).fetchone() is None:
            return None
    with conn.cursor(row_factory=class_row(_Row)) as rows:
        return rows.execute(sql.SQL(_READ_HISTORY).format(table=table)).fetchall()


def _apply(conn: _Connection, migration: _Migration, table: sql.Identifier) -> None:
    started = time.monotonic()
    try:
        conn.execute(migration.content)
    except psycopg.errors.LockNotAvailable as error:
        msg = f"{migration.name}: a table it changes is in use: try again when load is lower"
        raise LockError(msg) from error
    except psycopg.Error as error:
        where = migration.line_of(error.diag.statement_position)
        msg = f"{where}: {_one_line(error)} (rolled back; correct it and try again)"
        raise StatementError(msg) from error
    if conn.info.transaction_status != TransactionStatus.INTRANS:
        msg = (
            f"{migration.name}: ends the transaction it runs in: undo by hand what it did, and "
            "take COMMIT and ROLLBACK out of it"
        )
        raise StatementError(msg)
    conn.execute(
        sql.SQL(_ADD_TO_HISTORY).format(table=table),
        [
            migration.version_text,
            migration.description,
            migration.name,
            migration.checksum,
            round((time.monotonic() - started) * 1000),
        ],
    )


def _one_line(error: psycopg.Error) -> str:
    """Leave out the detail, which may quote rows, and the text of the statement."""
    return " ".join((error.diag.message_primary or str(error)).split())


# Files against database.


def _missing_from(
    rows: list[_Row], migrations: list[_Migration], *, allow_newer: bool
) -> list[_Migration]:
    """Compare, and return the migrations that are not in the history."""
    applied, baseline = _replay(rows)
    newest_file = migrations[-1].version
    newest = max(applied, default=())
    files = {migration.version: migration for migration in migrations}
    for version, row in applied.items():
        if version not in files and not (allow_newer and version > newest_file):
            msg = (
                f"{row.script} was applied to this database but is not among the files: use the "
                "version of the code that has it"
            )
            raise HistoryError(msg)
    missing = []
    for migration in migrations:
        if migration.version in applied:
            _compare(migration, applied[migration.version])
        elif migration.version > max(newest, baseline):
            missing.append(migration)
        elif migration.version > baseline:
            msg = (
                f"{migration.name} is older than {applied[newest].script}, which was applied "
                "already: give it a higher number"
            )
            raise HistoryError(msg)
    return missing


def _replay(rows: list[_Row]) -> tuple[dict[_Version, _Row], _Version]:
    """Follow the history: what is applied at its end, and from where it was counted."""
    applied: dict[_Version, _Row] = {}
    baseline: _Version = ()
    for row in rows:
        if not row.success:
            msg = (
                f"{row.script} failed half-way in an earlier run of Flyway: put right what it "
                "left behind, then run Flyway's repair"
            )
            raise HistoryError(msg)
        if row.version is None:  # a schema that Flyway created, or a repeatable migration
            continue
        version = _version(row.version)
        if row.type == "BASELINE":
            baseline = version
        elif row.type == "DELETE" or row.type.startswith("UNDO"):
            applied.pop(version, None)
        else:
            applied[version] = row
    return applied, baseline


def _compare(migration: _Migration, row: _Row) -> None:
    if (migration.checksum, migration.description) != (row.checksum, row.description):
        msg = (
            f"{migration.name} is not the file that was applied to this database (checksum "
            f"{migration.checksum}, applied {row.checksum}): restore it and put the change into "
            "a new migration"
        )
        raise HistoryError(msg)
