"""What becomes of a message: a transaction, exact to the digit, or a failure that repeats nothing.

The long tables are the contract with the producers and with whoever filters the error topic: codes
are stable.
"""

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, run_main
from hypothesis import example, given
from hypothesis import strategies as st

from operators.decode import decode, decode_message
from operators.records import Failure, Message, Received, Transaction
from tests.factories import (
    ABSENT,
    ID,
    message,
    received,
    transaction,
    transaction_json,
    transaction_text,
)

MARKER = "4111-SECRET-1111"

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=100)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just("1.5")
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def _accepted(value: Any) -> Transaction:
    outcome = decode_message(message(value=value))
    assert isinstance(outcome, Received), outcome
    return outcome.transaction


def _refused(value: Any) -> Failure:
    outcome = decode_message(message(value=value))
    assert isinstance(outcome, Failure), outcome
    return outcome


def _fits(amount: Decimal) -> bool:
    """Whether numeric(18,4) holds it exactly."""
    return (Fraction(amount) * 10_000).denominator == 1 and abs(amount) < 10**14


def test_a_valid_message_becomes_its_transaction() -> None:
    """All fields arrive, and the message stays beside them untouched."""
    of = message(key=b"k", headers=[("a", None)], partition=3, offset=7)

    assert decode_message(of) == received(of=of)


@pytest.mark.parametrize("order", [1, -1], ids=["in order", "reversed"])
def test_the_order_of_fields_does_not_matter(order: int) -> None:
    """JSON objects have none."""
    assert _accepted(dict([*transaction_json().items()][::order])) == transaction()


@pytest.mark.parametrize(
    ("literal", "amount"),
    [
        ("12345678901234.5678", "12345678901234.5678"),
        ("99999999999999.9999", "99999999999999.9999"),
        ("-99999999999999.9999", "-99999999999999.9999"),
        ("0.1", "0.1"),
        ("0.0001", "0.0001"),
        ("12.50", "12.5"),
        ("1.50000", "1.5"),
        (f"1.{'0' * 100}", "1"),
        ("1e2", "100"),
        ("-1E+2", "-100"),
        ("10e-5", "0.0001"),
        ("0e99", "0"),
        ("-0.0", "0"),
        ("7", "7"),
        ("-7", "-7"),
        ("99999999999999", "99999999999999"),
        ('"12.50"', "12.5"),
        ('"-12345678901234.5678"', "-12345678901234.5678"),
        ('"007"', "7"),
    ],
)
def test_an_amount_is_exact(literal: str, amount: str) -> None:
    """Numbers and decimal texts arrive to the digit, whatever binary floats would make of them."""
    found = _accepted(transaction_text(amount=literal)).amount

    assert isinstance(found, Decimal)
    assert found == Decimal(amount)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-01-05T08:00:00", datetime(2026, 1, 5, 8, tzinfo=UTC)),
        ("2026-01-05 08:00:00", datetime(2026, 1, 5, 8, tzinfo=UTC)),
        ("2026-01-05t08:00:00", datetime(2026, 1, 5, 8, tzinfo=UTC)),
        ("2026-01-05T08:00", datetime(2026, 1, 5, 8, tzinfo=UTC)),
        ("2026-01-05T08:00:00Z", datetime(2026, 1, 5, 8, tzinfo=UTC)),
        ("2026-01-05T08:00:00z", datetime(2026, 1, 5, 8, tzinfo=UTC)),
        ("2026-01-05T08:00:00+02:00", datetime(2026, 1, 5, 6, tzinfo=UTC)),
        ("2026-01-05T22:30:00-0330", datetime(2026, 1, 6, 2, tzinfo=UTC)),
        ("2026-01-05T08:00:00.5", datetime(2026, 1, 5, 8, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-01-05 08:00:00.123456", datetime(2026, 1, 5, 8, 0, 0, 123_456, tzinfo=UTC)),
        ("2026-01-05T08:00:00.123456789Z", datetime(2026, 1, 5, 8, 0, 0, 123_456, tzinfo=UTC)),
        ("0001-01-01T00:00:00", datetime(1, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_a_timestamp_is_its_instant_in_utc(text: str, instant: datetime) -> None:
    """UTC without an offset, converted with one; finer than microseconds is cut off."""
    found = _accepted(transaction_json(timestamp=text)).timestamp

    assert found == instant
    assert found.tzinfo is UTC


@pytest.mark.parametrize(
    "spelling",
    [
        "3f2504e0-4f89-11d3-9a0c-0305e82c3301",
        "3F2504E0-4F89-11D3-9A0C-0305E82C3301",
        "3f2504e04f8911d39a0c0305e82c3301",
        "3F2504E04F8911D39A0C0305E82C3301",
        "{3f2504e0-4f89-11d3-9a0c-0305e82c3301}",
        "{3F2504E0-4F89-11D3-9A0C-0305E82C3301}",
        "urn:uuid:3f2504e0-4f89-11d3-9a0c-0305e82c3301",
        "urn:uuid:3F2504E0-4F89-11D3-9A0C-0305E82C3301",
        "URN:UUID:3F2504E0-4F89-11D3-9A0C-0305E82C3301",
        "Urn:Uuid:3f2504e0-4f89-11d3-9a0c-0305e82c3301",
    ],
)
def test_every_spelling_of_a_uuid_is_the_same_id(spelling: str) -> None:
    """Otherwise a repeated message in another spelling would be a second transaction."""
    found = _accepted(transaction_json(id=spelling))

    assert (found.id, found.external_id) == (ID, None)


@pytest.mark.parametrize(
    ("identity", "expected", "external_id"),
    [
        pytest.param(5, "088f39b5-014b-563a-8dae-3eef53656990", "5", id="integer"),
        pytest.param("5", "088f39b5-014b-563a-8dae-3eef53656990", "5", id="text of digits"),
        pytest.param(-5, "95d0b5bf-e00d-5d5c-9968-7c6ba35f62a3", "-5", id="negative"),
        pytest.param(0, "4f713c45-78cc-5ba2-80e1-1acf37d87c5f", "0", id="zero"),
        pytest.param("Urn:Uuid:x", "46a8d209-c763-53fb-a325-8bdf862372b4", "Urn:Uuid:x", id="urn"),
        pytest.param("x" * 200, "7aee671d-c03d-510e-9120-7af86568dfdc", "x" * 200, id="longest"),
    ],
)
def test_an_id_that_is_no_uuid_always_gets_the_same_one(
    identity: int | str, expected: str, external_id: str
) -> None:
    """The UUIDs stand here literally: rows are stored under them, so they must never change."""
    found = _accepted(transaction_json(id=identity))

    assert (found.id, found.external_id) == (UUID(expected), external_id)


@pytest.mark.parametrize(
    "identity",
    [
        "URN:UUID: f2504e0-4f89-11d3-9a0c-0305e82c3301",
        "URN:UUID:3_2504e0-4f89-11d3-9a0c-0305e82c3301",
        "URN:UUID:0x2504e0-4f89-11d3-9a0c-0305e82c3301",
        f"URN:UUID:{'٣' * 32}",
    ],
    ids=["space", "underscore", "0x", "other digits"],
)
def test_a_text_that_only_resembles_a_uuid_is_a_text(identity: str) -> None:
    """Taken for a UUID it could get the id of another transaction."""
    assert _accepted(transaction_json(id=identity)).external_id == identity


@pytest.mark.parametrize("merchant", [None, ABSENT], ids=["null", "absent"])
def test_a_transaction_needs_no_merchant(merchant: Any) -> None:
    """Null and absent are the same."""
    assert _accepted(transaction_json(merchant=merchant)) == transaction(merchant=None)


@pytest.mark.parametrize(
    "extra",
    [
        {"processing_type": "batch", "run_id": 5, "more": {"a": [1.5, None, True]}},
        {"external_id": "mine"},
        {"": "", "Amount": 1},
        {"blob": "x" * 900_000},
        {"nested": json.loads("[" * 150 + "]" * 150)},
    ],
    ids=["other fields", "external_id", "odd names", "900 kB", "150 levels"],
)
def test_fields_that_nobody_asked_for_are_ignored(extra: dict[str, Any]) -> None:
    """Even one by the name of a column that the stream fills itself."""
    assert _accepted(transaction_json(**extra)) == transaction()


TIMESTAMP_RULE = "timestamp: Input should be an ISO 8601 date and time such as 2026-11-23T10:00:00"
AMOUNT_RULE = "amount: Input should be a number or a plain decimal text"
ID_RULE = (
    "id: Input should be a UUID, another text of 1 to 200 characters without NUL, or an integer"
)


@pytest.mark.parametrize(
    ("value", "code", "error"),
    [
        pytest.param(None, "no_value", "value: there is none", id="tombstone"),
        pytest.param(b"[]", "not_an_object", "value: JSON, but not an object", id="array"),
        pytest.param(b'"text"', "not_an_object", "value: JSON, but not an object", id="text"),
        pytest.param(b"5", "not_an_object", "value: JSON, but not an object", id="number"),
        pytest.param(b"null", "not_an_object", "value: JSON, but not an object", id="null"),
        pytest.param(b"\xff", "not_utf8", "value: not UTF-8 at byte 0", id="binary"),
        pytest.param(b'{"a":"\xff"}', "not_utf8", "value: not UTF-8 at byte 6", id="latin-1"),
        pytest.param(
            b'{"a":"\xed\xa0\x80"}', "not_utf8", "value: not UTF-8 at byte 6", id="raw surrogate"
        ),
    ],
)
def test_what_is_no_json_object_is_refused(value: bytes | None, code: str, error: str) -> None:
    """Each kind has its code."""
    found = _refused(value)

    assert (found.stage, found.disposition, found.code) == ("decode", "poison", code)
    assert found.error == error


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"  ", id="blank"),
        pytest.param(b"{", id="cut off"),
        pytest.param(transaction_text() + b"x", id="more behind"),
        pytest.param(b"\xef\xbb\xbf" + transaction_text(), id="byte order mark"),
        pytest.param(b"{'a':1}", id="single quotes"),
        pytest.param(transaction_text(amount="NaN"), id="NaN"),
        pytest.param(transaction_text(amount="Infinity"), id="Infinity"),
        pytest.param(transaction_text(other="-Infinity"), id="Infinity where it is ignored"),
        pytest.param(transaction_text(amount="1e99999999999999999999"), id="endless exponent"),
        pytest.param(transaction_text(amount="01"), id="leading zero"),
        pytest.param(transaction_text(amount="9" * 5_000), id="5,000 digits"),
        pytest.param(transaction_text(other="9" * 5_000), id="5,000 digits where ignored"),
        pytest.param(transaction_text(description='"\\ud800"'), id="lone surrogate"),
        pytest.param(transaction_text(description='"a\x00b"'), id="raw NUL"),
        pytest.param(transaction_text(description='"a\nb"'), id="raw line break"),
        pytest.param(b'{"amount":1,' + transaction_text()[1:], id="doubled key"),
        pytest.param(transaction_text(other='{"a":1,"a":1}'), id="doubled key within"),
        pytest.param(b"[" * 100_000, id="100,000 brackets"),
        pytest.param(transaction_text(other="[" * 100_000 + "]" * 100_000), id="100,000 levels"),
        pytest.param(b'{"a":' * 100_000, id="100,000 objects"),
    ],
)
def test_what_is_not_strictly_json_is_refused(value: bytes) -> None:
    """Also what lenient parsers take, and what would exhaust them."""
    found = _refused(value)

    assert (found.stage, found.disposition, found.code) == ("decode", "poison", "not_json")
    assert found.error.startswith("value: not JSON: ")
    assert len(found.error) < 200


@pytest.mark.parametrize(
    ("field", "literal", "rule", "error"),
    [
        ("id", ABSENT, "missing", "id: Field required"),
        ("id", "null", "id_type", ID_RULE),
        ("id", "true", "id_type", ID_RULE),
        ("id", "1.0", "id_type", ID_RULE),
        ("id", "[]", "id_type", ID_RULE),
        ("id", '""', "id_type", ID_RULE),
        ("id", '"a\\u0000"', "id_type", ID_RULE),
        ("id", f'"{"x" * 201}"', "id_type", ID_RULE),
        ("id", "9" * 201, "id_type", ID_RULE),
        ("id", f"-{'9' * 200}", "id_type", ID_RULE),
        ("amount", ABSENT, "missing", "amount: Field required"),
        ("amount", "null", "amount_type", AMOUNT_RULE),
        ("amount", "true", "amount_type", AMOUNT_RULE),
        ("amount", "[1]", "amount_type", AMOUNT_RULE),
        ("amount", '""', "amount_type", AMOUNT_RULE),
        ("amount", '" 12.50 "', "amount_type", AMOUNT_RULE),
        ("amount", '"1e2"', "amount_type", AMOUNT_RULE),
        ("amount", '"+1"', "amount_type", AMOUNT_RULE),
        ("amount", '"1_000"', "amount_type", AMOUNT_RULE),
        ("amount", '"1,5"', "amount_type", AMOUNT_RULE),
        ("amount", '"NaN"', "amount_type", AMOUNT_RULE),
        ("amount", '"٣"', "amount_type", AMOUNT_RULE),
        (
            "amount",
            "0.00001",
            "decimal_max_places",
            "amount: Decimal input should have no more than 4 decimal places",
        ),
        (
            "amount",
            "100000000000000",
            "decimal_whole_digits",
            "amount: Decimal input should have no more than 14 digits before the decimal point",
        ),
        *[
            (
                "amount",
                literal,
                "decimal_max_digits",
                "amount: Decimal input should have no more than 18 digits in total",
            )
            for literal in (
                "1e400",
                "-1e400",
                "1e999999999999",
                "-1e-999999999999",
                "9" * 4_300,
                f"1.{'0' * 30}1",
                f'"{"9" * 30}"',
            )
        ],
        ("timestamp", ABSENT, "missing", "timestamp: Field required"),
        ("timestamp", "null", "timestamp_type", TIMESTAMP_RULE),
        ("timestamp", "1767600000", "timestamp_type", TIMESTAMP_RULE),
        ("timestamp", '"1767600000"', "timestamp_type", TIMESTAMP_RULE),
        ("timestamp", '"2026-01-05"', "timestamp_type", TIMESTAMP_RULE),
        ("timestamp", '"20260105T080000"', "timestamp_type", TIMESTAMP_RULE),
        ("timestamp", '" 2026-01-05T08:00:00"', "timestamp_type", TIMESTAMP_RULE),
        ("timestamp", '"2026-01-05T08:00:60"', "timestamp_type", TIMESTAMP_RULE),
        ("timestamp", '"2026-02-30T08:00:00"', "timestamp_type", TIMESTAMP_RULE),
        ("timestamp", '"0000-01-01T00:00:00"', "timestamp_type", TIMESTAMP_RULE),
        ("timestamp", '"2026-01-05T08:00:00+24:00"', "timestamp_type", TIMESTAMP_RULE),
        *[
            (
                "timestamp",
                literal,
                "out_of_range",
                "timestamp: Input in UTC should be between the years 1 and 9999",
            )
            for literal in ('"0001-01-01T00:00:00+01:00"', '"9999-12-31T23:59:59-01:00"')
        ],
        ("description", ABSENT, "missing", "description: Field required"),
        ("description", "null", "string_type", "description: Input should be a valid string"),
        ("description", "5", "string_type", "description: Input should be a valid string"),
        *[
            (
                "description",
                f'"{"x" * length}"',
                "string_too_long",
                "description: String should have at most 10000 characters",
            )
            for length in (10_001, 900_000)
        ],
        *[
            (field, '"a\\u0000"', "nul", f"{field}: Input should hold no NUL character")
            for field in ("description", "merchant", "operation_type", "side")
        ],
        ("merchant", "5", "string_type", "merchant: Input should be a valid string"),
        (
            "merchant",
            f'"{"x" * 10_001}"',
            "string_too_long",
            "merchant: String should have at most 10000 characters",
        ),
        *[
            row
            for field in ("operation_type", "side")
            for row in (
                (field, ABSENT, "missing", f"{field}: Field required"),
                (field, "null", "string_type", f"{field}: Input should be a valid string"),
                (
                    field,
                    f'"{"x" * 101}"',
                    "string_too_long",
                    f"{field}: String should have at most 100 characters",
                ),
            )
        ],
    ],
    ids=lambda part: "absent" if part is ABSENT else str(part)[:24],
)
def test_a_field_that_breaks_a_rule_is_named_with_the_rule(
    field: str, literal: Any, rule: str, error: str
) -> None:
    """The code is stable, the text is for people; neither holds what was received."""
    found = _refused(transaction_text(**{field: literal}))

    assert (found.stage, found.disposition) == ("validate", "poison")
    assert found.code == f"{field}.{rule}"
    assert found.error == error


@pytest.mark.parametrize(
    ("field", "literal"),
    [
        ("id", f'"{"x" * 200}"'),
        ("id", "9" * 200),
        ("id", f"-{'9' * 199}"),
        ("description", f'"{"x" * 10_000}"'),
        ("description", f'"{"😀" * 10_000}"'),
        ("description", '""'),
        ("merchant", f'"{"x" * 10_000}"'),
        ("operation_type", f'"{"x" * 100}"'),
        ("side", f'"{"x" * 100}"'),
    ],
    ids=lambda part: str(part)[:24],
)
def test_limits_are_inclusive(field: str, literal: str) -> None:
    """Counted in characters."""
    _accepted(transaction_text(**{field: literal}))


def test_every_broken_field_is_named() -> None:
    """In the order of the fields; the code is the first one's."""
    found = _refused(b"{}")

    assert found.code == "id.missing"
    assert [reason.split(":")[0] for reason in found.error.split("; ")] == [
        *("id", "description", "amount", "timestamp", "operation_type", "side"),
    ]


@pytest.mark.parametrize(
    "value",
    [
        *[
            pytest.param(transaction_json(**{field: wrong}), id=f"{field} {kind}")
            for field in transaction_json()
            for kind, wrong in [
                ("object", {MARKER: MARKER}),
                ("array", [MARKER]),
                ("NUL", f"{MARKER}\0"),
                ("long", MARKER * 900),
            ]
        ],
        pytest.param(transaction_json(amount=MARKER), id="amount"),
        pytest.param(transaction_json(timestamp=MARKER), id="timestamp"),
        pytest.param(transaction_json(timestamp=f"2026-01-05T08:{MARKER}"), id="timestamp's end"),
        pytest.param({MARKER: MARKER}, id="other keys alone"),
        pytest.param([MARKER], id="array of it"),
        pytest.param(MARKER, id="text of it"),
        *[
            pytest.param(text.encode(), id=text.replace(MARKER, "…"))
            for text in [
                MARKER,
                f"'{MARKER}'",
                f'"{MARKER}',
                f'{{"{MARKER}"',
                f'{{"{MARKER}":1,"{MARKER}":2}}',
                f'{{"a\\n{MARKER}":1,"a\\n{MARKER}":2}}',
                f'{{"a\\"{MARKER}\\"":1,"a\\"{MARKER}\\"":2}}',
                f'{{"\u2028{MARKER}\u2028":1,"\u2028{MARKER}\u2028":2}}',
                f'{{"a":"\\u{MARKER}"}}',
                f'{{"a":"{MARKER}\\q"}}',
                f'{{"a":"{MARKER}\n"}}',
                f'{{"a":"{MARKER}\\ud800"}}',
                f'{{"a":1{MARKER}}}',
                f"{{}}{MARKER}",
            ]
        ],
        pytest.param(f'{{"{MARKER}":"'.encode() + b"\xff", id="not UTF-8"),
    ],
)
def test_an_error_never_repeats_what_was_received(value: Any) -> None:
    """Card numbers in an error topic or a log are a leak; keys are the producer's data too."""
    found = _refused(value if isinstance(value, bytes) else json.dumps(value).encode())

    assert MARKER not in found.error + found.code
    assert "SECRET" not in found.error + found.code


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
        assert _accepted(value).amount == amount
    else:
        _refused(value)


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
        assert _refused(value).code == "timestamp.out_of_range"
    else:
        assert _accepted(value).timestamp == instant


@given(text=TEXTS, escaped=st.booleans())
def test_a_text_survives_unchanged(text: str, *, escaped: bool) -> None:
    """Nothing is trimmed, folded or normalised, escaped or not."""
    names = ("description", "merchant", "operation_type", "side")
    value = transaction_text(**dict.fromkeys(names, json.dumps(text, ensure_ascii=escaped)))

    found = _accepted(value)

    assert [getattr(found, name) for name in names] == [text] * 4


@given(identity=TEXTS.filter(bool))
def test_an_id_is_a_uuid_or_is_kept_as_it_came(identity: str) -> None:
    """What made the id can always be told."""
    found = _accepted(transaction_json(id=identity))

    assert found.external_id == identity or UUID(identity) == found.id


def test_the_step_parts_transactions_from_failures() -> None:
    """Both streams keep their order."""
    values = [transaction_text(), b"", transaction_text(amount="1"), b"[]"]
    oks: list[Received] = []
    errs: list[Failure] = []
    flow = Dataflow("test")
    source: TestingSource[Message] = TestingSource(
        [message(value=value, offset=offset) for offset, value in enumerate(values)], batch_size=4
    )
    out = decode("decode", op.input("in", flow, source))
    op.output("oks", out.oks, TestingSink(oks))
    op.output("errs", out.errs, TestingSink(errs))

    run_main(flow)  # type: ignore[no-untyped-call]

    assert [item.message.offset for item in oks] == [0, 2]
    assert [(item.message.offset, item.code) for item in errs] == [
        (1, "not_json"),
        (3, "not_an_object"),
    ]
