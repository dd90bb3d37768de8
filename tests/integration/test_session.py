"""Only one process writes a partition: the locks, against PostgreSQL itself."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from threading import Timer

import pytest

from operators.engine.loop import Loop
from operators.engine.shutdown import Stop
from operators.errors import DependencyError, StoreError
from operators.postgres import session as session_module
from operators.postgres.session import Connection, Session, await_predecessor
from tests import factories
from tests.support import query, wait_until

Make = Callable[..., Session]


@pytest.fixture
def make(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Make sessions with the test's own database, each a worker of its own."""
    monkeypatch.setattr(session_module, "LOCK_WAIT", timedelta(seconds=0.3))
    made: list[Session] = []

    def another(**overrides: object) -> Session:
        settings = factories.settings(**({"database_url": database_url} | overrides))
        made.append(Session(settings, loop=Loop(), stop=Stop(timedelta(seconds=5))))
        return made[-1]

    yield another
    for session in made:
        session.close()


def test_a_second_process_is_told_who_holds_the_partition(make: Make) -> None:
    """It ends with the first one's name, and cannot write beside it."""
    make().claim("0-transactions")
    with pytest.raises(StoreError, match=r"0-transactions is being written by .*:.* since 20"):
        make().claim("0-transactions")


def test_partitions_groups_and_topics_have_locks_of_their_own(make: Make) -> None:
    """Workers share a topic, streams share a database."""
    make().claim("0-transactions")
    make().claim("1-transactions")
    make().claim("0-others")
    make(kafka_consumer_group="another").claim("0-transactions")


def test_a_lock_ends_with_its_process(make: Make) -> None:
    """A successor waits for a predecessor's session to end, and goes on."""
    first, second = make(), make()
    first.claim("0-transactions")
    first.close()
    second.claim("0-transactions")


def test_a_successor_waits_for_the_end_of_its_predecessors_session(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database may see the end of a killed process later than whoever starts the next."""
    monkeypatch.setattr(session_module, "LOCK_WAIT", timedelta(seconds=30))
    first, second = make(), make()
    first.claim("0-transactions")
    ending = Timer(0.5, first.close)
    ending.start()
    second.claim("0-transactions")
    ending.join()


def test_a_lost_session_that_another_took_over_does_not_come_back(
    make: Make, database_url: str
) -> None:
    """A process that was cut off finds the lock taken when it is back, and ends."""
    zombie, successor = make(), make()
    zombie.claim("0-transactions")
    query(
        database_url,
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted",
    )
    wait_until(
        lambda: (
            query(database_url, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
            == [(0,)]
        ),
        what="the end of the session",
    )
    successor.claim("0-transactions")
    zombie._seen = 0.0  # noqa: SLF001 - as if the lease were over
    with pytest.raises(StoreError, match="is being written by"):
        zombie.claim("0-transactions")


def test_a_lost_session_gets_all_its_locks_again(make: Make, database_url: str) -> None:
    """If nobody took them over meanwhile."""
    session = make()
    for number in range(3):
        session.claim(f"{number}-transactions")
    locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    assert query(database_url, locks) == [(3,)]
    query(
        database_url,
        "SELECT pg_terminate_backend(pid) FROM (SELECT DISTINCT pid FROM pg_locks"
        " WHERE locktype = 'advisory' AND granted) AS holders",
    )
    session._seen = 0.0  # noqa: SLF001 - as if the lease were over
    session.claim("0-transactions")
    assert query(database_url, locks) == [(3,)]


def test_a_start_waits_for_its_predecessors_locks(make: Make, database_url: str) -> None:
    """Before it touches the recovery directory, where two runs would spoil each other's."""
    settings = factories.settings(database_url=database_url)
    first = make()
    first.claim("1-transactions")
    with pytest.raises(DependencyError, match=r"^DATABASE_URL: 1-transactions is being written by"):
        await_predecessor(settings, ["0-transactions", "1-transactions"])
    await_predecessor(settings, ["0-transactions", "2-transactions"])
    first.close()
    await_predecessor(settings, ["0-transactions", "1-transactions"])


def test_a_start_goes_on_when_its_predecessors_session_has_ended(
    make: Make, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever restarts a killed stream at once is not refused."""
    monkeypatch.setattr(session_module, "LOCK_WAIT", timedelta(seconds=30))
    first = make()
    first.claim("0-transactions")
    ending = Timer(0.5, first.close)
    ending.start()
    await_predecessor(factories.settings(database_url=database_url), ["0-transactions"])
    ending.join()


def test_a_process_that_is_frozen_in_a_transaction_gives_up_its_locks(
    make: Make, database_url: str
) -> None:
    """The server ends its session after the limit: a successor need not wait for its thaw."""
    session = make(database_timeout=timedelta(seconds=0.3))
    session.claim("0-transactions")
    calls = 0

    async def freeze(connection: Connection) -> None:
        nonlocal calls
        calls += 1
        async with connection.transaction():
            await connection.execute("SELECT 1")
            if calls == 1:  # its loop stands still as well
                wait_until(
                    lambda: (
                        query(
                            database_url,
                            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
                        )
                        == [(0,)]
                    ),
                    what="the end of the session",
                )

    loop = session._loop  # noqa: SLF001 - its own
    loop.run(session.run(freeze))
    assert calls == 2
