"""What `decode` accepts, PostgreSQL takes: no row is refused there for what is in a message."""

import json
import random
from contextlib import closing
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from operators.decode import decode_message
from operators.records import Received, Scored
from tests.kit.factories import message, prediction, transaction_text
from tests.kit.postgres import query
from tests.kit.writing import TOPIC, Writing

SEED: Final = 20260707
COUNT: Final = 3_000

STORED: Final = """
    SELECT source_offset, id, external_id, description, amount, timestamp, merchant, operation_type,
        side
    FROM transactions
"""
DIGITS: Final = ["0", "1", "7", "12", "0.5", "1.25", "1.0000", "99999999999999.9999", "9" * 14]
EXPONENTS: Final = [
    *("", "e0", "E+2", "e-3", "e-4", "e13", "e-20000", "e20000", "e-400", "e400"),
    *(f"e{sign}{'9' * length}" for sign in ("", "-") for length in (6, 18, 19, 40, 4_000)),
]
ZEROS: Final = ["", "", ".0", f".{'0' * 20}", f".{'0' * 16_384}", f".{'0' * 60_000}"]
CHARACTERS: Final = [
    *(
        '"',
        "\\",
        "\\u0000",
        "\\ud800",
        "\\udfff",
        "\\ud83d\\ude00",
        "\\ufffe",
        "\\uffff",
        "\\u0001",
    ),
    *(
        "\x7f",
        "\u0085",
        "\u2028",
        "\ufeff",
        "\U0001f4b3",
        "\U0010ffff",
        "é",
        "x" * 60,
        "\\N",
        "%",
        "'",
    ),
]
TIMES: Final = [
    *("0001-01-01T00:00:00", "9999-12-31T23:59:59.999999", "2026-01-05 08:00:00+00"),
    *("2026-01-05T08:00:00+05", "1900-01-01 00:00:00+00:19:32", "9999-12-31T23:59:59-01"),
    *("0001-01-01 00:00:00+01", "2026-02-29T00:00:00", "2026-01-05T24:00:00", "infinity"),
]


def _amount(rng: random.Random) -> str:
    digits = rng.choice(DIGITS)
    zeros = rng.choice(ZEROS)
    literal = rng.choice(["", "-"]) + digits + ("" if "." in digits else zeros)
    if "." in literal and zeros:
        literal += zeros[1:]
    literal += rng.choice(EXPONENTS)
    return json.dumps(literal) if rng.random() < 0.2 else literal


def _text(rng: random.Random, limit: int) -> str:
    length = rng.choice([0, 1, 3, limit // 60])
    text = "".join(rng.choice(CHARACTERS) for _ in range(length))
    return f'"{text.replace(chr(34), chr(92) + chr(34))}"'


def _id(rng: random.Random, number: int) -> str:
    return rng.choice(
        [
            str(number),
            f"-{number}",
            f'"{UUID(int=number)}"',
            f'" {UUID(int=number)}\\u00a0"',
            f'"{"😀" * 190}{number}"',
            f"{number}{rng.choice(EXPONENTS)}",
            f'"\\u0001{number}"',
        ]
    )


def _message(rng: random.Random, number: int) -> bytes:
    odd = {
        "amount": _amount(rng),
        "timestamp": json.dumps(rng.choice(TIMES)),
        "description": _text(rng, 10_000),
        "merchant": rng.choice(["null", _text(rng, 200)]),
        "operation_type": _text(rng, 100),
        "other": rng.choice(["1e9999999999999999999", "[" * 150 + "]" * 150, '"\\u0000"']),
    }
    chosen = rng.sample(sorted(odd), rng.randrange(len(odd) + 1))
    return transaction_text(id=_id(rng, number), **{name: odd[name] for name in chosen})


def test_what_is_accepted_is_stored_as_it_was_accepted(database_url: str) -> None:
    """Numbers of any exponent and length, texts of any characters, times of any offset."""
    print("seed", SEED)  # noqa: T201 - to repeat it
    rng = random.Random(SEED)  # noqa: S311 - chance that can be repeated
    writing = Writing(database_url)
    accepted: dict[int, Scored] = {}
    codes: set[str] = set()
    for number in range(1, COUNT):
        of = message(
            value=_message(rng, number),
            topic=TOPIC,
            partition=1,
            offset=number,
            fetch=writing.fetch,
        )
        outcome = decode_message(of)
        if isinstance(outcome, Received):
            accepted[number] = Scored(*outcome, prediction())
        else:
            codes.add(outcome.code)
            assert "nternal" not in outcome.error
    with closing(writing.session):
        writing.store(*accepted.values())
    assert writing.refused() == {}
    stored: list[Any] = query(database_url, STORED)
    assert {offset: tuple(row) for offset, *row in stored} == {
        number: tuple(each.transaction) for number, each in accepted.items()
    }
    assert len(accepted) > COUNT / 20
    assert {"amount.decimal_max_digits", "description.nul", "timestamp.out_of_range"} <= codes


def test_an_amount_that_is_zero_or_has_many_zeros_is_stored(database_url: str) -> None:
    """PostgreSQL takes 16,383 digits behind the point, JSON any number."""
    literals = ["0e-20000", "0e999999", "-0e-20000", "0e9999999999999999999", "-0.0"]
    literals += [f"1.{'0' * 20_000}", f"0.{'0' * 20_000}", "-2000e-3", f"1{'0' * 4_000}e-4000"]
    writing = Writing(database_url)
    rows = []
    for number, literal in enumerate(literals):
        value = transaction_text(amount=literal, id=str(number))
        of = message(value=value, topic=TOPIC, partition=1, offset=number, fetch=writing.fetch)
        outcome = decode_message(of)
        assert isinstance(outcome, Received), (literal[:20], outcome)
        rows.append(Scored(*outcome, prediction()))
    with closing(writing.session):
        writing.store(*rows)
    assert writing.refused() == {}
    found = query(database_url, "SELECT amount FROM transactions ORDER BY source_offset")
    assert [amount for (amount,) in found] == [Decimal(n) for n in [0] * 5 + [1, 0, -2, 1]]
