"""KServe's Open Inference Protocol v2: `POST /v2/models/{model}/infer` with a tensor a column.

The model has to give its outputs by name: `transaction_id` and `prediction` (BYTES), `fraud_score`
(FP32 or FP64) and, if it likes, `model_version` (BYTES; else the answer's own, of all rows).

Protocol: https://github.com/kserve/open-inference-protocol (specification/protocol); tensor data:
https://github.com/kserve/kserve (docs/predict-api/v2/required_api.md).
"""

from collections.abc import Sequence
from typing import Annotated, Any, Final, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from pydantic_core import to_json
from typing_extensions import TypedDict  # Pydantic needs this one below Python 3.12

from operators.model.contracts.contract import BadAnswerError, Contract, blames_nobody
from operators.model.contracts.rows import PredictionJson, bad_answer, predictions_of, to_text_row
from operators.records import Prediction, Transaction

__all__ = ["OIP"]

INPUTS: Final = {
    "id": "BYTES",
    "description": "BYTES",
    "amount": "FP64",
    "timestamp": "BYTES",
    "merchant": "BYTES",
    "operation_type": "BYTES",
    "side": "BYTES",
}
# Not FP16, which JSON has no form for.
OUTPUTS: Final = {
    "transaction_id": {"BYTES"},
    "prediction": {"BYTES"},
    "fraud_score": {"FP32", "FP64"},
    "model_version": {"BYTES"},
}
OPTIONAL: Final = "model_version"


@with_config(ConfigDict(protected_namespaces=()))
class _AnswerJson(TypedDict):
    outputs: list[dict[str, Any]]
    model_version: NotRequired[Any]  # checked with the rows


class _TensorJson(TypedDict):
    datatype: str
    shape: list[Annotated[int, Field(strict=True)]]
    data: list[Any]


_answer = TypeAdapter(_AnswerJson)
_tensor = TypeAdapter(_TensorJson)
_rows = TypeAdapter(list[PredictionJson])


def _encode(transactions: Sequence[Transaction]) -> bytes:
    rows = [to_text_row(transaction) for transaction in transactions]
    for row in rows:
        # BYTES have no null: a transaction without merchant is one with an empty merchant.
        row["merchant"] = row["merchant"] or ""
    tensors = [
        {
            "name": name,
            "shape": [len(rows)],
            "datatype": datatype,
            "data": [row[name] for row in rows],
        }
        for name, datatype in INPUTS.items()
    ]
    return to_json({"inputs": tensors})


def _decode(body: bytes) -> dict[int, Prediction]:
    try:
        answer = _answer.validate_json(body)
    except ValidationError as error:
        raise bad_answer(error) from None
    columns = {name: _column(answer["outputs"], name) for name in OUTPUTS}
    count = len(columns["transaction_id"] or ())
    if columns[OPTIONAL] is None:
        columns[OPTIONAL] = [answer.get(OPTIONAL)] * count
    missing = [name for name, column in columns.items() if column is None]
    if missing:
        msg = f"not the contract's answer: no output {', '.join(missing)}"
        raise BadAnswerError(msg)
    found = {name: column or [] for name, column in columns.items()}
    for name, column in found.items():
        if len(column) != count:
            what = f"{len(column)} elements instead of {count} in"
            msg = f"not the contract's answer: {what} output {name}"
            raise BadAnswerError(msg)
    values = zip(*found.values(), strict=True)
    try:
        rows = _rows.validate_python([dict(zip(columns, row, strict=True)) for row in values])
    except ValidationError as error:
        raise bad_answer(error, "outputs") from None
    return predictions_of(rows)


def _column(outputs: list[dict[str, Any]], name: str) -> list[Any] | None:
    """Elements of an output; None if there is no output of this name."""
    found = [output for output in outputs if output.get("name") == name]
    if not found:
        return None
    if len(found) > 1:
        msg = f"not the contract's answer: more than one output {name}"
        raise BadAnswerError(msg)
    try:
        tensor = _tensor.validate_python(found[0])
    except ValidationError as error:
        raise bad_answer(error, "outputs", name) from None
    if tensor["datatype"] not in OUTPUTS[name]:
        msg = f"not the contract's answer: the datatype of output {name}"
        raise BadAnswerError(msg)
    data, shape = tensor["data"], tensor["shape"]
    if shape == [len(data), 1] and all(isinstance(row, list) and len(row) == 1 for row in data):
        # The protocol lets a server nest the elements as the shape says.
        return [row[0] for row in data]
    if shape not in ([len(data)], [len(data), 1]):
        msg = f"not the contract's answer: the shape of output {name}"
        raise BadAnswerError(msg)
    return data


OIP: Final = Contract("v2/models/{model}/infer", _encode, _decode, blames_nobody)
