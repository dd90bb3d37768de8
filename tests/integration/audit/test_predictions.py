"""Transactions that are stored without their prediction."""

import pytest

from ops.audit import predictions
from tests.integration.audit.world import World
from tests.kit.postgres import query

FORGET = """
DELETE FROM predictions USING transactions
WHERE id = transaction_id AND source_partition = %s AND source_offset = ANY(%s)
"""


@pytest.mark.parametrize("size", [1, 3, 100_000])
def test_a_transaction_without_prediction_differs(
    world: World, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Exit code 1, and its position, in whatever slice; the position itself is accounted for."""
    monkeypatch.setattr(predictions, "SLICE", size)
    for partition in (0, 2):
        world.send(12, partition)
        world.store(range(12), partition)
        world.commit(12, partition)
    assert world.audited().status == 0
    query(world.database_url, FORGET, 2, [3, 4, 5, 9])
    result = world.audited()
    assert result.status == 1
    assert result.total == {"settled": 24, "stored": 24, "no_prediction": 4}
    assert result.partition(0)["no_prediction_at"] == []
    spans = [{"first": 3, "last": 5}, {"first": 9, "last": 9}]
    assert result.partition(2)["no_prediction_at"] == spans
    lines = world.audit("--limit", "1").output.splitlines()
    assert "no prediction: 2:3-5 and 1 more" in lines
    assert lines[-1] == (
        "Differs: 24 consumed messages, 0 missing; 0 positions doubled;"
        " 4 transactions without prediction."
    )
    assert world.audited("--from", "2:9").total["no_prediction"] == 1


def test_what_is_not_committed_yet_is_looked_at_too(world: World) -> None:
    """Both rows are written at once: at no time is there one alone."""
    world.send(2)
    world.store([0, 1])
    query(world.database_url, "DELETE FROM predictions")
    world.commit(0)
    assert world.audited().total["no_prediction"] == 2


def test_other_topics_rows_are_not_judged(world: World) -> None:
    """Nor is a prediction of theirs taken for one of this topic's."""
    world.send(1)
    world.store([0])
    world.commit(1)
    world.store([0, 1], topic="other")
    query(
        world.database_url,
        "DELETE FROM predictions USING transactions"
        " WHERE id = transaction_id AND source_topic = 'other'",
    )
    assert world.audited().status == 0
