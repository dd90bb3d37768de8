"""What is true of every message: it becomes a transaction, exact to the digit, or a failure."""

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

from hypothesis import example, given
from hypothesis import strategies as st

from operators.decode import decode_message
from operators.records import Failure, Received
from tests.kit.decoding import accepted, refused
from tests.kit.factories import message, transaction_json, transaction_text

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=100)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just("1.5")
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def _fits(amount: Decimal) -> bool:
    """Whether numeric(18,4) holds it exactly."""
    return (Fraction(amount) * 10_000).denominator == 1 and abs(amount) < 10**14


@given(value=st.binary(max_size=200))
@example(value=b"\x00")
def test_any_bytes_become_a_transaction_or_a_failure(value: bytes) -> None:
    """Nothing that is read can stop the stream."""
    of = message(value=value)

    outcome = decode_message(of)

    assert isinstance(outcome, Received | Failure)
    assert outcome.message is of


@given(fields=st.dictionaries(st.sampled_from([*transaction_json(), "external_id", "x"]), JSON))
def test_any_json_object_becomes_a_transaction_or_a_failure(fields: dict[str, Any]) -> None:
    """Whatever stands where a field is expected: alone, and in an otherwise valid transaction."""
    for value in (fields, transaction_json(**fields)):
        outcome = decode_message(message(value=value))

        assert isinstance(outcome, Received | Failure)


@given(amount=st.decimals(-(10**14), 10**14, places=4), as_text=st.booleans())
def test_an_amount_that_fits_the_column_survives(amount: Decimal, *, as_text: bool) -> None:
    """Every decimal of numeric(18,4), as a number and as a text."""
    literal = f"{amount:f}"
    value = transaction_text(amount=json.dumps(literal) if as_text else literal)

    if _fits(amount):
        assert accepted(value).amount == amount
    else:
        refused(value)


@given(
    digits=st.integers(-(10**30), 10**30) | st.integers(-(10**5), 10**5),
    exponent=st.integers(-30, 20),
)
@example(digits=0, exponent=20)
@example(digits=10**29 + 1, exponent=-29)
@example(digits=10**18 - 1, exponent=-4)
@example(digits=10**18, exponent=-4)
def test_an_amount_is_kept_or_refused_and_never_rounded(digits: int, exponent: int) -> None:
    """It is accepted exactly if the column holds it."""
    amount = Decimal(f"{digits}e{exponent}")
    outcome = decode_message(message(value=transaction_text(amount=f"{digits}e{exponent}")))

    assert isinstance(outcome, Received) is _fits(amount)
    if isinstance(outcome, Received):
        assert outcome.transaction.amount == amount


@given(
    time=st.datetimes(
        timezones=st.none()
        | st.builds(
            timezone, st.integers(-1439, 1439).map(lambda minutes: timedelta(minutes=minutes))
        )
    ),
    separator=st.sampled_from("Tt "),
)
def test_a_time_keeps_its_instant(time: datetime, separator: str) -> None:
    """Any that Python can write, to the microsecond, unless UTC has no such year."""
    value = transaction_json(timestamp=time.isoformat(separator))
    try:
        instant = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError:
        assert refused(value).code == "timestamp.out_of_range"
    else:
        assert accepted(value).timestamp == instant


@given(text=TEXTS, escaped=st.booleans())
def test_a_text_survives_unchanged(text: str, *, escaped: bool) -> None:
    """Nothing is trimmed, folded or normalised, escaped or not."""
    names = ("description", "merchant", "operation_type", "side")
    value = transaction_text(**dict.fromkeys(names, json.dumps(text, ensure_ascii=escaped)))

    found = accepted(value)

    assert [getattr(found, name) for name in names] == [text] * 4


@given(identity=TEXTS.filter(bool))
def test_an_id_is_a_uuid_or_is_kept_as_it_came(identity: str) -> None:
    """What made the id can always be told."""
    found = accepted(transaction_json(id=identity))

    assert found.external_id == identity or UUID(identity) == found.id
