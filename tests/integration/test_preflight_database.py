"""The check before a start does with the database what the stream will do, and undoes it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.servers import Postgres
from operators.errors import DependencyError
from operators.postgres.check import check
from ops.migrate import migrate, pending
from ops.pending import require_migrated
from tests.kit.checkout import CHECKOUT
from tests.kit.factories import settings
from tests.kit.postgres import query

COUNTS = """
SELECT (SELECT count(*) FROM transactions), (SELECT count(*) FROM predictions),
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')
"""

LOSING_TRIGGER = """
CREATE FUNCTION lost() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER lost BEFORE INSERT ON predictions FOR EACH ROW EXECUTE FUNCTION lost();
"""


def complaint(url: str) -> str:
    """What is wrong, in one line."""
    with pytest.raises(DependencyError) as refused:
        check(settings(database_url=url))
    assert "\n" not in str(refused.value)
    return str(refused.value)


@contextmanager
def user(postgres: Postgres, url: str) -> Iterator[tuple[str, str]]:
    """Make a role that may do what the stream does.

    :returns: Its name, and its URL.

    """
    name = f"fraud_{url.rsplit('_', 1)[1]}"
    database = url.rsplit("/", 1)[1]
    query(url, f"CREATE USER {name} PASSWORD 'le4ked'")
    query(url, f"GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO {name}")
    query(url, f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC")
    query(url, f"GRANT TEMPORARY ON DATABASE {database} TO {name}")
    try:
        yield name, url.replace(f"postgres:{postgres.password}", f"{name}:le4ked")
    finally:
        query(url, f"DROP OWNED BY {name}")
        query(url, f"DROP USER {name}")


def test_nothing_is_left_behind(database_url: str) -> None:
    """No row, no lock."""
    assert "PostgreSQL 18" in check(settings(database_url=database_url))
    assert query(database_url, COUNTS) == [(0, 0, 0)]


def test_a_standby_is_told(servers_folder: Path) -> None:
    """It answers every question, and takes no row."""
    with Postgres(servers_folder / "standby", durable=False) as server:
        migrate(server.url())
        assert "PostgreSQL 18" in check(settings(database_url=server.url()))
        server.stop()
        (server.folder / "data" / "standby.signal").touch()
        server.start()
        assert "DATABASE_URL: the database is a standby, which takes no rows" in complaint(
            server.url()
        )


def test_a_role_that_is_read_only_is_told(postgres: Postgres, database_url: str) -> None:
    """With the setting that makes it so."""
    with user(postgres, database_url) as (name, url):
        check(settings(database_url=url))
        query(database_url, f"ALTER ROLE {name} SET default_transaction_read_only = on")
        assert "DATABASE_URL: default_transaction_read_only is on" in complaint(url)


def test_a_right_that_is_not_the_tables_is_named(postgres: Postgres, database_url: str) -> None:
    """Rows are copied into a temporary table, and the tables are in a schema."""
    with user(postgres, database_url) as (name, url):
        database = url.rsplit("/", 1)[1]
        query(database_url, f"REVOKE TEMPORARY ON DATABASE {database} FROM {name}")
        assert complaint(url) == f"DATABASE_URL: this user lacks TEMPORARY on database {database}"
        query(database_url, "REVOKE USAGE ON SCHEMA public FROM PUBLIC")
        assert complaint(url) == "DATABASE_URL: this user lacks USAGE on schema public"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("ALTER TABLE transactions ADD branch text NOT NULL", "23502 transactions branch"),
        ("ALTER TABLE predictions DROP COLUMN model_version", '"model_version"'),
        ("ALTER TABLE transactions ALTER amount TYPE boolean USING true", '"amount"'),
        (
            LOSING_TRIGGER,
            "2 transactions were stored with 0 predictions",
        ),
    ],
)
def test_tables_that_take_no_row_are_told(database_url: str, change: str, expected: str) -> None:
    """By a row that is written: nobody could foresee it."""
    query(database_url, change)
    found = complaint(database_url)
    assert found.startswith("DATABASE_URL: ")
    assert expected in found


def test_a_rule_for_values_is_no_reason(database_url: str) -> None:
    """What it says to a row that is made up tells nothing of real ones."""
    query(database_url, "ALTER TABLE transactions ADD CHECK (side IN ('DEBIT', 'CREDIT'))")
    assert "PostgreSQL 18" in check(settings(database_url=database_url))


def test_migrations_that_are_pending_are_told(postgres: Postgres, tmp_path: Path) -> None:
    """By their names, with what to do; where nothing keeps a history nobody knows."""
    first, *others = sorted((CHECKOUT / "migrations").glob("V*.sql"))
    (tmp_path / first.name).write_text(first.read_text())
    name = f"test_pending_{tmp_path.parent.name.replace('-', '_')}"
    postgres.create_database(name)
    url = postgres.url(name)
    try:
        assert pending(url) == []
        migrate(url, folder=tmp_path)
        with pytest.raises(DependencyError) as refused:
            require_migrated(settings(database_url=url))
        names = ", ".join(other.name for other in others)
        assert str(refused.value) == (
            f"DATABASE_URL: migrations are pending ({names}): run python -m ops migrate"
        )
        migrate(url)
        require_migrated(settings(database_url=url))
        assert pending(url, folder=tmp_path) == []  # as after a step back to an earlier version
    finally:
        postgres.drop_database(name)
