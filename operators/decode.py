"""Decode and validate messages: JSON and Pydantic, nothing else.

JSON is parsed with exact decimals. Pydantic's own parser reads a JSON number as a binary float
first, so 12345678901234.5678 would arrive as …4.568; here it is kept to the digit or refused.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final
from uuid import UUID, uuid5

import bytewax.operators as op
from bytewax.dataflow import Stream, operator
from jiter import from_json
from pydantic import GetPydanticSchema, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from pydantic_core import core_schema as cs
from typing_extensions import TypedDict  # Pydantic needs this one below Python 3.12

from operators.errors import bug, fatal
from operators.records import Failure, Message, Received, Transaction

__all__ = ["EXTERNAL_ID_NAMESPACE", "DecodeOut", "decode", "decode_message", "parse_json"]

EXTERNAL_ID_NAMESPACE: Final = UUID("6f1f5b0e-6a5f-5c0e-9d53-2f6f6d0c9c1b")
"""Namespace of the UUIDv5 that stands for an id that is no UUID. Never change it: it makes ids."""

MAX_DIGITS, DECIMAL_PLACES = 18, 4  # of the column transactions.amount
_UUID = re.compile(
    r"(?:urn:uuid:)?\{?([0-9a-f]{8}(-?)[0-9a-f]{4}(?:\2[0-9a-f]{4}){2}\2[0-9a-f]{12})\}?",
    re.ASCII | re.IGNORECASE,
)
MAX_REASONS = 10  # named in one error; a hostile message must not make a long one


def _schema(schema: cs.CoreSchema) -> GetPydanticSchema:
    return GetPydanticSchema(lambda _source, _handler: schema)


def _text(**limits: int) -> cs.CoreSchema:
    # PostgreSQL's text cannot hold NUL. Lone surrogates, which UTF-8 cannot hold, are no valid JSON
    # for the parser already.
    return cs.str_schema(pattern=r"\A[^\x00]*\z", **limits)  # type: ignore[arg-type]


def _described(schema: cs.CoreSchema, rule: str, message: str) -> cs.CoreSchema:
    return cs.custom_error_schema(schema, custom_error_type=rule, custom_error_message=message)


def _uuid_or_text(text: str) -> UUID | str:
    # The parser knows most spellings of a UUID, but not a URN in capitals or braces without
    # hyphens. Python's own UUID() is no judge: it takes spaces and underscores too.
    found = _UUID.fullmatch(text)
    return UUID(found[1]) if found else text


_ID = _described(
    cs.union_schema(
        [
            cs.uuid_schema(),
            cs.no_info_after_validator_function(_uuid_or_text, _text(min_length=1, max_length=200)),
            # Of 200 characters at most, too.
            cs.no_info_after_validator_function(
                str, cs.int_schema(strict=True, gt=-(10**199), lt=10**200)
            ),
        ],
        mode="left_to_right",
    ),
    "id_type",
    "Input should be a UUID, another text of 1 to 200 characters without NUL, or an integer",
)
_AMOUNT = cs.chain_schema(
    [
        _described(
            cs.union_schema(
                [
                    cs.decimal_schema(strict=True),
                    cs.int_schema(strict=True),
                    cs.str_schema(pattern=r"\A-?[0-9]{1,30}(\.[0-9]{1,30})?\z"),
                ],
                mode="left_to_right",
            ),
            "amount_type",
            "Input should be a number or a plain decimal text",
        ),
        cs.decimal_schema(max_digits=MAX_DIGITS, decimal_places=DECIMAL_PLACES),
    ]
)
_TIMESTAMP = _described(
    cs.chain_schema(
        [
            # A bare number would be taken for seconds since 1970, a bare date for midnight.
            cs.str_schema(pattern=r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:"),
            cs.datetime_schema(),
        ]
    ),
    "timestamp_type",
    "Input should be an ISO 8601 date and time such as 2026-11-23T10:00:00",
)

LongText = Annotated[str, _schema(_text(max_length=10_000))]
ShortText = Annotated[str, _schema(_text(max_length=100))]


class _Fields(TypedDict):
    """A transaction as producers send it; other fields may come along and are ignored."""

    id: Annotated[UUID | str, _schema(_ID)]
    description: LongText
    amount: Annotated[Decimal, _schema(_AMOUNT)]
    timestamp: Annotated[datetime, _schema(_TIMESTAMP)]
    operation_type: ShortText
    side: ShortText


class _OptionalFields(_Fields, total=False):
    merchant: LongText | None


_validate: Callable[[Any], _OptionalFields] = TypeAdapter(_OptionalFields).validator.validate_python


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
    return from_json(
        value,
        float_mode="decimal",
        allow_inf_nan=False,
        catch_duplicate_keys=True,
        cache_mode="keys",  # values are mostly different
    )


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
        fields = _validate(content)
        timestamp = _in_utc(fields["timestamp"])
    except ValidationError as error:
        return _rejection(message, error)
    except OverflowError:
        text = "timestamp: Input in UTC should be between the years 1 and 9999"
        return Failure(message, "validate", "poison", "timestamp.out_of_range", text)
    transaction_id, external_id = _identify(fields["id"])
    return Received(
        message,
        Transaction(  # by position, which takes half as long as by name
            transaction_id,
            external_id,
            fields["description"],
            fields["amount"],
            timestamp,
            fields.get("merchant"),
            fields["operation_type"],
            fields["side"],
        ),
    )


def _identify(received: UUID | str) -> tuple[UUID, str | None]:
    if isinstance(received, UUID):
        return received, None
    return uuid5(EXTERNAL_ID_NAMESPACE, received), received


def _missing(message: Message) -> Failure:
    for part in message.unreadable:
        return _poison(message, f"{part}_unreadable", f"{part}: Kafka's client cannot read it all")
    return _poison(message, "no_value", "value: there is none")


def _not_json(message: Message, value: bytes, error: ValueError) -> Failure:
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
