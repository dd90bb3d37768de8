"""Only one process writes a partition: sessions and their locks, against PostgreSQL itself."""

import math
import re
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest

from lab.servers import wait_until
from operators.engine.loop import EventLoop
from operators.errors import StoreError
from operators.postgres.session import Connection, Session
from operators.postgres.tables import note_topic
from telemetry.waiting import waiting_for_database
from tests.kit import factories
from tests.kit.postgres import query

X = TypeVar("X")
ZERO, ONE, TWO = (f"{number}-transactions" for number in range(3))
LOCKS = """
SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database
WHERE locktype = 'advisory' AND granted AND datname = current_database()
"""
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"
END = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE '%fraud-scoring'
"""


class Sessions:
    """Sessions of several processes with the test's own database, on one loop."""

    def __init__(self, database_url: str) -> None:
        self.url, self.loop = database_url, EventLoop()
        self.made: list[Session] = []

    def make(self, *, lock_wait: float = 0, **overrides: object) -> Session:
        """Make one."""
        settings = factories.settings(**({"database_url": self.url} | overrides))
        wait = timedelta(seconds=lock_wait)
        self.made.append(Session(settings, lock_wait=wait))
        return self.made[-1]

    def run(self, work: Coroutine[Any, Any, X]) -> X:
        """Run work to its end."""
        return self.loop.run(work)

    def until(self, condition: Callable[[], bool]) -> None:
        """Let the loop run until something is so."""

        def pumped() -> bool:
            self.loop.rest(0.02)
            return condition()

        wait_until(pumped)

    def locks(self) -> int:
        """How many are held, as the server has it."""
        [(count,)] = query(self.url, LOCKS)
        return int(count)

    def connections(self) -> int:
        """How many there are, as the server has it."""
        statement = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE %s"
        [(count,)] = query(self.url, statement, "%fraud-scoring")
        return int(count)


@pytest.fixture
def sessions(database_url: str) -> Iterator[Sessions]:
    """Sessions of the test; its end closes them."""
    made = Sessions(database_url)
    yield made
    for session in made.made:
        session.close()


async def _ask(connection: Connection) -> None:
    await connection.execute("SELECT 1")


async def _unlock_all(connection: Connection) -> None:
    await connection.execute("SELECT pg_advisory_unlock_all()")


# Claim and release.


def test_a_second_process_is_told_who_holds_the_partition(sessions: Sessions) -> None:
    """It ends with the first one's name, and has none of what it asked for."""
    sessions.run(sessions.make().claim([ONE]))
    second, third = sessions.make(), sessions.make()
    with pytest.raises(StoreError, match=rf"{ONE} is being written by .*:.* since 20"):
        sessions.run(second.claim([ZERO, ONE, TWO]))
    sessions.run(third.claim([ZERO, TWO]))


def test_partitions_groups_and_topics_have_locks_of_their_own(sessions: Sessions) -> None:
    """Workers share a topic, streams share a database."""
    for session, key in [
        (sessions.make(), ZERO),
        (sessions.make(), ONE),
        (sessions.make(), "0-others"),
        (sessions.make(kafka_consumer_group="another"), ZERO),
    ]:
        sessions.run(session.claim([key]))
    assert sessions.locks() == 4


def test_a_successor_waits_for_its_predecessors_session_to_end(sessions: Sessions) -> None:
    """The database may see the end of a killed process later than whoever starts the next."""
    first, second = sessions.make(), sessions.make(lock_wait=60)
    sessions.run(first.claim([ZERO]))
    claiming = sessions.loop.spawn(second.claim([ZERO]))
    asked = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE %s AND state = 'idle'"
    # The first session's last statement is the same.
    sessions.until(lambda: query(sessions.url, asked, "%pg_try_advisory_lock%") == [(2,)])
    assert not claiming.done()
    sessions.run(second.run(_ask))  # others use the session meanwhile
    first.close()
    sessions.until(claiming.done)
    claiming.result()


def test_a_partition_that_is_released_is_free_for_others(sessions: Sessions) -> None:
    """The session keeps the rest, and does not take the released one again."""
    first, second = sessions.make(), sessions.make()
    sessions.run(first.claim([ZERO, ONE, TWO]))
    sessions.run(first.claim([ONE]))  # once more, which needs no second release
    sessions.run(first.release([ONE]))
    sessions.run(second.claim([ONE]))
    sessions.run(first.confirm())
    assert sessions.locks() == 3
    with pytest.raises(StoreError, match=ZERO):
        sessions.run(second.claim([ZERO]))


def test_a_partition_is_free_if_its_session_is_lost_when_it_is_released(
    sessions: Sessions,
) -> None:
    """The end of the session is as good."""
    first = sessions.make()
    sessions.run(first.claim([ZERO, ONE]))
    query(sessions.url, END)
    sessions.run(first.release([ZERO]))
    sessions.run(first.confirm())
    assert sessions.locks() == 1
    sessions.run(sessions.make().claim([ZERO]))


# Looks.


def test_a_lost_session_is_made_again_with_all_its_locks(sessions: Sessions) -> None:
    """If nobody took them over meanwhile."""
    session = sessions.make()
    sessions.run(session.claim([ZERO, ONE, TWO]))
    sessions.run(session.confirm())
    query(sessions.url, END)
    assert sessions.locks() == 0
    before = session.confirmed_at
    sessions.run(session.confirm())
    assert sessions.locks() == 3
    assert session.confirmed_at > before


def test_a_lost_session_that_another_took_over_does_not_come_back(sessions: Sessions) -> None:
    """A process that was cut off finds the lock taken when it is back, and ends."""
    zombie, successor = sessions.make(), sessions.make()
    sessions.run(zombie.claim([ZERO, ONE]))
    query(sessions.url, END)
    sessions.run(successor.claim([ONE]))
    with pytest.raises(StoreError, match=rf"{ONE} is being written by"):
        sessions.run(zombie.run(_ask))


@pytest.mark.parametrize("use", ["confirm", "run"])
def test_locks_are_looked_up_and_not_remembered(sessions: Sessions, use: str) -> None:
    """Something may have given them up: a pooler that hands the session to others, a statement."""
    session = sessions.make()

    def look() -> None:
        if use == "confirm":
            sessions.run(session.confirm())
        else:
            session.confirmed_at = -math.inf  # as if the lease were over
            sessions.run(session.run(_ask))

    sessions.run(session.claim([ZERO, ONE]))
    sessions.run(session.run(_unlock_all))
    assert sessions.locks() == 0
    look()
    assert sessions.locks() == 2
    sessions.run(session.run(_unlock_all))
    sessions.run(sessions.make().claim([ONE]))
    with pytest.raises(StoreError, match=rf"{ONE} is being written by"):
        look()


# One at a time.


def test_one_connection_is_made_while_logins_are_slow(sessions: Sessions) -> None:
    """However many tasks want one; it has the locks, and they take turns."""
    session = sessions.make()
    seen: list[int] = []

    async def twice(connection: Connection) -> None:
        for _ in range(2):
            [(pid,)] = await (await connection.execute("SELECT pg_backend_pid()")).fetchall()
            seen.append(pid)
        seen.append(0)

    with closing(psycopg.connect(sessions.url)) as other:
        other.execute("LOCK TABLE pg_authid")  # every login reads it
        tasks = [sessions.loop.spawn(session.claim([ZERO]))]
        tasks += [sessions.loop.spawn(session.run(twice)) for _ in range(3)]
        tasks += [sessions.loop.spawn(session.confirm())]
        sessions.until(lambda: other.execute(WAITING).fetchall() != [(0,)])
        assert other.execute(WAITING).fetchall() == [(1,)]
        other.rollback()
    for task in tasks:
        sessions.until(task.done)
        task.result()
    pid = seen[0]
    assert seen == [pid, pid, 0] * 3
    assert (sessions.connections(), sessions.locks()) == (1, 1)


# Trouble, and the end.


def test_a_process_that_is_frozen_in_a_transaction_gives_up_its_locks(
    sessions: Sessions,
) -> None:
    """The server ends its session after the limit: a successor need not wait for its thaw."""
    session = sessions.make(database_timeout=timedelta(seconds=0.3))
    sessions.run(session.claim([ZERO]))
    calls = 0

    async def freeze(connection: Connection) -> None:
        nonlocal calls
        calls += 1
        async with connection.transaction():
            await connection.execute("SELECT 1")
            if calls == 1:  # its loop stands still as well
                wait_until(lambda: sessions.locks() == 0, what="the end of the session")

    sessions.run(session.run(freeze))
    assert calls == 2
    assert sessions.locks() == 1


def test_close_never_raises(sessions: Sessions) -> None:
    """Before there is a connection, twice, and after that is lost."""
    session = sessions.make()
    sessions.run(session.claim([ZERO]))
    query(sessions.url, END)
    session.close()
    session.close()
    sessions.make().close()


def test_close_gives_up_the_locks_under_whoever_uses_the_session(sessions: Sessions) -> None:
    """A task that is in a statement fails, and makes no new session."""
    session = sessions.make()
    sessions.run(session.claim([ZERO]))

    async def count(connection: Connection) -> None:
        await connection.execute("SELECT count(*) FROM transactions")

    with closing(psycopg.connect(sessions.url)) as other:
        other.execute("LOCK TABLE transactions")
        task = sessions.loop.spawn(session.run(count))
        sessions.until(lambda: query(sessions.url, WAITING) == [(1,)])
        session.close()
        sessions.until(task.done)
        with pytest.raises(StoreError, match="the session is closed"):
            task.result()
    wait_until(lambda: (sessions.connections(), sessions.locks()) == (0, 0))


# Refusals.


def test_work_that_is_refused_stops_the_stream_in_one_line(
    sessions: Sessions, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever asks: a table or a right is missing, and the line names it."""
    session = sessions.make()
    query(sessions.url, "DROP TABLE source_topics")
    missing = 'UndefinedTable 42P01: relation "source_topics" does not exist'
    with pytest.raises(StoreError, match=missing):
        sessions.run(session.run(lambda connection: note_topic(connection, "topic", "id")))
    assert "".join(capsys.readouterr()).count("postgres.stopped") == 1


def test_a_session_that_may_not_begin_stops_the_stream_in_one_line(sessions: Sessions) -> None:
    """The right to make temporary tables was taken away while it ran."""
    [(name,)] = query(sessions.url, "SELECT current_database()")
    query(sessions.url, "DROP ROLE IF EXISTS bare")
    query(sessions.url, "CREATE ROLE bare LOGIN PASSWORD 'bare'")
    session = sessions.make(database_url=re.sub("//.*?@", "//bare:bare@", sessions.url))
    sessions.run(session.claim([ZERO]))
    query(sessions.url, f"REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC")
    query(sessions.url, END)
    with pytest.raises(StoreError, match="42501: permission denied to create temporary tables"):
        sessions.run(session.confirm())


# Secrets.


def test_a_password_that_is_changed_is_read_again(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From the file that the URL came from, whenever a connection is made."""
    file = tmp_path / "url"

    def give(password: str) -> str:
        url = re.sub("//.*?@", f"//rotated:{password}@", sessions.url)
        file.write_text(url)
        return url

    query(sessions.url, "DROP ROLE IF EXISTS rotated")
    query(sessions.url, "CREATE ROLE rotated LOGIN PASSWORD 'old'")
    variables = {
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "KAFKA_CONSUMER_GROUP": "fraud-scoring",
        "ML_API_URL": "http://127.0.0.1:1",
        "DATABASE_URL_FILE": str(file),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    session = sessions.make(database_url=give("old"))
    sessions.run(session.claim([ZERO]))
    query(sessions.url, "ALTER ROLE rotated PASSWORD 'new'")
    query(sessions.url, END)
    asking = sessions.loop.spawn(session.run(_ask))
    sessions.until(lambda: waiting_for_database() is not None)
    file.write_text("")  # as while it is being written
    assert not asking.done()
    give("new")
    sessions.until(asking.done)
    asking.result()
    assert sessions.locks() == 1
