"""Transactions as producers send them, for the demo, the tests and the benchmarks.

Three producers, each with its own vocabulary and spelling, two of them with fields that nobody
asked for. A few messages are sent twice and a few are broken, in every way that has been thought of
so far. All of it is made up, and the same seed always makes the same messages.
"""

import heapq
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

__all__ = ["BROKEN", "DUPLICATE", "STORED", "Sample", "transactions"]

STORED: Final = "stored"
DUPLICATE: Final = "duplicate"

_START = datetime(2026, 1, 5, 8, tzinfo=UTC)
_LATEST_REPEAT = 2_000
"""Messages between a message and its repetition, at most."""

Fields = dict[str, str]
"""A transaction on its way to JSON: names, and values that are JSON already."""


class Sample(NamedTuple):
    """A message and what should become of it."""

    value: bytes
    key: bytes | None
    expected: str
    """`stored`, `duplicate`, or the way in which it is broken: a name in `BROKEN`.

    Of a message and its repetition one is stored and the other a duplicate; which one depends
    on which is read first.
    """


def _hyphens(identity: UUID) -> str:
    return str(identity)


def _upper(identity: UUID) -> str:
    return str(identity).upper()


def _bare(identity: UUID) -> str:
    return identity.hex


def _braces(identity: UUID) -> str:
    return f"{{{identity}}}"


def _urn(identity: UUID) -> str:
    return identity.urn


def _integer(identity: UUID) -> int:
    return identity.int % 10**9


def _reference(identity: UUID) -> str:
    return f"TX-{identity.int % 10**12:012}"


@dataclass(frozen=True)
class _Producer:
    types: tuple[str, ...]
    debit: str
    credit: str
    credits: frozenset[str]
    """Types that bring money in."""
    spellings: tuple[Callable[[UUID], str | int], ...]
    weights: tuple[int, ...]
    time_format: str
    negative_debits: bool
    extras: bool


_PRODUCERS = (
    _Producer(
        types=("PURCHASE", "PURCHASE", "PURCHASE", "WITHDRAWAL", "TRANSFER", "REFUND", "SALARY"),
        debit="DEBIT",
        credit="CREDIT",
        credits=frozenset({"REFUND", "SALARY"}),
        spellings=(_hyphens, _upper),
        weights=(19, 1),
        time_format="%Y-%m-%dT%H:%M:%S",
        negative_debits=False,
        extras=True,
    ),
    _Producer(
        types=("card_payment", "card_payment", "cash_withdrawal", "sepa_credit", "direct_debit"),
        debit="D",
        credit="C",
        credits=frozenset({"sepa_credit"}),
        spellings=(_hyphens, _bare, _braces, _urn),
        weights=(14, 4, 1, 1),
        time_format="%Y-%m-%d %H:%M:%S.%f",
        negative_debits=True,
        extras=True,
    ),
    _Producer(
        types=("buy", "buy", "sell", "fee", "dividend"),
        debit="out",
        credit="in",
        credits=frozenset({"sell", "dividend"}),
        spellings=(_hyphens, _integer, _reference),
        weights=(7, 2, 1),
        time_format="%Y-%m-%d %H:%M:%S",
        negative_debits=True,
        extras=False,
    ),
)

_MERCHANTS = (
    "Corner Bakery",
    "Zürcher Kantonalgarage",
    "Pharmacie de l'Étoile",
    "寿司 はな",
    "City Transport",
    "Blue Door Books",
    "Grocer & Sons",
    "Online Games Ltd",
    "Hotel Miramar",
    "Kiosk 24",
    None,
)
_SUBJECTS = ("payment", "monthly invoice", "order", "subscription", "booking", "ticket", "top-up")


_text = json.JSONEncoder(ensure_ascii=False).encode


def _write(fields: Fields, *more: tuple[str, str]) -> bytes:
    pairs = [*fields.items(), *more]
    return ("{" + ", ".join(f"{_text(name)}: {value}" for name, value in pairs) + "}").encode()


def _transaction(rng: random.Random, number: int) -> Fields:
    producer = rng.choices(_PRODUCERS, (6, 3, 1))[0]
    spell = rng.choices(producer.spellings, producer.weights)[0]
    operation = rng.choice(producer.types)
    incoming = operation in producer.credits
    cents = round(100 * rng.lognormvariate(3.5, 1.4))
    sign = "-" if cents and producer.negative_debits and not incoming else ""
    time = _START + timedelta(milliseconds=number * 40 + rng.randrange(40))
    fields = {
        "id": _text(spell(UUID(int=rng.getrandbits(128), version=4))),
        "description": _text(f"{rng.choice(_SUBJECTS)} {rng.randrange(10_000):04}"),
        "amount": f"{sign}{cents // 100}.{cents % 100:02}",
        "timestamp": _text(time.strftime(producer.time_format)),
        "merchant": _text(rng.choice(_MERCHANTS)),
        "operation_type": _text(operation),
        "side": _text(producer.credit if incoming else producer.debit),
    }
    if producer.extras:
        fields["processing_type"] = _text(rng.choice(("online", "batch")))
        fields["run_id"] = str(number // 5_000 + 1)
    return fields


def _without(name: str) -> Callable[[Fields], bytes]:
    return lambda fields: _write({key: fields[key] for key in fields if key != name})


def _with(name: str, value: str) -> Callable[[Fields], bytes]:
    return lambda fields: _write(fields | {name: value})


BROKEN: Final[dict[str, Callable[[Fields], bytes]]] = {
    "empty": lambda _: b"",
    "not_utf8": lambda fields: _write(fields).replace(b'": "', b'": "\xff', 1),
    "not_json": lambda fields: _write(fields)[:-1],
    "array": lambda fields: b"[" + _write(fields) + b"]",
    "number": lambda _: b"42",
    "null": lambda _: b"null",
    "nested": lambda fields: _write(fields, ("note", "[" * 5_000 + "]" * 5_000)),
    "duplicate_key": lambda fields: _write(fields, ("amount", "1.00")),
    "missing_amount": _without("amount"),
    "missing_side": _without("side"),
    "null_description": _with("description", "null"),
    "amount_nan": _with("amount", "NaN"),
    "amount_text": _with("amount", '"twelve"'),
    "amount_boolean": _with("amount", "true"),
    "amount_too_large": _with("amount", "100000000000000.00"),
    "amount_too_precise": _with("amount", "12.34567"),
    "bad_timestamp": _with("timestamp", '"2026-02-30T10:00:00"'),
    "timestamp_number": _with("timestamp", "1770000000"),
    "nul": _with("description", '"a NUL \\u0000 inside"'),
    "lone_surrogate": _with("merchant", '"half an emoji \\ud83d"'),
    "wrong_type": _with("operation_type", '{"name": "PURCHASE"}'),
    "overlong_description": _with("description", _text("x" * 10_001)),
    "overlong_side": _with("side", _text("x" * 101)),
    "id_missing": _without("id"),
    "id_empty": _with("id", '""'),
    "id_boolean": _with("id", "true"),
    "id_overlong": _with("id", _text("x" * 201)),
}
"""Ways to break a transaction, by name."""


def transactions(
    count: int, *, seed: int, broken: float = 0.015, repeated: float = 0.005
) -> Iterator[Sample]:
    """Make messages.

    :arg count: How many, broken and repeated ones included.

    :arg seed: The same seed makes the same messages.

    :arg broken: Share that is broken; all ways in turn.

    :arg repeated: Share that repeats an earlier message, byte for byte.

    :returns: The messages in the order in which they are to be sent.

    """
    rng = random.Random(seed)  # noqa: S311 - chance that can be repeated
    ways = rng.sample(list(BROKEN), len(BROKEN))
    repeats: list[tuple[int, bytes]] = []
    used: set[str] = set()
    number_broken = 0
    for number in range(count):
        if repeats and repeats[0][0] <= number:
            yield Sample(heapq.heappop(repeats)[1], None, DUPLICATE)
            continue
        fields = _transaction(rng, number)
        while fields["id"] in used:
            fields = _transaction(rng, number)
        used.add(fields["id"])
        if rng.random() < broken:
            way = ways[number_broken % len(ways)]
            number_broken += 1
            yield Sample(BROKEN[way](fields), None, way)
            continue
        value = _write(fields)
        if rng.random() < repeated:
            gap = 1 + round(_LATEST_REPEAT * rng.random() ** 4)
            if number + gap < count:
                heapq.heappush(repeats, (number + gap, value))
        yield Sample(value, None, STORED)
