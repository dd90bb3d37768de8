"""Migrations, against Postgres and against Flyway itself."""

import os
import re
import secrets
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from lab.servers import Postgres
from ops.migrate import MigrationError, migrate
from tests.kit.checkout import CHECKOUT
from tests.kit.postgres import query

_FILES = sorted(path.name for path in (CHECKOUT / "migrations").glob("*.sql"))

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


def _tables(url: str) -> set[str]:
    return {name for (name,) in query(url, "SELECT relname FROM pg_stat_user_tables")}


# Applying.


def test_an_empty_database_gets_every_migration_once(empty_url: str) -> None:
    """In order, with their names; a second run finds nothing to do."""
    assert migrate(empty_url) == _FILES
    assert {"transactions", "predictions", "duplicates"} < _tables(empty_url)
    assert migrate(empty_url) == []


def test_what_is_missing_is_applied_in_the_order_of_numbers(empty_url: str, folder: Path) -> None:
    """V1.1 goes between V1 and V2, V10 behind V2; a file that is added later goes on from there."""
    (folder / "V1_1__b.sql").write_text("ALTER TABLE first ADD COLUMN more integer;")
    assert migrate(empty_url, folder=folder) == ["V1__first.sql", "V1_1__b.sql", "V2__second.sql"]
    (folder / "V10__d.sql").write_text("ALTER TABLE second ADD COLUMN more integer;")
    assert migrate(empty_url, folder=folder) == ["V10__d.sql"]


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
    history = query(empty_url, "SELECT script FROM flyway_schema_history ORDER BY installed_rank")
    assert history == [(name,) for name in names]


def test_line_endings_and_byte_order_mark_do_not_count(empty_url: str, folder: Path) -> None:
    """A checkout on Windows is the same migration."""
    migrate(empty_url, folder=folder)
    for path in folder.iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert migrate(empty_url, folder=folder) == []


def test_what_flyway_says_of_its_history_counts(empty_url: str, folder: Path) -> None:
    """At and below its baseline nothing is applied; what was undone is applied again."""
    migrate(empty_url, folder=folder)
    query(empty_url, "UPDATE flyway_schema_history SET type = 'BASELINE' WHERE version = '1'")
    query(empty_url, "UPDATE flyway_schema_history SET type = 'UNDO_SQL' WHERE version = '2'")
    (folder / "V0.9__before.sql").write_text("SELECT nothing;")
    (folder / "V2__second.sql").write_text("ALTER TABLE second ADD COLUMN more integer;")
    assert migrate(empty_url, folder=folder) == ["V2__second.sql"]


# Refusing.


def _change(folder: Path) -> None:
    (folder / "V1__first.sql").write_text("CREATE TABLE first (id bigint);\n")


def _rename(folder: Path) -> None:
    (folder / "V1__first.sql").rename(folder / "V1__premier.sql")


def _remove(folder: Path) -> None:
    (folder / "V2__second.sql").unlink()


def _insert(folder: Path) -> None:
    (folder / "V1.5__late.sql").write_text("SELECT 1;")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (_change, "V1__first.sql is not the file that was applied"),
        (_rename, "V1__premier.sql is not the file that was applied"),
        (_remove, "V2__second.sql was applied but is not among the files"),
        (_insert, "V1.5__late.sql is older than V2__second.sql"),
    ],
)
def test_files_that_the_history_contradicts_are_refused(
    empty_url: str, folder: Path, change: Callable[[Path], None], complaint: str
) -> None:
    """A file that was changed, renamed, removed or inserted before the newest is named."""
    migrate(empty_url, folder=folder)
    change(folder)
    with pytest.raises(MigrationError, match=re.escape(complaint)):
        migrate(empty_url, folder=folder)


def test_failed_row_is_refused(empty_url: str, folder: Path) -> None:
    """What Flyway left half-done has to be put right first."""
    migrate(empty_url, folder=folder)
    query(empty_url, "UPDATE flyway_schema_history SET success = false WHERE version = '2'")
    with pytest.raises(MigrationError, match=r"V2__second\.sql failed half-way"):
        migrate(empty_url, folder=folder)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("V2.0__other.sql", "SELECT 1;", "have one version"),
        ("V3_third.sql", "SELECT 1;", "V3_third.sql: expected V<number>__<description>.sql"),
        ("R__view.sql", "SELECT 1;", "R__view.sql: expected"),
        ("more/V3__third.sql", "SELECT 1;", "more/V3__third.sql: expected"),
        ("V3__third.sql", "SELECT '${name}';", "V3__third.sql: contains ${"),
        ("V3__third.sql", "SELECT '\udcff';", "V3__third.sql: cannot be read as UTF-8"),
    ],
)
def test_a_file_that_cannot_be_applied_is_refused(
    empty_url: str, folder: Path, name: str, text: str, complaint: str
) -> None:
    """Two branches took one number, Flyway would pass it over or change it: nothing is applied."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text, "utf-8", "surrogateescape")
    with pytest.raises(MigrationError, match=re.escape(complaint)):
        migrate(empty_url, folder=folder)
    assert _tables(empty_url) == set()


def test_empty_folder_is_refused(empty_url: str, tmp_path: Path) -> None:
    """An image without its migrations does not count as up to date."""
    with pytest.raises(MigrationError, match="no migrations in"):
        migrate(empty_url, folder=tmp_path)


def test_failing_migration_is_rolled_back(empty_url: str, folder: Path) -> None:
    """An error names file and line, leaves nothing of its file, and keeps those before it."""
    (folder / "V2__second.sql").write_text("CREATE TABLE second ();\n\nSELECT nothing;\n")
    with pytest.raises(MigrationError, match=r'V2__second\.sql, line 3: column "nothing"') as error:
        migrate(empty_url, folder=folder)
    assert "\n" not in str(error.value)
    assert _tables(empty_url) == {"first", "flyway_schema_history"}


def test_migration_that_commits_is_refused(empty_url: str, folder: Path) -> None:
    """A file must not end the transaction that keeps it and its history together."""
    (folder / "V2__second.sql").write_text("CREATE TABLE second (); COMMIT;")
    with pytest.raises(MigrationError, match="ends its transaction"):
        migrate(empty_url, folder=folder)
    assert query(empty_url, "SELECT version FROM flyway_schema_history") == [("1",)]


def test_waits_no_longer_than_allowed_for_another_migration(empty_url: str) -> None:
    """While another migration holds the lock, one waits for the time given, then says so."""
    with psycopg.connect(empty_url) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [_FLYWAY_LOCK])
        with pytest.raises(MigrationError, match=r"another migration .* for 0\.05 seconds"):
            migrate(empty_url, lock_timeout=timedelta(milliseconds=50))


def test_waits_no_longer_than_allowed_for_a_table(empty_url: str, folder: Path) -> None:
    """A table in use holds a migration up for the time given, and the migration is named."""
    migrate(empty_url, folder=folder)
    (folder / "V3__third.sql").write_text("ALTER TABLE first ADD COLUMN more integer;")
    with psycopg.connect(empty_url) as other:
        other.execute("SELECT * FROM first")
        with pytest.raises(MigrationError, match=r"V3__third\.sql: a table it changes is in use"):
            migrate(empty_url, folder=folder, lock_timeout=timedelta(milliseconds=50))


def test_wrong_password_is_told_without_it(postgres: Postgres) -> None:
    """A refused login is one line that names the user."""
    with pytest.raises(MigrationError, match=r'DATABASE_URL: .*user "postgres"') as caught:
        migrate(postgres.url(password="s3cr"))  # noqa: S106  # the wrong one, on purpose
    assert "\n" not in str(caught.value)
    assert "s3cr" not in str(caught.value)


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
    shutil.copytree(CHECKOUT / "migrations", path)
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


@pytest.mark.flyway
@pytest.mark.timeout(600)
def test_flyway_finds_nothing_to_do(flyway: _Flyway, empty_url: str, files: Path) -> None:
    """What we applied is valid to Flyway, which applies nothing."""
    assert len(migrate(empty_url, folder=files)) == len(_FILES) + 2
    before = query(empty_url, _HISTORY)
    assert "Successfully validated" in flyway("validate", empty_url, files)
    assert "No migration necessary" in flyway("migrate", empty_url, files)
    assert query(empty_url, _HISTORY) == before


@pytest.mark.flyway
@pytest.mark.timeout(600)
@pytest.mark.parametrize("look", [_HISTORY, _LAYOUT, _INDEXES], ids=["rows", "layout", "indexes"])
def test_history_is_the_one_flyway_writes(
    flyway: _Flyway, postgres: Postgres, empty_url: str, files: Path, look: str
) -> None:
    """Both leave the same table with the same rows."""
    name = f"ours_{secrets.token_hex(6)}"
    postgres.create_database(name)
    migrate(postgres.url(name), folder=files)
    flyway("migrate", empty_url, files)
    assert query(postgres.url(name), look) == query(empty_url, look)
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
