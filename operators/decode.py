"""Decode and validate messages: JSON and Pydantic, nothing else.

JSON is parsed with exact decimals. Pydantic's own parser reads a JSON number as a binary float
first, so 12345678901234.5678 would arrive as …4.568; here it is kept to the digit or refused.
`operators.fields` has the rules of the fields.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Context, Decimal, InvalidOperation
from typing import Any, Final
from uuid import UUID, uuid5

import bytewax.operators as op
from bytewax.dataflow import Stream, operator
from jiter import LosslessFloat, from_json
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from operators.errors import bug, fatal
from operators.fields import validate, validate_without_nul
from operators.formats import recognise
from operators.records import Failure, Message, Received, Transaction

__all__ = ["EXTERNAL_ID_NAMESPACE", "DecodeOut", "decode", "decode_message", "parse_json"]

EXTERNAL_ID_NAMESPACE: Final = UUID("6f1f5b0e-6a5f-5c0e-9d53-2f6f6d0c9c1b")
"""Namespace of the UUIDv5 that stands for an id that is no UUID. Never change it: it makes ids."""

_bounded: Final = Context(prec=40, Emin=-40, Emax=40).plus
"""Changes no amount that is valid, and bounds what does not count: zeros behind the point, and the
exponent of zero. PostgreSQL takes 16,383 digits behind the point."""
BACKSLASH: Final = ord("\\")  # without which no text of JSON has NUL
MAX_REASONS: Final = 10  # named in one error; a hostile message must not make a long one

Decoded = list[Received] | list[Failure]
"""Of one kind, and never empty."""


@dataclass(frozen=True)
class DecodeOut:
    """Streams from {py:obj}`decode`."""

    oks: Stream[list[Received]]
    """Valid transactions."""

    errs: Stream[list[Failure]]
    """Messages that hold none."""


def parse_json(value: bytes) -> Any:
    """Parse JSON strictly: exact decimals, no NaN, no doubled keys, at most 200 levels.

    :returns: What it says; numbers with a point or an exponent as `Decimal`.

    :raises ValueError: It is no such JSON.

    """
    try:
        return from_json(
            value,
            float_mode="decimal",
            allow_inf_nan=False,
            catch_duplicate_keys=True,
            cache_mode="keys",  # values are mostly different
        )
    except ValueError:
        # A number of any size is JSON, and a field that is ignored may have it. The parser makes no
        # decimal of 1e9999999999999999999; if it is that, this passes.
        content = from_json(
            value, float_mode="lossless-float", allow_inf_nan=False, catch_duplicate_keys=True
        )
    if isinstance(content, dict):
        return {name: _decimal(field) for name, field in content.items()}
    return _decimal(content)


def _decimal(field: Any) -> Any:
    """A number as a decimal; of two that are too large or too small both break the same rule."""
    if not isinstance(field, LosslessFloat):
        return field
    text = str(field).lower()
    try:
        return Decimal(text)
    except InvalidOperation:
        digits, _, exponent = text.partition("e")
        if not digits.strip("-0."):
            return Decimal(0)
        return Decimal("1e-999999" if exponent.startswith("-") else "1e999999")


def _poison(message: Message, code: str, error: str) -> Failure:
    return Failure(message, "decode", "poison", code, error)


def _rejection(message: Message, error: ValidationError) -> Failure:
    reasons = error.errors(include_url=False, include_context=False, include_input=False)
    rules = [_rule(reason) for reason in reasons[:MAX_REASONS]]
    text = "; ".join(f"{field}: {words}" for field, _, words in rules)
    field, rule, _ = rules[0]
    return Failure(message, "validate", "poison", f"{field}.{rule}", text)


def _rule(reason: ErrorDetails) -> tuple[str, str, str]:
    field = str(reason["loc"][0])
    if reason["type"] == "string_pattern_mismatch":
        return field, "nul", "Input should hold no NUL character"
    return field, reason["type"], reason["msg"]


def decode_message(message: Message) -> Received | Failure:
    """Decode and validate one message.

    :returns: The transaction in it, or why it holds none.

    """
    if message.unreadable or message.value is None:
        return _missing(message)
    try:
        content = parse_json(message.value)
    except ValueError as error:
        return _not_json(message, message.value, error)
    if not isinstance(content, dict):
        return _poison(message, "not_an_object", "value: JSON, but not an object")
    try:
        fields = (validate_without_nul if BACKSLASH in message.value else validate)(content)
        timestamp = _in_utc(fields["timestamp"])
    except ValidationError as error:
        return _rejection(message, error)
    except OverflowError:
        text = "timestamp: Input in UTC should be between the years 1 and 9999"
        return Failure(message, "validate", "poison", "timestamp.out_of_range", text)
    transaction_id, external_id = fields["id"], None
    if not isinstance(transaction_id, UUID):
        external_id = transaction_id
        transaction_id = uuid5(EXTERNAL_ID_NAMESPACE, external_id)
    return Received(
        message,
        Transaction(  # by position, which takes half as long as by name
            transaction_id,
            external_id,
            fields["description"],
            _bounded(fields["amount"]),
            timestamp,
            fields.get("merchant"),
            fields["operation_type"],
            fields["side"],
        ),
    )


def _missing(message: Message) -> Failure:
    for part in message.unreadable:
        return _poison(message, f"{part}_unreadable", f"{part}: Kafka's client cannot read it all")
    return _poison(message, "no_value", "value: there is none")


def _not_json(message: Message, value: bytes, error: ValueError) -> Failure:
    found = recognise(value)
    if found is not None:
        return _poison(message, found.code, f"value: {found.words}")
    try:
        value.decode()
    except UnicodeDecodeError as undecodable:
        return _poison(message, "not_utf8", f"value: not UTF-8 at byte {undecodable.start}")
    # The parser's text quotes a doubled key, which is the producer's data.
    rule = re.sub(r' ?".*"', "", str(error))
    return _poison(message, "not_json", f"value: not JSON: {rule}")


def _in_utc(time: datetime) -> datetime:
    if time.tzinfo is None:
        return datetime.combine(time, time.time(), UTC)  # a seventh of what replace() costs
    return time.astimezone(UTC)


def _decode_batch(messages: list[Message]) -> list[Decoded]:
    valid: list[Received] = []
    failed: list[Failure] = []
    for message in messages:
        try:
            decoded = decode_message(message)
        except Exception as error:  # noqa: BLE001 - it is told where, and raised
            raise fatal(bug(error, "decode", message.partition_key, message.offset)) from None
        if isinstance(decoded, Received):
            valid.append(decoded)
        else:
            failed.append(decoded)
    return [batch for batch in (valid, failed) if batch]


def _are_valid(batch: Decoded) -> bool:
    return isinstance(batch[0], Received)


@operator
def decode(step_id: str, up: Stream[Message]) -> DecodeOut:
    """Decode and validate messages.

    :returns: Valid transactions, and failures of the rest, in lists of what was read together.

    """
    decoded = op.flat_map_batch("decode", up, _decode_batch)
    branches = op.branch("valid", decoded, _are_valid)
    return DecodeOut(oks=branches.trues, errs=branches.falses)  # type: ignore[arg-type]
