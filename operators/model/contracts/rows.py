"""What contracts share: a transaction as a row, and predictions as rows."""

from datetime import datetime
from typing import Annotated, Any, Final, NotRequired
from uuid import UUID

from pydantic import ConfigDict, Field, ValidationError, with_config
from typing_extensions import TypedDict  # Pydantic needs this one below Python 3.12

from operators.model.contracts.contract import BadAnswerError
from operators.records import Prediction, Transaction

__all__ = ["PredictionJson", "bad_answer", "predictions_of", "to_row", "to_text_row"]


MOST_NAMED: Final = 4  # fields; the contract has as many


@with_config(ConfigDict(extra="ignore", protected_namespaces=()))
class PredictionJson(TypedDict):
    """A prediction, as servers give it."""

    transaction_id: UUID
    prediction: Annotated[str, Field(min_length=1, max_length=200, pattern=r"\A[^\x00]*\z")]
    # Strict: a text or a boolean is no score. Neither is NaN, which is not in any range.
    fraud_score: Annotated[float, Field(strict=True, ge=0, le=1)]
    model_version: NotRequired[
        Annotated[str, Field(max_length=200, pattern=r"\A[^\x00]*\z")] | None
    ]


def to_row(transaction: Transaction) -> dict[str, Any]:
    """Make the row in which a model gets a transaction.

    :returns: Values by column, for `pydantic_core.to_json`.

    """
    timestamp = transaction.timestamp
    return {
        "id": transaction.id,
        "description": transaction.description,
        # A model computes with binary floats; the exact amount is in the database.
        "amount": float(transaction.amount),
        # Without an offset, as FastAPI's naive datetime wants it: UTC.
        "timestamp": datetime.combine(timestamp, timestamp.time()),
        "merchant": transaction.merchant,
        "operation_type": transaction.operation_type,
        "side": transaction.side,
    }


def to_text_row(transaction: Transaction) -> dict[str, Any]:
    """Make the row in which pandas gets a transaction.

    :returns: As `to_row`, but the time is a text that always has a fraction: pandas takes the first
        text's format for all, and fails where only some have one.

    """
    row = to_row(transaction)
    row["timestamp"] = row["timestamp"].isoformat(timespec="microseconds")
    return row


def predictions_of(rows: list[PredictionJson]) -> dict[int, Prediction]:
    """Index predictions by transaction.

    :arg rows: Valid, in any order.

    :returns: Predictions by the `int` of the transaction's id.

    :raises BadAnswerError: An id is there twice.

    """
    predictions = {
        row["transaction_id"].int: Prediction(
            row["prediction"], row["fraud_score"], row.get("model_version")
        )
        for row in rows
    }
    if len(predictions) != len(rows):
        msg = "the answer names a transaction twice"
        raise BadAnswerError(msg)
    return predictions


def bad_answer(error: ValidationError, *where: str) -> BadAnswerError:
    """Tell what is wrong with an answer: places and rules, never a value.

    :arg where: The place in the answer of what was validated.

    :returns: To be raised `from None`, since the error itself holds values.

    """
    found = error.errors(include_url=False, include_context=False, include_input=False)
    # Of one element: it has the same wrong with it as the others, mostly.
    same = [each for each in found if each["loc"][:-1] == found[0]["loc"][:-1]][:MOST_NAMED]
    places = [".".join(map(str, (*where, *each["loc"]))) or "body" for each in same]
    rules = [f"{place}: {each['type']}" for place, each in zip(places, same, strict=True)]
    return BadAnswerError(f"not the contract's answer: {', '.join(rules)}")
