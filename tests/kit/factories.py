"""What passes through the stream, made for tests: plain by default, with overrides for the rest."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from operators.records import Failure, Message, Prediction, Received, Scored, Transaction
from settings import Settings

__all__ = [
    "ABSENT",
    "ID",
    "batch",
    "failure",
    "message",
    "prediction",
    "received",
    "scored",
    "settings",
    "transaction",
    "transaction_json",
    "transaction_text",
]

ABSENT: Final = object()
"""As a field of `transaction_json` or `transaction_text`: it is not there."""

ID: Final = UUID("3f2504e0-4f89-11d3-9a0c-0305e82c3301")
"""Of every transaction that is not told otherwise."""

CLOSED_PORT: Final = "127.0.0.1:1"


def transaction_json(**overrides: Any) -> dict[str, Any]:
    """Make a valid transaction as producers send it.

    :arg overrides: Fields; `ABSENT` leaves one out.

    :returns: What `json.dumps` takes.

    """
    fields = {
        "id": str(ID),
        "description": "order 1",
        "amount": 12.5,
        "timestamp": "2026-01-05T08:00:00",
        "merchant": "Corner Shop",
        "operation_type": "PURCHASE",
        "side": "DEBIT",
    } | overrides
    return {name: value for name, value in fields.items() if value is not ABSENT}


def transaction_text(**literals: Any) -> bytes:
    """Make a transaction's JSON, for what `json.dumps` would not write.

    :arg literals: JSON by field name, as it is to stand there: `amount="1e400"`.

    :returns: UTF-8.

    """
    plain = {name: json.dumps(value) for name, value in transaction_json().items()}
    fields = {name: text for name, text in (plain | literals).items() if text is not ABSENT}
    return "{{{}}}".format(",".join(f'"{name}":{text}' for name, text in fields.items())).encode()


def message(**overrides: Any) -> Message:
    """Make a message that holds a valid transaction.

    :arg overrides: Fields; a dict as `value` is written as JSON.

    """
    fields = {
        "key": None,
        "value": transaction_json(),
        "headers": [],
        "topic": "transactions",
        "partition": 0,
        "offset": 0,
        "timestamp": 1_767_600_000_000,
    } | overrides
    if isinstance(fields["value"], dict):
        fields["value"] = json.dumps(fields["value"]).encode()
    return Message(**fields)


def transaction(**overrides: Any) -> Transaction:
    """Make the transaction that `transaction_json` becomes."""
    fields = {
        "id": ID,
        "external_id": None,
        "description": "order 1",
        "amount": Decimal("12.5"),
        "timestamp": datetime(2026, 1, 5, 8, tzinfo=UTC),
        "merchant": "Corner Shop",
        "operation_type": "PURCHASE",
        "side": "DEBIT",
    } | overrides
    return Transaction(**fields)


def prediction(**overrides: Any) -> Prediction:
    """Make a prediction."""
    fields: dict[str, Any] = {
        "prediction": "legitimate",
        "fraud_score": 0.25,
        "model_version": "1",
    } | overrides
    return Prediction(**fields)


def received(*, of: Message | None = None, **overrides: Any) -> Received:
    """Make a valid transaction and its message.

    :arg of: The message.

    :arg overrides: Fields of the transaction.

    """
    return Received(message() if of is None else of, transaction(**overrides))


def batch(size: int, *, start: int = 0, poison: Sequence[int] = ()) -> list[Received]:
    """Make transactions that differ.

    :arg size: How many.

    :arg start: Offset of the first.

    :arg poison: Offsets of those whose description says so.

    """
    return [
        received(
            of=message(offset=number),
            id=UUID(int=number + 1),
            amount=Decimal(number),
            description="poison" if number in poison else "order",
        )
        for number in range(start, start + size)
    ]


def scored(
    *, of: Message | None = None, predicted: Prediction | None = None, **overrides: Any
) -> Scored:
    """Make a transaction with its prediction.

    :arg of: The message.

    :arg predicted: The prediction.

    :arg overrides: Fields of the transaction.

    """
    return Scored(*received(of=of, **overrides), prediction() if predicted is None else predicted)


def failure(*, of: Message | None = None, **overrides: Any) -> Failure:
    """Make a failure.

    :arg of: The message.

    :arg overrides: The other fields.

    """
    fields = {
        "stage": "decode",
        "disposition": "poison",
        "code": "not_json",
        "error": "value: not JSON",
    } | overrides
    return Failure(message() if of is None else of, **fields)


def settings(**overrides: Any) -> Settings:
    """Make settings of services that are not there; the environment's are left out.

    :arg overrides: By field name.

    """
    defaults = {
        name: field.default
        for name, field in Settings.model_fields.items()
        if not field.is_required()
    }
    harmless = {
        "kafka_bootstrap_servers": CLOSED_PORT,
        "kafka_consumer_group": "fraud-scoring",
        "database_url": f"postgresql://fraud@{CLOSED_PORT}/fraud?connect_timeout=1",
        "ml_api_url": f"http://{CLOSED_PORT}",
        "start_timeout": 1,
    }
    return Settings(**(defaults | harmless | overrides))
