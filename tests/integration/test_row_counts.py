"""After every write each row has its place, or nothing is committed."""

from collections.abc import Iterator
from contextlib import closing
from uuid import UUID

import psycopg
import pytest

from tests.kit.postgres import query
from tests.kit.writing import Writing

WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"
INSERT = """
INSERT INTO transactions
SELECT (jsonb_populate_record(t, jsonb_build_object('id', %s::uuid, 'source_offset', 99))).*
FROM transactions AS t
"""
TWICE = "IF nextval('calls') <= 2 THEN RETURN NULL; END IF; RETURN NEW;"


@pytest.fixture
def writing(database_url: str) -> Iterator[Writing]:
    """A writer to the test's own database, which has row 1."""
    made = Writing(database_url)
    made.store(made.row(1))
    with closing(made.session):
        yield made


@pytest.mark.parametrize(
    ("offset", "description"),
    [
        pytest.param(50, "order 1", id="repeated"),
        pytest.param(1, "order 1", id="redelivered"),
        pytest.param(50, "other", id="conflict"),
    ],
)
def test_a_row_that_is_deleted_while_it_is_written_again_is_stored(
    writing: Writing, offset: int, description: str
) -> None:
    """By erasure or retention, between the look at its id and the look at its content."""
    again = writing.row(1, offset=offset, description=description)
    with psycopg.connect(writing.url) as other:
        other.execute(INSERT, [UUID(int=2)])
        # Row 1 is passed over, then row 2 waits for the other transaction to end.
        writing.writer.write([again, writing.row(2)])
        writing.until(lambda: query(writing.url, WAITING) == [(1,)])
        query(writing.url, "DELETE FROM transactions WHERE id = %s", UUID(int=1))
        other.rollback()
    writing.until(lambda: writing.writer.is_idle)
    assert sorted(writing.places()) == [(1, offset), (2, 2)]
    assert writing.stored() == [1, 2]
    assert writing.duplicates() == []
    assert writing.refused() == {}
    assert writing.totals() == (3, 0)
    assert writing.fetch.finished == 3


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("transactions", "of 1 rows 0 were stored, 0 stored already, 0 repeated"),
        ("predictions", "1 transactions were stored with 0 predictions"),
    ],
)
def test_a_database_that_leaves_all_rows_out_is_waited_for(
    writing: Writing, table: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A trigger can do so without an error: nothing of it is committed, and nothing given up."""
    writing.trigger(table, "RETURN NULL;")
    writing.writer.write([writing.row(2), writing.row(3)])
    writing.until_told("postgres.refuses", capsys, times=6)
    assert reason in writing.told
    assert writing.places() == [(1, 1)]
    assert writing.fetch.finished == 1
    writing.drop_triggers(table)
    writing.until(lambda: writing.writer.is_idle)
    assert writing.stored() == [1, 2, 3]
    assert writing.refused() == {}
    assert writing.fetch.finished == 3


def test_a_table_that_is_written_to_now_and_then_is_tried_too(
    writing: Writing, capsys: pytest.CaptureFixture[str]
) -> None:
    """Repeated messages are not given up while `duplicates` takes none and the others all."""
    writing.trigger("duplicates", "RETURN NULL;")
    writing.writer.write([writing.row(1, offset=50), writing.row(2)])
    writing.until_told("postgres.refuses", capsys, times=6)
    assert writing.stored() == [1, 2]
    writing.drop_triggers("duplicates")
    writing.until(lambda: writing.writer.is_idle)
    assert writing.duplicates() == [(1, 50)]
    assert writing.refused() == {}
    assert writing.fetch.finished == 3


@pytest.mark.parametrize("table", ["transactions", "predictions"])
def test_a_row_that_the_database_alone_leaves_out_is_a_dead_letter(
    writing: Writing, table: str
) -> None:
    """A trigger that drops some rows refuses them, if without a word; the others are stored."""
    key = {"transactions": "id", "predictions": "transaction_id"}[table]
    left_out = UUID(int=17)
    writing.trigger(table, f"IF NEW.{key} = '{left_out}' THEN RETURN NULL; END IF; RETURN NEW;")
    writing.store(*writing.rows(40, start=2))
    assert writing.stored() == [number for number in range(1, 42) if number != 17]
    assert writing.refused() == {17: ("persist", "rejected", "row.left_out")}
    assert writing.fetch.finished == 40


@pytest.mark.parametrize("table", ["transactions", "predictions"])
def test_a_transaction_that_does_not_add_up_is_written_again(writing: Writing, table: str) -> None:
    """All of it, and a few times."""
    query(writing.url, "CREATE SEQUENCE calls")  # what it counts is not rolled back
    writing.trigger(table, TWICE)
    writing.store(writing.row(2))
    assert writing.stored() == [1, 2]
    assert writing.fetch.finished == 2
