"""The rules of a transaction's fields, as Pydantic checks them."""

import re
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NotRequired, TypedDict
from uuid import UUID

from pydantic_core import SchemaValidator
from pydantic_core import core_schema as cs

__all__ = ["Fields", "validate", "validate_without_nul"]

MAX_DIGITS, DECIMAL_PLACES = 18, 4  # of the column transactions.amount
_UUID = re.compile(
    r"(?:urn:uuid:)?\{?([0-9a-f]{8}(-?)[0-9a-f]{4}(?:\2[0-9a-f]{4}){2}\2[0-9a-f]{12})\}?",
    re.ASCII | re.IGNORECASE,
)
_INVISIBLE: Final = "\ufeff\u200b"  # at the ends of a text: a mark of files, a space without width
_SHORT_OFFSET: Final = re.compile(
    r".{11}\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?[+-]\d{2}(?::\d{2}:\d{2})?", re.ASCII
)


def _described(schema: cs.CoreSchema, rule: str, message: str) -> cs.CoreSchema:
    return cs.custom_error_schema(schema, custom_error_type=rule, custom_error_message=message)


def _uuid_or_text(text: str) -> UUID | str:
    # The parser knows most spellings of a UUID, but not a URN in capitals or braces without
    # hyphens. Python's own UUID() is no judge: it takes spaces and underscores too. Spaces around a
    # UUID are no part of it: taken for a text it would be another id, and another transaction.
    found = _UUID.fullmatch(text.strip().strip(_INVISIBLE))
    return UUID(found[1]) if found else text


def _with_short_offset(text: str) -> datetime:
    # As PostgreSQL writes times, which the parser does not know: hours alone, or seconds too.
    if _SHORT_OFFSET.fullmatch(text) is None:
        msg = "no such time"
        raise ValueError(msg)
    return datetime.fromisoformat(text)


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
            cs.union_schema(
                [
                    cs.datetime_schema(),
                    cs.no_info_plain_validator_function(_with_short_offset),
                ],
                mode="left_to_right",
            ),
        ]
    ),
    "timestamp_type",
    "Input should be an ISO 8601 date and time such as 2026-11-23T10:00:00",
)


class Fields(TypedDict):
    """A transaction as producers send it; other fields may come along and are ignored."""

    id: UUID | str
    description: str
    amount: Decimal
    timestamp: datetime
    operation_type: str
    side: str
    merchant: NotRequired[str | None]


def _validator(**text: str) -> Callable[[Any], Fields]:
    """Make a validator; `text` holds for all texts."""
    identity = cs.union_schema(
        [
            cs.uuid_schema(),
            cs.no_info_after_validator_function(
                _uuid_or_text,
                cs.str_schema(min_length=1, max_length=200, **text),  # type: ignore[arg-type]
            ),
            # Of 200 characters at most, too.
            cs.no_info_after_validator_function(
                str, cs.int_schema(strict=True, gt=-(10**199), lt=10**200)
            ),
        ],
        mode="left_to_right",
    )
    an_id = "a UUID, another text of 1 to 200 characters without NUL, or an integer"
    long = cs.str_schema(max_length=10_000, **text)  # type: ignore[arg-type]
    short = cs.str_schema(max_length=100, **text)  # type: ignore[arg-type]
    fields = {
        "id": _described(identity, "id_type", f"Input should be {an_id}"),
        "description": long,
        "amount": _AMOUNT,
        "timestamp": _TIMESTAMP,
        "operation_type": short,
        "side": short,
    }
    optional = cs.typed_dict_field(cs.nullable_schema(long), required=False)
    required = {name: cs.typed_dict_field(schema) for name, schema in fields.items()}
    return SchemaValidator(cs.typed_dict_schema({**required, "merchant": optional})).validate_python


validate: Final = _validator()
"""Takes texts with NUL, too, which only the escape can bring into JSON."""

# PostgreSQL's text cannot hold NUL. Lone surrogates, which UTF-8 cannot hold, are no valid JSON for
# the parser already.
validate_without_nul: Final = _validator(pattern=r"\A[^\x00]*\z")
"""Refuses NUL; slower, since each text is searched."""
