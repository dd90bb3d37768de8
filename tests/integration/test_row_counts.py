"""After every write each row has its place, or nothing is committed."""

from collections.abc import Iterator
from contextlib import closing
from uuid import UUID

import psycopg
import pytest

from operators.errors import StoreError
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
    ("table", "counts"),
    [
        (
            "transactions",
            "of 2 rows 0 were stored, 0 stored already, 1 repeated and 0 in conflict",
        ),
        ("predictions", "1 transactions were stored with 0 predictions"),
        (
            "duplicates",
            "of 2 rows 1 were stored, 0 stored already, 0 repeated and 0 in conflict",
        ),
    ],
)
def test_a_database_that_leaves_rows_out_stops_the_stream(
    writing: Writing, table: str, counts: str
) -> None:
    """A trigger can do so without an error; what is written beside it is not committed either."""
    writing.trigger(table, "RETURN NULL;")
    with pytest.raises(StoreError) as stopped:
        writing.store(writing.row(1, offset=50), writing.row(2))
    assert str(stopped.value) == f"DATABASE_URL: rows cannot be stored: {counts}"
    assert writing.places() == [(1, 1)]
    assert writing.duplicates() == []
    assert writing.fetch.finished == 1
    assert not writing.writer.is_idle


@pytest.mark.parametrize("table", ["transactions", "predictions"])
def test_a_transaction_that_does_not_add_up_is_written_again(writing: Writing, table: str) -> None:
    """All of it, and a few times."""
    query(writing.url, "CREATE SEQUENCE calls")  # what it counts is not rolled back
    writing.trigger(table, TWICE)
    writing.store(writing.row(2))
    assert writing.stored() == [1, 2]
    assert writing.fetch.finished == 2
