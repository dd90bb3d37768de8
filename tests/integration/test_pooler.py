"""The check before a start, through PgBouncer: the locks of the stream need sessions."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.servers import Postgres
from operators.errors import DependencyError
from operators.postgres.check import check
from tests.kit.factories import settings
from tests.kit.pgbouncer import PgBouncer
from tests.kit.postgres import query

pytestmark = pytest.mark.pgbouncer

POOLED = "DATABASE_URL: a pooler in front of the database does not keep sessions apart"
LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"

Pooler = Callable[..., PgBouncer]


@pytest.fixture
def pooler(
    postgres: Postgres, database_url: str, servers_folder: Path, request: pytest.FixtureRequest
) -> Iterator[Pooler]:
    """Put a pooler in front of the database: `pooler("session")`."""
    del postgres
    with ExitStack() as running:

        def start(mode: str, **more: str) -> PgBouncer:
            folder = servers_folder / request.node.name
            return running.enter_context(PgBouncer(folder, database_url, mode, **more))

        yield start


@pytest.mark.parametrize(
    "more",
    [{}, {"server_round_robin": "1"}, {"default_pool_size": "1"}],
    ids=["newest first", "round robin", "one session"],
)
@pytest.mark.parametrize("others", [0, 3], ids=["alone", "beside others"])
def test_a_pool_of_transactions_is_told(
    pooler: Pooler, database_url: str, more: dict[str, str], others: int
) -> None:
    """Whichever session it gives to whom, and how many it has."""
    subject = pooler("transaction", **more)
    for _ in range(others):
        query(subject.url, "SELECT 1")
    with pytest.raises(DependencyError, match=POOLED):
        check(settings(database_url=subject.url))
    assert query(database_url, "SELECT count(*) FROM transactions") == [(0,)]


def test_a_pool_of_statements_is_told(pooler: Pooler) -> None:
    """It does not even have transactions."""
    with pytest.raises(DependencyError, match=POOLED):
        check(settings(database_url=pooler("statement").url))


@pytest.mark.parametrize("size", ["1", "20"])
def test_a_pool_of_sessions_will_do(pooler: Pooler, database_url: str, size: str) -> None:
    """Also if there is one alone; nothing is left behind."""
    subject = pooler("session", default_pool_size=size)
    assert "PostgreSQL 18" in check(settings(database_url=subject.url, start_timeout=3))
    assert query(database_url, LOCKS) == [(0,)]
    assert query(database_url, "SELECT count(*) FROM transactions") == [(0,)]
