"""The model's own API: `POST /predict` with an array of transactions.

The answer is an array of `{transaction_id, prediction, fraud_score, model_version?}` in any order.
A refusal is FastAPI's: `{"detail": [{"loc": ["body", 3, "amount"], …}, …]}` names the element.
"""

from collections.abc import Sequence
from typing import Final

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from operators.model.contracts.contract import Contract
from operators.model.contracts.rows import PredictionJson, bad_answer, predictions_of, to_row
from operators.records import Prediction, Transaction

__all__ = ["NATIVE"]

_answer = TypeAdapter(list[PredictionJson])


def _encode(transactions: Sequence[Transaction]) -> bytes:
    return to_json([to_row(transaction) for transaction in transactions])


def _decode(body: bytes) -> dict[int, Prediction]:
    try:
        answer = _answer.validate_json(body)
    except ValidationError as error:
        raise bad_answer(error) from None
    return predictions_of(answer)


def _blame(body: bytes) -> set[int]:
    try:
        places = [detail["loc"] for detail in from_json(body)["detail"]]
        # Of two parts only: a position in the text of what was no JSON.
        return {place[1] for place in places if len(place) > 2 and type(place[1]) is int}  # noqa: PLR2004
    except (ValueError, TypeError, KeyError):
        return set()


NATIVE: Final = Contract("predict", _encode, _decode, _blame)
