"""Migrations, against Postgres and against Flyway itself."""

import os
import re
import secrets
import shutil
import subprocess
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from lab.servers import Postgres
from ops.migrate import (
    FilesError,
    HistoryError,
    LockError,
    MigrationError,
    StatementError,
    UnreachableError,
    migrate,
    pending,
)

_ROOT = Path(__file__).parents[2]
_FILES = sorted(path.name for path in (_ROOT / "migrations").glob("*.sql"))

# What Flyway itself holds while it migrates the schema "public", as seen in pg_locks.
_FLYWAY_LOCK = 77433833903597

_FLYWAY_VERSION = "11.8.2"
_JDBC_VERSION = "42.7.7"
_POM = f"""
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>tests</groupId>
  <artifactId>flyway</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <build>
    <plugins>
      <plugin>
        <groupId>org.flywaydb</groupId>
        <artifactId>flyway-maven-plugin</artifactId>
        <version>{_FLYWAY_VERSION}</version>
        <dependencies>
          <dependency>
            <groupId>org.flywaydb</groupId>
            <artifactId>flyway-database-postgresql</artifactId>
            <version>{_FLYWAY_VERSION}</version>
          </dependency>
          <dependency>
            <groupId>org.postgresql</groupId>
            <artifactId>postgresql</artifactId>
            <version>{_JDBC_VERSION}</version>
          </dependency>
        </dependencies>
      </plugin>
    </plugins>
  </build>
</project>
"""


@pytest.fixture
def empty_url(postgres: Postgres) -> Iterator[str]:
    """URL of the test's own database, with nothing in it."""
    name = f"empty_{secrets.token_hex(6)}"
    postgres.create_database(name)
    yield postgres.url(name)
    postgres.drop_database(name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder of two migrations, small ones."""
    path = tmp_path / "migrations"
    path.mkdir()
    (path / "V1__first.sql").write_text("CREATE TABLE first (id integer);\n")
    (path / "V2__second.sql").write_text("CREATE TABLE second (id integer);\n")
    return path


def _rows(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as conn:
        return conn.execute(query.encode()).fetchall()


def _run(url: str, statement: str) -> None:
    with psycopg.connect(url) as conn:
        conn.execute(statement.encode())


def _tables(url: str) -> set[str]:
    rows = _rows(url, "SELECT relname FROM pg_stat_user_tables")
    return {name for (name,) in rows}


# Applying.


def test_applies_all_to_an_empty_database(empty_url: str) -> None:
    """An empty database gets every migration, in order, and is told their names."""
    assert migrate(empty_url) == _FILES
    assert {"transactions", "predictions", "duplicates"} < _tables(empty_url)


def test_second_run_applies_nothing(database_url: str) -> None:
    """A database that is up to date stays as it is."""
    assert migrate(database_url) == []


def test_applies_only_what_is_missing(empty_url: str, folder: Path) -> None:
    """A file that was added is applied, those before it are not applied again."""
    migrate(empty_url, folder=folder)
    (folder / "V10__third.sql").write_text("CREATE TABLE third (id integer);")
    assert migrate(empty_url, folder=folder) == ["V10__third.sql"]


def test_versions_are_ordered_by_number(empty_url: str, folder: Path) -> None:
    """V10 comes after V2 and V1.1 between V1 and V2."""
    (folder / "V10__d.sql").write_text("ALTER TABLE second ADD COLUMN more integer;")
    (folder / "V1_1__b.sql").write_text("ALTER TABLE first ADD COLUMN more integer;")
    names = ["V1__first.sql", "V1_1__b.sql", "V2__second.sql", "V10__d.sql"]
    assert migrate(empty_url, folder=folder) == names


def test_five_at_once_apply_each_migration_once(empty_url: str, tmp_path: Path) -> None:
    """Pods that start together share the work, and none fails."""
    names = [f"V{i}__table_{i}.sql" for i in range(1, 6)]
    for i, name in enumerate(names):
        sql = f"CREATE TABLE table_{i} (id integer); SELECT pg_sleep(0.05);"
        (tmp_path / name).write_text(sql)
    start = threading.Barrier(5)

    def run() -> list[str]:
        start.wait()
        return migrate(empty_url, folder=tmp_path)

    with ThreadPoolExecutor(5) as pool:
        runs = [pool.submit(run) for _ in range(5)]
    applied = sorted(name for run_ in runs for name in run_.result())

    assert applied == names
    history = _rows(empty_url, "SELECT script FROM flyway_schema_history ORDER BY installed_rank")
    assert history == [(name,) for name in names]


def test_line_endings_and_byte_order_mark_do_not_count(empty_url: str, folder: Path) -> None:
    """A checkout on Windows is the same migration."""
    migrate(empty_url, folder=folder)
    for path in folder.iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert migrate(empty_url, folder=folder) == []


# Refusing.


def test_changed_file_is_refused(empty_url: str, folder: Path) -> None:
    """A file that was changed after it was applied is named."""
    migrate(empty_url, folder=folder)
    (folder / "V1__first.sql").write_text("CREATE TABLE first (id bigint);\n")
    with pytest.raises(HistoryError, match=r"V1__first\.sql is not the file that was applied"):
        migrate(empty_url, folder=folder)


def test_renamed_file_is_refused(empty_url: str, folder: Path) -> None:
    """A description that was changed is refused, as Flyway does."""
    migrate(empty_url, folder=folder)
    (folder / "V1__first.sql").rename(folder / "V1__premier.sql")
    with pytest.raises(HistoryError, match=r"V1__premier\.sql is not the file"):
        migrate(empty_url, folder=folder)


def test_database_ahead_of_the_files_is_refused(empty_url: str, folder: Path) -> None:
    """An applied migration without its file means an old checkout."""
    migrate(empty_url, folder=folder)
    (folder / "V2__second.sql").unlink()
    with pytest.raises(HistoryError, match=r"V2__second\.sql was applied .* not among the files"):
        migrate(empty_url, folder=folder)


def test_file_older_than_the_newest_applied_is_refused(empty_url: str, folder: Path) -> None:
    """A number below one that was applied would be applied in another order elsewhere."""
    migrate(empty_url, folder=folder)
    (folder / "V1.5__late.sql").write_text("SELECT 1;")
    with pytest.raises(HistoryError, match=r"V1\.5__late\.sql is older than V2__second\.sql"):
        migrate(empty_url, folder=folder)


def test_failed_row_is_refused(empty_url: str, folder: Path) -> None:
    """What Flyway left half-done has to be put right first."""
    migrate(empty_url, folder=folder)
    _run(empty_url, "UPDATE flyway_schema_history SET success = false WHERE version = '2'")
    with pytest.raises(HistoryError, match=r"V2__second\.sql failed half-way"):
        migrate(empty_url, folder=folder)


@pytest.mark.parametrize("name", ["V2__other.sql", "V2.0__other.sql", "V02__other.sql"])
def test_two_files_of_one_version_are_refused(empty_url: str, folder: Path, name: str) -> None:
    """Two branches that took one number are told so, and nothing is applied."""
    (folder / name).write_text("SELECT 1;")
    with pytest.raises(FilesError, match="have one version"):
        migrate(empty_url, folder=folder)
    assert _tables(empty_url) == set()


@pytest.mark.parametrize("name", ["V3_third.sql", "R__view.sql", "third.sql", "more/V3__third.sql"])
def test_other_names_are_refused(empty_url: str, folder: Path, name: str) -> None:
    """A file that would be passed over is an error."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("SELECT 1;")
    with pytest.raises(FilesError, match=re.escape(name)):
        migrate(empty_url, folder=folder)


def test_placeholder_is_refused(empty_url: str, folder: Path) -> None:
    """Flyway would replace it, Postgres would not."""
    (folder / "V3__third.sql").write_text("SELECT '${name}';")
    with pytest.raises(FilesError, match=r"V3__third\.sql"):
        migrate(empty_url, folder=folder)


def test_empty_folder_is_refused(empty_url: str, tmp_path: Path) -> None:
    """An image without its migrations does not count as up to date."""
    with pytest.raises(FilesError, match="no migrations in"):
        migrate(empty_url, folder=tmp_path)


def test_failing_migration_is_rolled_back(empty_url: str, folder: Path) -> None:
    """An error names file and line, leaves nothing of its file, and keeps those before it."""
    (folder / "V2__second.sql").write_text("CREATE TABLE second ();\n\nSELECT nothing;\n")
    with pytest.raises(StatementError, match=r'V2__second\.sql, line 3: column "nothing"') as error:
        migrate(empty_url, folder=folder)
    assert "\n" not in str(error.value)
    assert _tables(empty_url) == {"first", "flyway_schema_history"}


def test_migration_that_commits_is_refused(empty_url: str, folder: Path) -> None:
    """A file must not end the transaction that keeps it and its history together."""
    (folder / "V2__second.sql").write_text("CREATE TABLE second (); COMMIT;")
    with pytest.raises(StatementError, match="ends the transaction"):
        migrate(empty_url, folder=folder)
    assert _rows(empty_url, "SELECT version FROM flyway_schema_history") == [("1",)]


def test_waits_no_longer_than_allowed_for_another_migration(empty_url: str) -> None:
    """While another migration holds the lock, one waits for the time given, then says so."""
    with psycopg.connect(empty_url) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [_FLYWAY_LOCK])
        with pytest.raises(LockError, match=r"another migration .* for 0\.05 seconds"):
            migrate(empty_url, lock_timeout=timedelta(milliseconds=50))


def test_waits_no_longer_than_allowed_for_a_table(empty_url: str, folder: Path) -> None:
    """A table in use holds a migration up for the time given, and the migration is named."""
    migrate(empty_url, folder=folder)
    (folder / "V3__third.sql").write_text("ALTER TABLE first ADD COLUMN more integer;")
    with psycopg.connect(empty_url) as other:
        other.execute("SELECT * FROM first")
        with pytest.raises(LockError, match=r"V3__third\.sql: a table it changes is in use"):
            migrate(empty_url, folder=folder, lock_timeout=timedelta(milliseconds=50))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:s3cr@t@127.0.0.1:1/name",
        "postgresql://user:1/s3cr@127.0.0.1:1/name",
        "postgresql://user:s3cr/t@127.0.0.1:1/name",
        "postgresql://user:%zs3cr@127.0.0.1:1/name",
        "host=127.0.0.1 password='s3cr",
        "postgresql://user:s3cr@127.0.0.1:1/name",
    ],
)
def test_no_password_is_told(url: str) -> None:
    """Neither a URL that cannot be read nor an unreachable server brings a password to light."""
    with pytest.raises(UnreachableError) as caught:
        migrate(url)
    told = "".join(traceback.format_exception(caught.value))
    assert "s3cr" not in told
    assert "@t" not in told


def test_wrong_password_is_told_without_it(postgres: Postgres) -> None:
    """A refused login is one line that names the user."""
    with pytest.raises(UnreachableError, match='user "postgres"') as caught:
        migrate(postgres.url(password="s3cr"))  # noqa: S106  # the wrong one, on purpose
    assert "\n" not in str(caught.value)
    assert "s3cr" not in str(caught.value)


def test_one_tree_of_errors() -> None:
    """Who catches `MigrationError` catches all."""
    tree = {FilesError, HistoryError, LockError, StatementError, UnreachableError}
    assert set(MigrationError.__subclasses__()) == tree


# Asking.


def test_pending_names_what_is_missing(empty_url: str, folder: Path) -> None:
    """Everything on an empty database, the rest on an older one, nothing on a present one."""
    with psycopg.connect(empty_url) as conn:
        assert pending(conn, folder=folder) == ["V1__first.sql", "V2__second.sql"]
    migrate(empty_url, folder=folder)
    with psycopg.connect(empty_url) as conn:
        assert pending(conn, folder=folder) == []
        (folder / "V3__third.sql").write_text("SELECT 1;")
        assert pending(conn, folder=folder) == ["V3__third.sql"]


def test_pending_needs_only_select(database_url: str) -> None:
    """A role that may only read the history, in a read-only transaction, gets its answer."""
    with psycopg.connect(database_url) as conn:
        conn.execute("CREATE ROLE reader")
        conn.execute("GRANT SELECT ON flyway_schema_history TO reader")
        conn.execute("SET LOCAL ROLE reader")
        conn.execute("SET LOCAL transaction_read_only = on")
        assert pending(conn) == []
        conn.rollback()


def test_pending_without_select_says_what_to_grant(database_url: str) -> None:
    """A missing right is told, and the caller's transaction goes on."""
    with psycopg.connect(database_url) as conn:
        conn.execute("CREATE ROLE reader")
        conn.execute("SET LOCAL ROLE reader")
        with pytest.raises(HistoryError, match="grant SELECT"):
            pending(conn)
        assert conn.execute("SELECT 1").fetchone() == (1,)
        conn.rollback()


def test_pending_lets_a_newer_database_pass(empty_url: str, folder: Path) -> None:
    """An older version of the code may start while a newer one is being rolled out."""
    migrate(empty_url, folder=folder)
    (folder / "V2__second.sql").unlink()
    with psycopg.connect(empty_url) as conn:
        assert pending(conn, folder=folder) == []


def test_pending_refuses_a_changed_file(empty_url: str, folder: Path) -> None:
    """Tables of another make than the code expects are no basis to start on."""
    migrate(empty_url, folder=folder)
    (folder / "V1__first.sql").write_text("CREATE TABLE first (id bigint);\n")
    with psycopg.connect(empty_url) as conn, pytest.raises(HistoryError, match="V1__first"):
        pending(conn, folder=folder)


# The tables.


def _queries(heading: str) -> list[str]:
    """Read the SQL blocks below a heading of the page that people copy from."""
    page = (_ROOT / "docs" / "tables.md").read_text()
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```sql\n(.*?);\n```", section, flags=re.DOTALL)


_MONITORING = _queries("Monitoring queries")
_RETENTION = _queries("Retention")

# A month at one rate, stored in the order of time, as the stream does.
_FILL = """
INSERT INTO transactions
SELECT lpad(i::text, 32, '0')::uuid, CASE WHEN i % 1000 = 0 THEN i::text END, 'Order', i % 500,
       at, 'Shop', 'card', 'debit', at, 'transactions', i % 16, i
FROM generate_series(1, 200000) AS i, LATERAL (
    SELECT now() - interval '30 days' * (1 - i / 200000.0)
) AS clock (at);
INSERT INTO predictions
SELECT id, CASE WHEN source_offset % 50 = 0 THEN 'fraud' ELSE 'legitimate' END,
       (source_offset % 100) / 100.0, 'v1', created_at
FROM transactions ORDER BY created_at;
INSERT INTO duplicates
SELECT id, source_topic, source_partition, source_offset + 1000000, created_at
FROM transactions WHERE source_offset % 10 = 0 ORDER BY created_at;
"""


@pytest.fixture(scope="session")
def big_url(_postgres: Postgres, _template: str) -> str:
    """URL of a database with a month of rows; tests only read it."""
    _postgres.recover()
    _postgres.create_database("big", template=_template)
    url = _postgres.url("big")
    _run(url, _FILL)
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("VACUUM (ANALYZE) transactions, predictions, duplicates")
    return url


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)


def _whole_scans(url: str, query: str) -> list[str]:
    """Steps of the plan that read a table, or an index, from end to end."""
    [[[explained]]] = _rows(url, f"EXPLAIN (FORMAT json) {query}")
    return [
        f"{node['Node Type']} on {node.get('Relation Name', node.get('Index Name'))}"
        for node in _nodes(explained["Plan"])
        if node["Node Type"] == "Seq Scan"
        or ("Index" in node["Node Type"] and "Index Cond" not in node)
    ]


@pytest.mark.parametrize("query", _MONITORING)
def test_monitoring_query_uses_indexes(big_url: str, query: str) -> None:
    """Each query of the page finds something, and reads no table from end to end."""
    assert _rows(big_url, query)
    assert _whole_scans(big_url, query) == []


@pytest.mark.parametrize("query", _RETENTION)
def test_retention_uses_indexes(big_url: str, query: str) -> None:
    """Finding what is old enough to be deleted reads no table from end to end."""
    assert _whole_scans(big_url, query) == []


def test_page_has_its_queries() -> None:
    """The tests above have something to test."""
    assert len(_MONITORING) >= 10
    assert len(_RETENTION) == 2


_TRANSACTION = """
INSERT INTO transactions (id, description, amount, "timestamp", operation_type, side,
                          source_topic, source_partition, source_offset)
VALUES ('00000000-0000-0000-0000-{id:012d}', '', 1, now(), '', '', 'transactions', 0, {offset})
"""
_PREDICTION = """
INSERT INTO predictions (transaction_id, prediction, fraud_score)
VALUES ('00000000-0000-0000-0000-{id:012d}', 'fraud', '{score}')
"""


@pytest.mark.parametrize("score", ["NaN", "Infinity", "-Infinity", "-0.001", "1.001"])
def test_score_outside_its_range_is_refused(database_url: str, score: str) -> None:
    """No score but a number from 0 to 1 is stored, whatever the writer does."""
    _run(database_url, _TRANSACTION.format(id=1, offset=1))
    with pytest.raises(psycopg.errors.CheckViolation):
        _run(database_url, _PREDICTION.format(id=1, score=score))


@pytest.mark.parametrize("score", [0, 0.5, 1])
def test_score_in_its_range_is_stored(database_url: str, score: float) -> None:
    """Both ends of the range belong to it."""
    _run(database_url, _TRANSACTION.format(id=1, offset=1))
    _run(database_url, _PREDICTION.format(id=1, score=score))
    assert _rows(database_url, "SELECT fraud_score FROM predictions") == [(score,)]


def test_position_is_stored_once(database_url: str) -> None:
    """Two transactions cannot come from one message."""
    _run(database_url, _TRANSACTION.format(id=1, offset=7))
    with pytest.raises(psycopg.errors.UniqueViolation):
        _run(database_url, _TRANSACTION.format(id=2, offset=7))


def test_prediction_needs_its_transaction(database_url: str) -> None:
    """A prediction of nothing is refused."""
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        _run(database_url, _PREDICTION.format(id=1, score=0.5))


def test_prediction_goes_with_its_transaction(database_url: str) -> None:
    """Deleting transactions, as retention does, leaves no prediction behind."""
    _run(database_url, _TRANSACTION.format(id=1, offset=1))
    _run(database_url, _PREDICTION.format(id=1, score=0.5))
    _run(database_url, "DELETE FROM transactions")
    assert _rows(database_url, "SELECT * FROM predictions") == []


# Flyway itself, from Maven Central.


class _Flyway:
    """Flyway, run by Maven on one database.

    :arg folder: Where Maven may work.

    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "pom.xml").write_text(_POM)

    def __call__(self, goal: str, url: str, migrations: Path, *options: str) -> str:
        """Run a goal; its output is in the error if it fails."""
        to = conninfo_to_dict(url)
        done = subprocess.run(  # noqa: S603  # nothing comes from outside
            ["mvn", "-B", f"flyway:{goal}", *options],  # noqa: S607  # wherever it is installed
            cwd=self._folder,
            env={
                **os.environ,
                "FLYWAY_URL": f"jdbc:postgresql://{to['host']}:{to['port']}/{to['dbname']}",
                "FLYWAY_USER": str(to["user"]),
                "FLYWAY_PASSWORD": str(to["password"]),
                "FLYWAY_LOCATIONS": f"filesystem:{migrations}",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(done.stdout)
        return done.stdout


@pytest.fixture
def flyway(tmp_path: Path) -> _Flyway:
    """Flyway, in a folder of its own."""
    if shutil.which("mvn") is None:
        pytest.skip("needs Java 17 and Maven")
    path = tmp_path / "flyway"
    path.mkdir()
    return _Flyway(path)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Our own migrations and some that put naming and checksums to the test."""
    path = tmp_path / "files"
    shutil.copytree(_ROOT / "migrations", path)
    (path / "V900_1__Two__words_.sql").write_bytes(b"\xef\xbb\xbfSELECT 1;\r\n\r\n-- \xc3\xa9\r\n")
    (path / "V900.10__old mac.sql").write_bytes(b"SELECT 1;\rSELECT 2;\r\n\nSELECT 3;")
    return path


_HISTORY = """
SELECT installed_rank, version, description, type, script, checksum, installed_by, success
FROM flyway_schema_history ORDER BY installed_rank
"""
_LAYOUT = """
SELECT column_name, data_type, character_maximum_length, is_nullable, column_default
FROM information_schema.columns WHERE table_name = 'flyway_schema_history'
ORDER BY ordinal_position
"""
_INDEXES = "SELECT indexdef FROM pg_indexes WHERE tablename = 'flyway_schema_history' ORDER BY 1"


@pytest.mark.flyway
@pytest.mark.timeout(600)  # the first run fetches Flyway
def test_after_flyway_there_is_nothing_to_do(flyway: _Flyway, empty_url: str, files: Path) -> None:
    """What Flyway applied counts as applied."""
    flyway("migrate", empty_url, files)
    assert {"transactions", "predictions", "duplicates"} < _tables(empty_url)
    assert migrate(empty_url, folder=files) == []
    with psycopg.connect(empty_url) as conn:
        assert pending(conn, folder=files) == []


@pytest.mark.flyway
@pytest.mark.timeout(600)
def test_flyway_finds_nothing_to_do(flyway: _Flyway, empty_url: str, files: Path) -> None:
    """What we applied is valid to Flyway, which applies nothing."""
    assert len(migrate(empty_url, folder=files)) == len(_FILES) + 2
    before = _rows(empty_url, _HISTORY)
    assert "Successfully validated" in flyway("validate", empty_url, files)
    assert "No migration necessary" in flyway("migrate", empty_url, files)
    assert _rows(empty_url, _HISTORY) == before


@pytest.mark.flyway
@pytest.mark.timeout(600)
@pytest.mark.parametrize("query", [_HISTORY, _LAYOUT, _INDEXES], ids=["rows", "layout", "indexes"])
def test_history_is_the_one_flyway_writes(
    flyway: _Flyway, postgres: Postgres, empty_url: str, files: Path, query: str
) -> None:
    """Both leave the same table with the same rows."""
    name = f"ours_{secrets.token_hex(6)}"
    postgres.create_database(name)
    migrate(postgres.url(name), folder=files)
    flyway("migrate", empty_url, files)
    assert _rows(postgres.url(name), query) == _rows(empty_url, query)
    postgres.drop_database(name)


@pytest.mark.flyway
@pytest.mark.timeout(600)
def test_flyway_validates_changed_files_as_we_do(
    flyway: _Flyway, empty_url: str, files: Path
) -> None:
    """The check above can fail: Flyway does compare what we wrote."""
    migrate(empty_url, folder=files)
    (files / "V900.10__old mac.sql").write_text("SELECT 2;")
    with pytest.raises(RuntimeError, match="checksum mismatch"):
        flyway("validate", empty_url, files)


@pytest.mark.flyway
@pytest.mark.timeout(600)
def test_flyway_and_we_exclude_each_other(flyway: _Flyway, empty_url: str, files: Path) -> None:
    """Flyway gives up while someone holds the lock that we wait for."""
    with psycopg.connect(empty_url) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [_FLYWAY_LOCK])
        with pytest.raises(RuntimeError, match="advisory lock"):
            flyway("migrate", empty_url, files, "-Dflyway.lockRetryCount=1")
