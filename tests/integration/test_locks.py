"""A start waits for its predecessor's locks, before it touches the recovery directory.

Two runs would spoil each other's there.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import pytest

from lab.servers import wait_until
from operators.engine.loop import EventLoop
from operators.errors import DependencyError
from operators.postgres.locks import await_predecessor
from operators.postgres.session import Session
from settings import Settings
from tests.kit import factories
from tests.kit.postgres import query


@pytest.fixture
def settings(database_url: str) -> Settings:
    """Settings with the test's own database."""
    return factories.settings(database_url=database_url)


@pytest.fixture
def predecessor(settings: Settings) -> Iterator[Session]:
    """A session that has partition 1's lock."""
    loop = EventLoop()
    session = Session(settings)
    loop.run(session.claim(["1-transactions"]))
    yield session
    session.close()


def test_a_start_is_told_who_holds_its_partitions(settings: Settings, predecessor: Session) -> None:
    """It does not begin while that writes; other partitions do not matter."""
    wait = partial(await_predecessor, settings, lock_wait=timedelta(0))
    with pytest.raises(DependencyError, match=r"^DATABASE_URL: 1-transactions is being written by"):
        wait(["0-transactions", "1-transactions"])
    wait(["0-transactions", "2-transactions"])
    predecessor.close()
    await_predecessor(settings, ["0-transactions", "1-transactions"])


def test_a_start_goes_on_when_its_predecessors_session_has_ended(
    settings: Settings, predecessor: Session, database_url: str
) -> None:
    """Whoever restarts a killed stream at once is not refused."""
    wait = partial(await_predecessor, settings, lock_wait=timedelta(seconds=60))
    asking = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle' AND query LIKE %s"
    with ThreadPoolExecutor(1) as pool:
        start = pool.submit(wait, ["0-transactions", "1-transactions"])
        wait_until(lambda: query(database_url, asking, "%backend_start%") == [(1,)])
        assert not start.done()
        predecessor.close()
        start.result()
