"""What becomes of a row, in Postgres."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from operators.postgres.tables import stored_positions
from tests.kit.factories import prediction
from tests.kit.postgres import query
from tests.kit.writing import TOPIC, Writing

SECRET = "4929 1111 2222 3333"  # noqa: S105 - a customer's, for a description
CONFLICT = ("persist", "conflict", "id.conflict")


@pytest.fixture
def writing(database_url: str) -> Iterator[Writing]:
    """A writer to the test's own database."""
    made = Writing(database_url)
    with closing(made.session):
        yield made


def test_values_are_stored_exactly(writing: Writing) -> None:
    """Decimals to the digit, text to the character, times to the microsecond, nulls as nulls."""
    rows = [
        writing.row(
            1,
            external_id="TX-\u00e9\u5bff",
            description="a 'b' \"c\" \\ \t\n\U0001f4b3 \u202e" + "x" * 9_000,
            amount=Decimal("-12345678901234.5678"),
            timestamp=datetime(2026, 2, 28, 23, 59, 59, 999_999, tzinfo=UTC),
            merchant=None,
            operation_type="",
            side="\\N",
            predicted=prediction(prediction="fraud \u26a0", fraud_score=0.1, model_version=None),
        ),
        writing.row(
            2,
            amount=Decimal("1E+2"),
            timestamp=datetime(1, 1, 1, tzinfo=UTC),
            merchant="",
            predicted=prediction(fraud_score=5e-324, model_version=""),
        ),
        writing.row(
            3,
            amount=Decimal("0.0001"),
            timestamp=datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
            predicted=prediction(fraud_score=1.0),
        ),
    ]
    writing.store(*rows)
    found = query(
        writing.url,
        """
        SELECT id, external_id, description, amount, extract(epoch FROM timestamp), merchant,
            operation_type, side, source_topic, source_partition, source_offset,
            prediction, fraud_score, model_version
        FROM transactions JOIN predictions ON transaction_id = id ORDER BY id
        """,
    )
    assert found == [
        (
            *row.transaction[:4],
            # Without Python's limits of years.
            _epoch(row.transaction.timestamp),
            *row.transaction[5:],
            TOPIC,
            1,
            row.message.offset,
            *row.prediction,
        )
        for row in rows
    ]
    assert writing.fetch.finished == 3


def _epoch(moment: datetime) -> Decimal:
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return Decimal(since // timedelta(microseconds=1)) / 1_000_000


def test_a_redelivered_message_changes_nothing(writing: Writing) -> None:
    """The same position again: in another batch, in the same, by another process."""
    rows = writing.rows(3)
    writing.store(*rows)
    everything = "SELECT * FROM transactions JOIN predictions ON true ORDER BY 1"
    before = query(writing.url, everything)
    writing.store(*rows, *rows)
    other = Writing(writing.url)
    with closing(other.session):
        other.store(*rows)
    assert query(writing.url, everything) == before
    assert writing.duplicates() == []
    assert writing.refused() == other.refused() == {}
    assert writing.totals() == (3, 0)
    assert writing.fetch.finished == 12


def test_a_message_that_is_a_dead_letter_already_is_not_stored(writing: Writing) -> None:
    """A predecessor made it; here there is nothing left to do for it."""
    writing.dead_letters.earlier = {0, 2}
    writing.store(*writing.rows(4))
    assert writing.stored() == [1, 3]
    assert writing.fetch.finished == 4
    writing.dead_letters.earlier = {8, 9}
    writing.store(*writing.rows(2, start=8))
    assert writing.fetch.finished == 6


def test_a_repeated_message_leaves_its_position(writing: Writing) -> None:
    """The same id and content elsewhere: one row more in `duplicates`, however often it comes."""
    writing.store(writing.row(1))
    for _ in range(2):
        writing.store(writing.row(1, offset=50), writing.row(1, offset=51), writing.row(2))
    writing.store(*[writing.row(1, offset=at) for at in (52, 52, 50)])
    assert writing.places() == [(1, 1), (2, 2)]
    assert writing.duplicates() == [(1, 50), (1, 51), (1, 52)]
    assert writing.refused() == {}
    assert writing.totals() == (2, 3)
    assert writing.fetch.finished == 10


def test_a_message_repeated_within_a_batch_leaves_its_position(writing: Writing) -> None:
    """The first in the batch is the one that is stored."""
    writing.store(writing.row(1, offset=7), writing.row(1, offset=5), writing.row(1, offset=6))
    assert writing.places() == [(1, 7)]
    assert writing.duplicates() == [(1, 5), (1, 6)]


def test_the_same_amount_written_otherwise_is_the_same_content(writing: Writing) -> None:
    """12.5 and 12.50 are one number, and another prediction is no other content."""
    writing.store(writing.row(1, amount=Decimal("12.5")))
    again = prediction(fraud_score=0.9)
    writing.store(writing.row(1, offset=9, amount=Decimal("12.5000"), predicted=again))
    assert writing.duplicates() == [(1, 9)]
    assert query(writing.url, "SELECT fraud_score FROM predictions") == [(0.25,)]


def test_writers_that_repeat_each_other_store_each_once(writing: Writing) -> None:
    """Two at the same time, in opposite orders: one stores, the other notes a duplicate."""
    count = 3_000
    forth = [writing.row(number) for number in range(count)]
    back = [writing.row(number, offset=count + number) for number in reversed(range(count))]

    def write(rows: list[Any]) -> dict[int, Any]:
        other = Writing(writing.url)
        with closing(other.session):
            for begin in range(0, count, 100):
                other.store(*rows[begin : begin + 100])
        return other.refused()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(write, (forth, back))) == [{}, {}]
    assert writing.stored() == list(range(count))
    assert sorted(number for number, _ in writing.duplicates()) == list(range(count))
    everything = writing.places() + writing.duplicates()
    assert {offset for _, offset in everything} == set(range(2 * count))
    assert writing.fetch.finished == 2 * count


def test_the_same_id_with_other_content_is_a_conflict(writing: Writing) -> None:
    """The first stays, the second is a dead letter, which is not finished here."""
    writing.store(writing.row(1), writing.row(2))
    before = query(writing.url, "SELECT * FROM transactions ORDER BY id")
    writing.store(
        writing.row(1, offset=100, description=SECRET),
        writing.row(2, offset=101, merchant=None),
        writing.row(1, offset=1, side="debit"),  # a position that is stored is none the less one
        writing.row(2, offset=102),
    )
    assert query(writing.url, "SELECT * FROM transactions ORDER BY id") == before
    assert writing.refused() == dict.fromkeys((100, 101, 1), CONFLICT)
    assert not any(SECRET in each.error for each in writing.dead_letters.found)
    assert writing.duplicates() == [(2, 102)]
    assert writing.fetch.finished == 3


def test_a_conflict_within_a_batch_is_told_too(writing: Writing) -> None:
    """The first of the batch stays; repetitions of either are what they are."""
    writing.store(
        writing.row(1, offset=1),
        writing.row(1, offset=2, description="other"),
        writing.row(1, offset=3),
    )
    assert writing.places() == [(1, 1)]
    assert writing.duplicates() == [(1, 3)]
    assert writing.refused() == {2: CONFLICT}


def test_a_row_that_the_database_alone_refuses_is_a_dead_letter(writing: Writing) -> None:
    """Its neighbours are stored; the error names the rule and not the value."""
    query(
        writing.url,
        f"ALTER TABLE transactions ADD CONSTRAINT no_cards CHECK (description <> '{SECRET}')",
    )
    bad = {0, 37, 99}
    rows = [writing.row(at, description=SECRET if at in bad else "plain") for at in range(100)]
    writing.store(*rows)
    assert writing.stored() == [number for number in range(100) if number not in bad]
    assert writing.refused() == dict.fromkeys(bad, ("persist", "rejected", "sqlstate.23514"))
    for each in writing.dead_letters.found:
        assert "no_cards" in each.error
        assert SECRET not in each.error
    assert writing.totals() == (97, 0)
    assert writing.fetch.finished == 97


def test_a_position_that_another_transaction_has_is_refused(writing: Writing) -> None:
    """Two transactions cannot come from one message."""
    writing.store(writing.row(1))
    writing.store(writing.row(2, offset=1), writing.row(3))
    assert writing.stored() == [1, 3]
    assert writing.refused() == {1: ("persist", "rejected", "sqlstate.23505")}


def test_it_can_be_asked_which_positions_have_a_row(writing: Writing) -> None:
    """In either table; others' positions are not looked at."""
    writing.store(*writing.rows(4))
    writing.store(writing.row(1, offset=50))

    def ask(topic: str, partition: int, offsets: list[int]) -> set[int]:
        return writing.loop.run(
            writing.session.run(
                lambda connection: stored_positions(connection, topic, partition, offsets)
            )
        )

    assert ask(TOPIC, 1, [3, 50, 51, 2**40]) == {3, 50}
    assert ask(TOPIC, 2, [3, 50]) == ask("others", 1, [3, 50]) == ask(TOPIC, 1, []) == set()
