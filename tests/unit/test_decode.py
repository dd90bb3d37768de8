"""What becomes of a message: a transaction, exact to the digit, or a failure that repeats nothing.

The long tables are the contract with the producers and with whoever filters the error topic: codes
are stable.
"""

import gzip
import json
import traceback
import zlib
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.errors import BytewaxRuntimeError
from bytewax.testing import TestingSink, TestingSource, run_main
from structlog.testing import capture_logs

import operators.decode
from operators.decode import decode, decode_message
from operators.records import Failure, Message, Received
from tests.kit.decoding import accepted, refused
from tests.kit.factories import (
    ABSENT,
    ID,
    message,
    received,
    transaction,
    transaction_json,
    transaction_text,
)

MARKER = "4111-SECRET-1111"


def test_a_valid_message_becomes_its_transaction() -> None:
    """All fields arrive, and the message stays beside them untouched."""
    of = message(key=b"k", headers=[("a", None)], partition=3, offset=7)

    assert decode_message(of) == received(of=of)


@pytest.mark.parametrize("order", [1, -1], ids=["in order", "reversed"])
def test_the_order_of_fields_does_not_matter(order: int) -> None:
    """JSON objects have none."""
    assert accepted(dict([*transaction_json().items()][::order])) == transaction()


@pytest.mark.parametrize(
    ("literal", "amount"),
    [
        ("99999999999999.9999", "99999999999999.9999"),
        ("-99999999999999.9999", "-99999999999999.9999"),
        ("0.1", "0.1"),
        (f"1.{'0' * 100}", "1"),
        ("-1E+2", "-100"),
        ("10e-5", "0.0001"),
        ("0e99", "0"),
        ("-0.0", "0"),
        ("7", "7"),
        ('"-12345678901234.5678"', "-12345678901234.5678"),
        ('"007"', "7"),
    ],
)
def test_an_amount_is_exact(literal: str, amount: str) -> None:
    """Numbers and decimal texts arrive to the digit, whatever binary floats would make of them."""
    found = accepted(transaction_text(amount=literal)).amount

    assert isinstance(found, Decimal)
    assert found == Decimal(amount)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-01-05 08:00:00", datetime(2026, 1, 5, 8, tzinfo=UTC)),
        ("2026-01-05t08:00", datetime(2026, 1, 5, 8, tzinfo=UTC)),
        ("2026-01-05T08:00:00z", datetime(2026, 1, 5, 8, tzinfo=UTC)),
        ("2026-01-05T22:30:00-0330", datetime(2026, 1, 6, 2, tzinfo=UTC)),
        ("2026-01-05T08:00:00+05", datetime(2026, 1, 5, 3, tzinfo=UTC)),
        ("2026-01-05 08:00:00+00", datetime(2026, 1, 5, 8, tzinfo=UTC)),
        ("2026-01-05 08:00:00.25-03", datetime(2026, 1, 5, 11, 0, 0, 250_000, tzinfo=UTC)),
        ("2026-01-05t08:00-12", datetime(2026, 1, 5, 20, tzinfo=UTC)),
        ("1900-01-01 00:19:32+00:19:32", datetime(1900, 1, 1, tzinfo=UTC)),
        ("2026-01-05T08:00:00.5", datetime(2026, 1, 5, 8, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-01-05T08:00:00.123456789Z", datetime(2026, 1, 5, 8, 0, 0, 123_456, tzinfo=UTC)),
        ("0001-01-01T00:00:00", datetime(1, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_a_timestamp_is_its_instant_in_utc(text: str, instant: datetime) -> None:
    """UTC without an offset, converted with one; finer than microseconds is cut off."""
    found = accepted(transaction_json(timestamp=text)).timestamp

    assert found == instant
    assert found.tzinfo is UTC


@pytest.mark.parametrize(
    "spelling",
    [
        "3f2504e0-4f89-11d3-9a0c-0305e82c3301",
        "3F2504E04F8911D39A0C0305E82C3301",
        "{3F2504E0-4F89-11D3-9A0C-0305E82C3301}",
        "urn:uuid:3f2504e0-4f89-11d3-9a0c-0305e82c3301",
        "Urn:Uuid:3F2504E0-4F89-11D3-9A0C-0305E82C3301",
        " 3f2504e0-4f89-11d3-9a0c-0305e82c3301",
        "3f2504e0-4f89-11d3-9a0c-0305e82c3301\n",
        "\t{3F2504E04F8911D39A0C0305E82C3301}\r\n",
        "\ufeff3f2504e0-4f89-11d3-9a0c-0305e82c3301",
        "\u00a03f2504e0-4f89-11d3-9a0c-0305e82c3301\u200b",
    ],
)
def test_every_spelling_of_a_uuid_is_the_same_id(spelling: str) -> None:
    """Otherwise a repeated message in another spelling would be a second transaction."""
    found = accepted(transaction_json(id=spelling))

    assert (found.id, found.external_id) == (ID, None)


@pytest.mark.parametrize(
    ("identity", "expected", "external_id"),
    [
        (5, "088f39b5-014b-563a-8dae-3eef53656990", "5"),
        ("5", "088f39b5-014b-563a-8dae-3eef53656990", "5"),
        (-5, "95d0b5bf-e00d-5d5c-9968-7c6ba35f62a3", "-5"),
        ("Urn:Uuid:x", "46a8d209-c763-53fb-a325-8bdf862372b4", "Urn:Uuid:x"),
        ("x" * 200, "7aee671d-c03d-510e-9120-7af86568dfdc", "x" * 200),
    ],
)
def test_an_id_that_is_no_uuid_always_gets_the_same_one(
    identity: int | str, expected: str, external_id: str
) -> None:
    """The UUIDs stand here literally: rows are stored under them, so they must never change."""
    found = accepted(transaction_json(id=identity))

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
    assert accepted(transaction_json(id=identity)).external_id == identity


@pytest.mark.parametrize("merchant", [None, ABSENT], ids=["null", "absent"])
def test_a_transaction_needs_no_merchant(merchant: Any) -> None:
    """Null and absent are the same."""
    assert accepted(transaction_json(merchant=merchant)) == transaction(merchant=None)


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
    assert accepted(transaction_json(**extra)) == transaction()


@pytest.mark.parametrize(
    ("value", "code", "error"),
    [
        (None, "no_value", "value: there is none"),
        (b"[]", "not_an_object", "value: JSON, but not an object"),
        (b"null", "not_an_object", "value: JSON, but not an object"),
        (b"\xff", "not_utf8", "value: not UTF-8 at byte 0"),
        (b'{"a":"\xed\xa0\x80"}', "not_utf8", "value: not UTF-8 at byte 6"),
    ],
    ids=["tombstone", "array", "null", "binary", "raw surrogate"],
)
def test_what_is_no_json_object_is_refused(value: bytes | None, code: str, error: str) -> None:
    """Each kind has its code."""
    found = refused(value)

    assert (found.stage, found.disposition, found.code) == ("decode", "poison", code)
    assert found.error == error


NOT_JSON = {
    "empty": b"",
    "cut off": b"{",
    "more behind": transaction_text() + b"x",
    "single quotes": b"{'a':1}",
    "NaN": transaction_text(amount="NaN"),
    "Infinity where it is ignored": transaction_text(other="-Infinity"),
    "leading zero": transaction_text(amount="01"),
    "5,000 digits where ignored": transaction_text(other="9" * 5_000),
    "lone surrogate": transaction_text(description='"\\ud800"'),
    "raw NUL": transaction_text(description='"a\x00b"'),
    "doubled key": b'{"amount":1,' + transaction_text()[1:],
    "doubled key within": transaction_text(other='{"a":1,"a":1}'),
    "100,000 brackets": b"[" * 100_000,
    "100,000 levels where ignored": transaction_text(other="[" * 100_000 + "]" * 100_000),
    "100,000 objects": b'{"a":' * 100_000,
}


@pytest.mark.parametrize("value", NOT_JSON.values(), ids=NOT_JSON)
def test_what_is_not_strictly_json_is_refused(value: bytes) -> None:
    """Also what lenient parsers take, and what would exhaust them."""
    found = refused(value)

    assert (found.stage, found.disposition, found.code) == ("decode", "poison", "not_json")
    assert found.error.startswith("value: not JSON: ")
    assert len(found.error) < 200


@pytest.mark.parametrize(
    ("value", "code", "words"),
    [
        (b"\0\0\0\0\x07" + transaction_text(), "registry_framing", "framed for a schema registry"),
        (b"\0\0\x01\xe2\x40\x02\xff\x80", "registry_framing", "framed for a schema registry"),
        (b"\x03\0" + b"\xab" * 16 + b"\x02a", "registry_framing", "framed for a schema registry"),
        (b"\xef\xbb\xbf" + transaction_text(), "byte_order_mark", "a byte order mark"),
        (b"\xef\xbb\xbf", "byte_order_mark", "a byte order mark"),
        *(
            (transaction_text().decode().encode(name), code, words)
            for name, code, words in [
                ("utf-16", "utf_16", "UTF-16, where UTF-8"),
                ("utf-16-le", "utf_16", "UTF-16, where UTF-8"),
                ("utf-16-be", "utf_16", "UTF-16, where UTF-8"),
                ("utf-32", "utf_32", "UTF-32, where UTF-8"),
                ("utf-32-le", "utf_32", "UTF-32, where UTF-8"),
                ("utf-32-be", "utf_32", "UTF-32, where UTF-8"),
            ]
        ),
        (b"\xfe\xff" + "[]".encode("utf-16-be"), "utf_16", "UTF-16, where UTF-8"),
        (b"\0\0\xfe\xff" + "[]".encode("utf-32-be"), "utf_32", "UTF-32, where UTF-8"),
        (
            gzip.compress(transaction_text(), mtime=0),
            "compressed",
            "compressed by the producer (gzip)",
        ),
        (zlib.compress(transaction_text()), "compressed", "compressed by the producer (zlib)"),
        (b"\x28\xb5\x2f\xfd\x04\0", "compressed", "compressed by the producer (zstd)"),
        (b"\xff\x06\0\0sNaPpY\0", "compressed", "compressed by the producer (snappy)"),
        (b"\x82SNAPPY\0\0", "compressed", "compressed by the producer (snappy)"),
        (b"\x04\x22\x4d\x18\x40", "compressed", "compressed by the producer (lz4)"),
    ],
    ids=lambda part: repr(part)[:24],
)
def test_what_a_producer_set_up_wrongly_sends_is_named(value: bytes, code: str, words: str) -> None:
    """The code says which setting of the producer to look at; not a byte of the value is told."""
    found = refused(value)

    assert (found.stage, found.disposition, found.code) == ("decode", "poison", code)
    assert found.error.startswith(f"value: {words}")


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"\0\0\0\0", "not_json"),
        (b"\xff\xfe\0", "not_utf8"),
        (b"\xff\xfe\0\xd8", "not_utf8"),
        (b"\x1f", "not_json"),
        (b"{\0}", "not_json"),
        (b"\xfe\xff\xdc\0", "not_utf8"),
    ],
)
def test_what_only_resembles_a_format_is_not_named(value: bytes, code: str) -> None:
    """A guess would send somebody to the wrong producer."""
    assert refused(value).code == code


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize(
    "literal", ["1e9999999999999999999", "1E-99999999999999999999", "5.5e+1" + "0" * 99]
)
def test_a_number_of_any_exponent_is_json(literal: str, sign: str) -> None:
    """Ignored where nobody asks for it, refused by the field's own rule where somebody does."""
    assert accepted(transaction_text(other=sign + literal)) == transaction()
    assert accepted(transaction_text(other=f'{{"a":[{sign}{literal}]}}')) == transaction()
    assert refused(transaction_text(amount=sign + literal)).code == "amount.decimal_max_digits"
    assert refused(transaction_text(id=sign + literal)).code == "id.id_type"
    assert refused(f"{sign}{literal}".encode()).code == "not_an_object"
    amount = accepted(transaction_text(amount="7.25", other=literal)).amount
    assert (amount, type(amount)) == (Decimal("7.25"), Decimal)


@pytest.mark.parametrize("exponent", ["e99999999999999999999", "e-99999999999999999999", "e-20000"])
def test_zero_is_zero_whatever_its_exponent(exponent: str) -> None:
    """And none that the database would refuse."""
    for digits in ("0", "-0", "0.000"):
        amount = accepted(transaction_text(amount=f"{digits}{exponent}")).amount
        assert amount == 0
        assert len(f"{amount:f}") < 100


TEXT_100, TEXT_101 = (json.dumps("x" * length) for length in (100, 101))
TEXT_10_000, TEXT_10_001 = (json.dumps("x" * length) for length in (10_000, 10_001))

RULES: dict[tuple[str, str, str], list[Any]] = {
    ("id", "id_type", "a UUID, another text of 1 to 200 characters without NUL, or an integer"): [
        *("null", "true", "1.0", "[]", '""', '"a\\u0000"'),
        *(json.dumps("x" * 201), "9" * 201),
    ],
    ("id", "missing", "Field required"): [ABSENT],
    ("amount", "missing", "Field required"): [ABSENT],
    ("amount", "amount_type", "a number or a plain decimal text"): [
        *("null", "true", "[1]", '""', '" 12.50 "', '"1e2"', '"+1"', '"1_000"', '"NaN"', '"٣"'),
    ],
    ("amount", "decimal_max_places", "no more than 4 decimal places"): ["0.00001"],
    ("amount", "decimal_whole_digits", "no more than 14 digits before the decimal point"): [
        "100000000000000"
    ],
    ("amount", "decimal_max_digits", "no more than 18 digits in total"): [
        *("1e400", "-1e-999999999999", "9" * 4_300, f"1.{'0' * 30}1", json.dumps("9" * 30)),
    ],
    ("timestamp", "missing", "Field required"): [ABSENT],
    ("timestamp", "timestamp_type", "an ISO 8601 date and time such as 2026-11-23T10:00:00"): [
        *("null", "1767600000", '"1767600000"', '"2026-01-05"', '"20260105T080000"'),
        *('" 2026-01-05T08:00:00"', '"2026-01-05T08:00:60"', '"2026-02-30T08:00:00"'),
        *('"0000-01-01T00:00:00"', '"2026-01-05T08:00:00+24:00"', '"2026-01-05T08:00:00+24"'),
        *('"2026-01-05T08:00:00+5"', '"2026-01-05T08:00:00 +05"', '"2026-01-05T25:00:00+05"'),
        *('"2026-02-30T08:00:00+05"', '"2026-01-05 08:00:00+05 BC"', '"infinity"'),
        *('"2026-01-05T08:00:00+05:30:"', '"2026-01-05T08:00:00+0x"'),
    ],
    ("timestamp", "out_of_range", "Input in UTC should be between the years 1 and 9999"): [
        *('"0001-01-01T00:00:00+01:00"', '"9999-12-31T23:59:59-01:00"'),
    ],
    ("description", "missing", "Field required"): [ABSENT],
    ("description", "string_type", "Input should be a valid string"): ["null"],
    ("description", "string_too_long", "at most 10000 characters"): [TEXT_10_001],
    ("description", "nul", "Input should hold no NUL character"): ['"a\\u0000"'],
    ("merchant", "string_type", "Input should be a valid string"): ["5"],
    ("merchant", "string_too_long", "at most 10000 characters"): [TEXT_10_001],
    ("merchant", "nul", "Input should hold no NUL character"): ['"a\\u0000"'],
    ("operation_type", "missing", "Field required"): [ABSENT],
    ("operation_type", "nul", "Input should hold no NUL character"): ['"a\\u0000"'],
    ("operation_type", "string_too_long", "at most 100 characters"): [TEXT_101],
    ("side", "missing", "Field required"): [ABSENT],
    ("side", "string_type", "Input should be a valid string"): ["null"],
    ("side", "nul", "Input should hold no NUL character"): ['"a\\u0000"'],
    ("side", "string_too_long", "at most 100 characters"): [TEXT_101],
}


@pytest.mark.parametrize(
    ("field", "rule", "error", "literal"),
    [(*key, literal) for key, literals in RULES.items() for literal in literals],
    ids=lambda part: "absent" if part is ABSENT else str(part)[:24],
)
def test_a_field_that_breaks_a_rule_is_named_with_the_rule(
    field: str, rule: str, error: str, literal: Any
) -> None:
    """The code is stable, the text is for people; neither holds what was received."""
    found = refused(transaction_text(**{field: literal}))

    assert (found.stage, found.disposition) == ("validate", "poison")
    assert found.code == f"{field}.{rule}"
    assert found.error.startswith(f"{field}: ")
    assert found.error.endswith(error)
    assert ";" not in found.error


@pytest.mark.parametrize(
    ("field", "literal"),
    [
        ("id", "9" * 200),
        ("description", TEXT_10_000),
        ("description", json.dumps("😀" * 10_000, ensure_ascii=False)),
        ("description", '""'),
        ("merchant", TEXT_10_000),
        ("operation_type", TEXT_100),
        ("side", TEXT_100),
    ],
    ids=lambda part: str(part)[:24],
)
def test_limits_are_inclusive(field: str, literal: str) -> None:
    """Counted in characters."""
    accepted(transaction_text(**{field: literal}))


def test_every_broken_field_is_named() -> None:
    """In the order of the fields; the code is the first one's."""
    found = refused(b"{}")

    assert found.code == "id.missing"
    assert [reason.split(":")[0] for reason in found.error.split("; ")] == [
        *("id", "description", "amount", "timestamp", "operation_type", "side"),
    ]


@pytest.mark.parametrize(
    "value",
    [
        *[
            pytest.param(dict.fromkeys(transaction_json(), wrong), id=f"every field {kind}")
            for kind, wrong in [
                ("an object", {MARKER: MARKER}),
                ("an array", [MARKER]),
                ("with NUL", f"{MARKER}\0"),
                ("too long", MARKER * 900),
            ]
        ],
        pytest.param(transaction_json(amount=MARKER, timestamp=MARKER), id="amount, timestamp"),
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
    found = refused(value if isinstance(value, bytes) else json.dumps(value).encode())

    assert MARKER not in found.error + found.code
    assert "SECRET" not in found.error + found.code


def test_the_step_parts_transactions_from_failures() -> None:
    """Both streams pass in lists, and keep their order."""
    values = [transaction_text(), b"", transaction_text(amount="1"), b"[]"]
    oks: list[list[Received]] = []
    errs: list[list[Failure]] = []
    flow = Dataflow("test")
    source: TestingSource[Message] = TestingSource(
        [message(value=value, offset=offset) for offset, value in enumerate(values)], batch_size=4
    )
    out = decode("decode", op.input("in", flow, source))
    op.output("oks", out.oks, TestingSink(oks))
    op.output("errs", out.errs, TestingSink(errs))

    run_main(flow)  # type: ignore[no-untyped-call]

    assert [[item.message.offset for item in batch] for batch in oks] == [[0, 2]]
    [failures] = errs
    assert [(item.message.offset, item.code) for item in failures] == [
        (1, "not_json"),
        (3, "not_an_object"),
    ]


def test_a_bug_is_told_with_the_position_and_without_the_content(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line: where it was, and of what kind; the exception's own text may be customers' data."""

    def in_utc(_time: Any) -> Any:
        raise LookupError(MARKER)

    monkeypatch.setattr(operators.decode, "_in_utc", in_utc)
    flow = Dataflow("test")
    source = TestingSource([message(partition=3, offset=17)])
    out = decode("decode", op.input("in", flow, source))
    op.output("oks", out.oks, TestingSink([]))
    op.output("errs", out.errs, TestingSink([]))

    with capture_logs() as lines, pytest.raises(BytewaxRuntimeError) as raised:
        run_main(flow)  # type: ignore[no-untyped-call]

    [line] = [line for line in lines if line["event"] == "stream.bug"]
    told = "3-transactions: offset 17: decode failed with LookupError at test_decode.py:"
    assert line["error"].startswith(told)
    printed = "".join(traceback.format_exception(raised.value))
    assert f"BugError: {line['error']}" in printed
    assert "in in_utc" in printed
    assert MARKER not in printed
