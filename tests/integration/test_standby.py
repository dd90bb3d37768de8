"""A database that waits for a synchronous standby which is not there."""

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from lab.servers import Postgres
from tests.kit.postgres import query
from tests.kit.writing import Writing

SESSIONS = """
SELECT count(*), count(*) FILTER (WHERE wait_event = 'SyncRep') FROM pg_stat_activity
WHERE application_name LIKE '%fraud-scoring'
"""


@pytest.fixture
def standby(postgres: Postgres) -> Iterator[Postgres]:
    """A database that may be told to wait for a standby; at the end it does no more."""
    yield postgres
    _wait_for(postgres, "")


def _wait_for(postgres: Postgres, name: str) -> None:
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("SET synchronous_commit = local")
        connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
        connection.execute("SELECT pg_reload_conf()")


def test_a_commit_that_waits_for_a_standby_is_waited_for(
    database_url: str, standby: Postgres, capsys: pytest.CaptureFixture[str]
) -> None:
    """One process at the database waits in its commit and one for that one, and no more."""
    writing = Writing(database_url, database_timeout=0.5, lock_wait=0.2)
    with closing(writing.session):
        writing.loop.run(writing.session.claim(["1-transactions"]))
        writing.store(*writing.rows(3))
        _wait_for(standby, "nobody")
        writing.writer.write(writing.rows(5, start=3))
        writing.until_told("postgres.waiting", capsys, times=5)
        assert "which waits for a synchronous standby" in writing.told
        assert query(writing.url, SESSIONS) == [(2, 1)]
        assert writing.fetch.finished == 3
        _wait_for(standby, "")
        writing.until(lambda: writing.writer.is_idle)
        assert writing.stored() == [*range(8)]
        assert writing.duplicates() == []
        assert writing.fetch.finished == 8


def test_rows_whose_wait_for_a_standby_was_ended_are_not_done_without_it(
    database_url: str, standby: Postgres, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are committed here and nowhere else: read again, they are still waited for."""
    writing = Writing(database_url, database_timeout=0.5, lock_wait=0.2)
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    with closing(writing.session):
        writing.loop.run(writing.session.claim(["1-transactions"]))
        writing.store(writing.row(0))
        _wait_for(standby, "nobody")
        writing.writer.write(writing.rows(5, start=1))
        for _ in range(3):  # the first look at a new row is noted in the log, too
            writing.told = ""
            writing.until_told("postgres.waiting", capsys)
            query(writing.url, end)
        writing.told = ""
        writing.until_told("postgres.waiting", capsys)
        assert writing.stored() == [*range(6)]
        assert writing.fetch.finished == 1
        _wait_for(standby, "")
        writing.until(lambda: writing.writer.is_idle)
        assert writing.stored() == [*range(6)]
        assert writing.fetch.finished == 6


def test_a_session_that_begins_leaves_nothing_behind(database_url: str, standby: Postgres) -> None:
    """Its temporary table needs no standby; so to look and to lock goes on without one."""
    _wait_for(standby, "nobody")
    writing = Writing(database_url, database_timeout=2)
    with closing(writing.session):
        writing.loop.run(writing.session.claim(["1-transactions"]))
        writing.loop.run(writing.session.confirm())
        assert query(writing.url, SESSIONS) == [(1, 0)]


def test_the_limit_of_the_stream_itself_is_no_successor(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the session before still does holds the locks for longer than others are waited for."""
    writing = Writing(database_url, database_timeout=1, lock_wait=0)
    with closing(writing.session):
        writing.loop.run(writing.session.claim(["1-transactions"]))
        writing.trigger(
            "transactions",
            "PERFORM pg_sleep(3); RETURN NEW;"
            " EXCEPTION WHEN query_canceled THEN PERFORM pg_sleep(2); RETURN NEW;",
        )
        writing.writer.write([writing.row(1)])
        writing.until_told("postgres.waiting", capsys)
        writing.drop_triggers("transactions")
        writing.until(lambda: writing.writer.is_idle)
        assert writing.stored() == [1]
