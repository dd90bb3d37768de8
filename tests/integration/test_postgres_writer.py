"""The writer of rows in trouble, that which passes and that which does not."""

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from lab.servers import Postgres
from operators.errors import BugError, StoreError
from operators.postgres.write_size import WRITE_ROWS
from telemetry import metrics
from tests.kit.postgres import query
from tests.kit.writing import Writing

SECRET = "4929 1111 2222 3333"  # noqa: S105 - a customer's, for a description
END = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE '%fraud-scoring'
"""
SESSIONS = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE '%fraud-scoring'"
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"
RETRIES = "fraud_database_retries_total"


@pytest.fixture
def writing(database_url: str) -> Iterator[Writing]:
    """A writer to the test's own database."""
    made = Writing(database_url)
    with closing(made.session):
        yield made


@pytest.fixture
def hasty(database_url: str) -> Iterator[Writing]:
    """One that waits only briefly for an answer."""
    made = Writing(database_url, database_timeout=0.3)
    with closing(made.session):
        yield made


def numbers(count: int) -> list[int]:
    """The numbers of so many rows."""
    return list(range(count))


def test_rows_are_written_in_transactions_of_a_limited_size(writing: Writing) -> None:
    """However many are waiting: `write` takes them all at once and does not wait."""
    count = 2 * WRITE_ROWS + 1
    writing.writer.write(writing.rows(count))
    assert not writing.writer.is_idle
    writing.until(lambda: writing.writer.is_idle)
    assert writing.stored() == numbers(count)
    assert (writing.totals(), writing.fetch.finished) == ((count, 0), count)
    sizes = query(
        writing.url, "SELECT count(*) FROM transactions GROUP BY created_at ORDER BY created_at"
    )
    assert sizes == [(WRITE_ROWS,), (WRITE_ROWS,), (1,)]


def test_rows_that_come_while_others_are_written_are_written_after_them(writing: Writing) -> None:
    """By the same task; and there is another for those that come after its end."""
    with closing(psycopg.connect(writing.url)) as other:
        other.execute("LOCK TABLE transactions")
        writing.writer.write(writing.rows(2))
        writing.until(lambda: query(writing.url, WAITING) == [(1,)])
        writing.writer.write(writing.rows(2, start=2))
        writing.writer.write([])
        assert writing.fetch.finished == 0
        other.rollback()
    writing.until(lambda: writing.writer.is_idle)
    assert writing.stored() == numbers(4)
    writing.store(writing.row(4))
    assert writing.stored() == numbers(5)
    assert writing.fetch.finished == 5


@pytest.mark.parametrize(("table", "stored"), [("predictions", [1]), ("duplicates", [1, 2])])
def test_all_tables_are_written_in_one_transaction(
    writing: Writing, table: str, stored: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """What needs a table that fails is in none of the others."""
    writing.store(writing.row(1))
    writing.trigger(table, "RAISE EXCEPTION 'disk on fire';", each="STATEMENT")
    writing.writer.write([writing.row(2), writing.row(1, offset=9)])
    writing.until_told("postgres.refuses", capsys, times=3)
    assert "RaiseException P0001: no row is taken until" in writing.told
    assert "disk on fire" not in writing.told
    assert writing.stored() == stored
    assert writing.duplicates() == []
    assert writing.fetch.finished == len(stored)


# Trouble that passes.


def test_a_connection_that_is_ended_is_made_again(writing: Writing) -> None:
    """As after a fail-over or an administrator's `pg_terminate_backend`."""
    writing.store(writing.row(0))
    assert query(writing.url, END) == [(True,)]
    writing.store(writing.row(1))
    assert writing.stored() == numbers(2)


def test_a_killed_database_is_waited_for(writing: Writing, postgres: Postgres) -> None:
    """What was committed before is there, what was under way is written again, each once."""
    writing.store(*writing.rows(100))
    with closing(psycopg.connect(writing.url)) as other:
        other.execute("LOCK TABLE predictions")
        writing.writer.write(writing.rows(1_000, start=100))
        writing.until(lambda: query(writing.url, WAITING) == [(1,)])
        postgres.kill()
    postgres.start()
    writing.until(lambda: writing.writer.is_idle)
    assert writing.stored() == numbers(1_100)
    assert writing.duplicates() == []
    assert writing.refused() == {}
    assert writing.fetch.finished == 1_100


def test_a_database_that_hangs_longer_than_the_limit_is_waited_for(
    hasty: Writing, postgres: Postgres
) -> None:
    """The statement is given up, the connection with it, and all is written again."""
    hasty.store(hasty.row(0))
    before = query(hasty.url, SESSIONS)
    postgres.pause()
    given_up = _retries()
    hasty.writer.write(hasty.rows(50, start=1))
    hasty.until(lambda: _retries() > given_up)
    postgres.resume()
    hasty.until(lambda: hasty.writer.is_idle)
    assert hasty.stored() == numbers(51)
    assert hasty.duplicates() == []
    assert not set(before) & set(query(hasty.url, SESSIONS))


def _retries() -> float:
    return sum(
        sample.value
        for sample in next(iter(metrics.DATABASE_RETRIES.collect())).samples
        if sample.name == RETRIES
    )


def test_a_lock_held_longer_than_the_limit_is_waited_for(hasty: Writing) -> None:
    """As during a migration: the statement is cancelled and sent again."""
    given_up = _retries()
    with closing(psycopg.connect(hasty.url)) as other:
        other.execute("LOCK TABLE transactions")
        hasty.writer.write(hasty.rows(5))
        hasty.until(lambda: _retries() > given_up)
        other.rollback()
    hasty.until(lambda: hasty.writer.is_idle)
    assert hasty.stored() == numbers(5)


def test_a_database_that_is_read_only_is_waited_for(writing: Writing) -> None:
    """As the old primary is after a fail-over, and the new one before."""
    [(name,)] = query(writing.url, "SELECT current_database()")
    query(writing.url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    refused = _retries()
    writing.writer.write(writing.rows(5))
    writing.until(lambda: _retries() > refused)
    with psycopg.connect(writing.url, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    writing.until(lambda: writing.writer.is_idle)
    assert writing.stored() == numbers(5)


def _refuse_once(writing: Writing, state: str) -> None:
    """Let the next transaction fail with this SQLSTATE, and none after it."""
    query(writing.url, "CREATE SEQUENCE calls")  # what it counts is not rolled back
    body = f"""
        IF nextval('calls') = 1 THEN RAISE EXCEPTION 'once' USING ERRCODE = '{state}'; END IF;
        RETURN NULL;
    """
    writing.trigger("predictions", body, each="STATEMENT")


@pytest.mark.parametrize(
    "state",
    [
        pytest.param("40P01", id="deadlock"),
        pytest.param("53100", id="disk-full"),
        pytest.param("53200", id="out-of-memory"),
        pytest.param("53300", id="too-many-connections"),
        pytest.param("57P03", id="starting-up"),
        pytest.param("58030", id="input-output-error"),
    ],
)
def test_a_transaction_that_may_succeed_later_is_written_again(
    writing: Writing, state: str
) -> None:
    """All of it, and nothing twice."""
    _refuse_once(writing, state)
    writing.store(*writing.rows(5))
    assert writing.stored() == numbers(5)
    assert writing.duplicates() == []
    assert writing.fetch.finished == 5


# Trouble that does not.


def test_a_bug_in_storing_is_told_with_the_rows(
    writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they begin, and no value of them."""
    monkeypatch.setattr(writing.progress, "committed", lambda _arrivals: 1 // 0)
    with pytest.raises(BugError, match=r"offset 1: storing 2 .* with ZeroDivisionError"):
        writing.store(writing.row(1, description=SECRET), writing.row(2))


def test_an_error_that_does_not_pass_stops_the_stream(writing: Writing) -> None:
    """It names the setting and the state, and neither a value nor the password."""
    query(writing.url, "ALTER TABLE transactions DROP COLUMN side")
    with pytest.raises(StoreError) as stopped:
        writing.store(writing.row(1, description=SECRET))
    assert str(stopped.value) == (
        "DATABASE_URL: rows cannot be stored: UndefinedColumn 42703:"
        ' column "side" of relation "transactions" does not exist'
    )
    writing.writer.write([writing.row(2)])
    assert not writing.writer.is_idle  # nothing is written behind rows that could not be
