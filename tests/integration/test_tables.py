"""The tables: what they refuse, and that the queries people copy find their way by indexes."""

import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from lab.servers import Postgres
from tests.kit.checkout import CHECKOUT
from tests.kit.postgres import query as run


def _queries(heading: str) -> list[str]:
    """Read the SQL blocks below a heading of the page that people copy from."""
    page = (CHECKOUT / "docs" / "tables.md").read_text()
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
    run(url, _FILL)
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("VACUUM (ANALYZE) transactions, predictions, duplicates")
    return url


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)


def _whole_scans(url: str, query: str) -> list[str]:
    """Steps of the plan that read a table, or an index, from end to end."""
    [[[explained]]] = run(url, f"EXPLAIN (FORMAT json) {query}")
    return [
        f"{node['Node Type']} on {node.get('Relation Name', node.get('Index Name'))}"
        for node in _nodes(explained["Plan"])
        if node["Node Type"] == "Seq Scan"
        or ("Index" in node["Node Type"] and "Index Cond" not in node)
    ]


@pytest.mark.parametrize("query", _MONITORING)
def test_monitoring_query_uses_indexes(big_url: str, query: str) -> None:
    """Each query of the page finds something, and reads no table from end to end."""
    assert run(big_url, query)
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
_ANOTHER = ", (%s, 'fraud', 0.5)"


@pytest.mark.parametrize("score", ["NaN", "Infinity", "-Infinity", "-0.001", "1.001"])
def test_score_outside_its_range_is_refused(database_url: str, score: str) -> None:
    """No score but a number from 0 to 1 is stored, whatever the writer does."""
    run(database_url, _TRANSACTION.format(id=1, offset=1))
    with pytest.raises(psycopg.errors.CheckViolation):
        run(database_url, _PREDICTION.format(id=1, score=score))


@pytest.mark.parametrize("score", [0, 0.5, 1])
def test_score_in_its_range_is_stored(database_url: str, score: float) -> None:
    """Both ends of the range belong to it."""
    run(database_url, _TRANSACTION.format(id=1, offset=1))
    run(database_url, _PREDICTION.format(id=1, score=score))
    assert run(database_url, "SELECT fraud_score FROM predictions") == [(score,)]


def test_position_is_stored_once(database_url: str) -> None:
    """Two transactions cannot come from one message."""
    run(database_url, _TRANSACTION.format(id=1, offset=7))
    with pytest.raises(psycopg.errors.UniqueViolation):
        run(database_url, _TRANSACTION.format(id=2, offset=7))


def _store(url: str, *ids: int) -> None:
    for each in ids:
        run(url, _TRANSACTION.format(id=each, offset=each))
        run(url, _PREDICTION.format(id=each, score=0.5))


def _left(url: str) -> list[int]:
    """Ids of the predictions that there are."""
    return sorted(each.int for (each,) in run(url, "SELECT transaction_id FROM predictions"))


def test_prediction_needs_its_transaction(database_url: str) -> None:
    """A prediction of nothing is refused, also among others that are none."""
    run(database_url, _TRANSACTION.format(id=1, offset=1))
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        run(database_url, _PREDICTION.format(id=2, score=0.5))
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        run(database_url, _PREDICTION.format(id=1, score=0.5) + _ANOTHER, UUID(int=2))
    assert _left(database_url) == []


def test_prediction_cannot_be_given_to_a_transaction_that_is_not_there(database_url: str) -> None:
    """Nor a transaction that has one be given another id; what else is in it may change."""
    _store(database_url, 1)
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        run(database_url, "UPDATE predictions SET transaction_id = %s", UUID(int=9))
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        run(database_url, "UPDATE transactions SET id = %s", UUID(int=9))
    run(database_url, "UPDATE transactions SET description = 'erased'")
    run(database_url, "UPDATE predictions SET prediction = 'erased'")
    assert _left(database_url) == [1]


def test_prediction_goes_with_its_transaction(database_url: str) -> None:
    """Deleting transactions, as retention does, leaves no prediction behind, and takes no other."""
    _store(database_url, 1, 2, 3)
    run(database_url, "DELETE FROM transactions WHERE id <> %s", UUID(int=2))
    assert _left(database_url) == [2]


def test_transactions_are_not_truncated_without_their_predictions(database_url: str) -> None:
    """Both together are."""
    _store(database_url, 1)
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        run(database_url, "TRUNCATE transactions")
    run(database_url, "TRUNCATE transactions, predictions")
    assert _left(database_url) == []
