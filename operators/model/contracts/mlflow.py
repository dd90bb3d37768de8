"""MLflow's scoring server: `POST /invocations` with a data frame.

The model has to answer with rows `{transaction_id, prediction, fraud_score, model_version?}`, which
is what a data frame with these columns becomes.

The frame is sent as `dataframe_split`, not as `dataframe_records`: an empty frame keeps its columns
so (no records are a frame without any, which a model's signature refuses), and names are sent once,
not with every row. Types and nulls arrive alike in both.

Protocol: https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally
"""

from collections.abc import Sequence
from typing import Final

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json
from typing_extensions import TypedDict  # Pydantic needs this one below Python 3.12

from operators.model.contracts.contract import Contract, blames_nobody
from operators.model.contracts.rows import PredictionJson, bad_answer, predictions_of, to_text_row
from operators.records import Prediction, Transaction

__all__ = ["MLFLOW"]

COLUMNS: Final = (
    "id",
    "description",
    "amount",
    "timestamp",
    "merchant",
    "operation_type",
    "side",
)


class _AnswerJson(TypedDict):
    predictions: list[PredictionJson]


_answer = TypeAdapter(_AnswerJson)


def _encode(transactions: Sequence[Transaction]) -> bytes:
    rows = map(to_text_row, transactions)
    data = [[row[column] for column in COLUMNS] for row in rows]
    return to_json({"dataframe_split": {"columns": COLUMNS, "data": data}})


def _decode(body: bytes) -> dict[int, Prediction]:
    try:
        answer = _answer.validate_json(body)
    except ValidationError as error:
        raise bad_answer(error) from None
    return predictions_of(answer["predictions"])


MLFLOW: Final = Contract("invocations", _encode, _decode, blames_nobody)
