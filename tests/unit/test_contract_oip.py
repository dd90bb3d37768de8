"""The Open Inference Protocol as a pair of pure functions: requests made, answers understood."""

import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from operators.model.contracts import CONTRACTS, OIP, BadAnswerError
from operators.records import Prediction
from tests.kit.factories import transaction

IDS = [UUID(int=number) for number in range(1, 4)]
CARD = "4111 1111"


def _tensor(name: str, datatype: str, data: list[Any], **changes: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(data)], "data": data} | changes


def _outputs() -> dict[str, dict[str, Any]]:
    """Outputs of a right answer to three transactions, by name."""
    tensors = (
        _tensor("transaction_id", "BYTES", [str(identity) for identity in IDS]),
        _tensor("prediction", "BYTES", ["legitimate", "fraud", "prüfen"]),
        _tensor("fraud_score", "FP64", [0.25, 1.0, 0.5]),
        _tensor("model_version", "BYTES", ["7", "8", "9"]),
    )
    return {str(tensor["name"]): tensor for tensor in tensors}


def _body(outputs: dict[str, dict[str, Any]], **fields: Any) -> bytes:
    answer = {"model_name": "fraud", "id": "1", "outputs": list(outputs.values())}
    return json.dumps(answer | fields).encode()


def _changed(name: str, **changes: Any) -> bytes:
    outputs = _outputs()
    outputs[name] |= changes
    return _body(outputs)


def _complaint(body: bytes) -> str:
    with pytest.raises(BadAnswerError) as caught:
        OIP.decode(body)
    # Pydantic's own error, which holds values, must not be shown with it.
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


def _inputs(*transactions: Any) -> dict[str, dict[str, Any]]:
    request = json.loads(OIP.encode(transactions))
    assert request.keys() == {"inputs"}
    return {tensor.pop("name"): tensor for tensor in request["inputs"]}


def test_it_is_the_contract_of_its_name() -> None:
    """`ML_API_CONTRACT=oip`; the path leaves room for the model's name."""
    assert CONTRACTS["oip"] is OIP
    assert OIP.path.format(model="fraud") == "v2/models/fraud/infer"


def test_a_request_has_a_tensor_for_each_field() -> None:
    """One element for each transaction, in the same order in every tensor."""
    first = transaction(
        id=IDS[0],
        description="Zahlung für 🎉",
        amount=Decimal("-12.5"),
        timestamp=datetime(2026, 1, 5, 8, 0, 0, 120_000, UTC),
    )
    second = transaction(id=IDS[1], merchant=None, operation_type="X", side="CREDIT")

    assert _inputs(first, second) == {
        "id": {"datatype": "BYTES", "shape": [2], "data": [str(IDS[0]), str(IDS[1])]},
        "description": {"datatype": "BYTES", "shape": [2], "data": ["Zahlung für 🎉", "order 1"]},
        "amount": {"datatype": "FP64", "shape": [2], "data": [-12.5, 12.5]},
        "timestamp": {
            "datatype": "BYTES",
            "shape": [2],
            "data": ["2026-01-05T08:00:00.120000", "2026-01-05T08:00:00.000000"],
        },
        # BYTES have no null.
        "merchant": {"datatype": "BYTES", "shape": [2], "data": ["Corner Shop", ""]},
        "operation_type": {"datatype": "BYTES", "shape": [2], "data": ["PURCHASE", "X"]},
        "side": {"datatype": "BYTES", "shape": [2], "data": ["DEBIT", "CREDIT"]},
    }


def test_the_request_for_nothing_has_the_same_tensors() -> None:
    """Empty ones: the check at start asks so."""
    empty, one = _inputs(), _inputs(transaction())

    assert {name: tensor["datatype"] for name, tensor in empty.items()} == {
        name: tensor["datatype"] for name, tensor in one.items()
    }
    assert all(tensor["shape"] == [0] and tensor["data"] == [] for tensor in empty.values())


def test_an_amount_of_18_digits_stays_a_number() -> None:
    """Of 64 bits, as FP64 says."""
    amounts = [Decimal("99999999999999.9999"), Decimal("-99999999999999.9999")]

    tensor = _inputs(*(transaction(amount=amount) for amount in amounts))["amount"]

    assert tensor["data"] == [float(amount) for amount in amounts]
    assert all(type(number) is float for number in tensor["data"])


def test_answers_are_known_by_id() -> None:
    """Whatever their order and that of the outputs is."""
    outputs = _outputs()
    for tensor in outputs.values():
        tensor["data"].reverse()

    assert OIP.decode(_body(dict(reversed(outputs.items())))) == {
        IDS[0].int: Prediction("legitimate", 0.25, "7"),
        IDS[1].int: Prediction("fraud", 1.0, "8"),
        IDS[2].int: Prediction("prüfen", 0.5, "9"),
    }


def test_an_answer_to_nothing_is_understood() -> None:
    """It needs the outputs nevertheless: so the check at start sees whether the model has them."""
    empty = {name: tensor | {"shape": [0], "data": []} for name, tensor in _outputs().items()}

    assert OIP.decode(_body(empty, model_version="7")) == {}

    del empty["transaction_id"]
    assert _complaint(_body(empty)).endswith("no output transaction_id")


@pytest.mark.parametrize(
    "changes",
    [
        {"datatype": "FP32"},
        {"data": [0, 1, 0.5]},
        {"shape": [3, 1]},
        {"shape": [3, 1], "data": [[0.25], [1.0], [0.5]]},
        {"parameters": {"content_type": "np"}},
    ],
)
def test_what_the_protocol_leaves_open_is_understood(changes: dict[str, Any]) -> None:
    """Either width, whole numbers, a second dimension of one, data nested or flat, parameters."""
    assert OIP.decode(_changed("fraud_score", **changes))[IDS[1].int].fraud_score == 1.0


def test_other_outputs_are_ignored() -> None:
    """Even where their form is one of the protocol's extensions."""
    others: dict[str, dict[str, Any]] = {"?": {"data": None}}
    others["why"] = {"name": "why", "parameters": {"binary_data_size": 3}}

    assert OIP.decode(_body(_outputs() | others)).keys() == {each.int for each in IDS}


def test_without_a_tensor_the_version_is_that_of_the_answer() -> None:
    """Where neither is there, it is unknown."""
    outputs = _outputs()
    del outputs["model_version"]

    bodies = (
        _body(outputs, model_version="v7"),
        _body(outputs, model_version=None),
        _body(outputs),
    )
    versions = [{row.model_version for row in OIP.decode(body).values()} for body in bodies]

    assert versions == [{"v7"}, {None}, {None}]
    assert OIP.decode(_body(_outputs(), model_version="v7"))[IDS[0].int].model_version == "7"
    assert "model_version" in _complaint(_body(outputs, model_version=7))


@pytest.mark.parametrize("name", ["transaction_id", "prediction", "fraud_score"])
def test_an_output_that_is_missing_or_doubled_is_named(name: str) -> None:
    """A model without ids cannot be used, and of two outputs neither is guessed to be it."""
    without, twice = _outputs(), _outputs()
    del without[name]
    twice["again"] = twice[name]

    assert _complaint(_body(without)) == f"not the contract's answer: no output {name}"
    assert _complaint(_body(twice)) == f"not the contract's answer: more than one output {name}"


def test_all_outputs_that_are_missing_are_named_at_once() -> None:
    """A model that was made for something else is not made to fit name by name."""
    others = {name: output for name, output in _outputs().items() if name == "transaction_id"}
    complaint = _complaint(_body(others))
    assert complaint == "not the contract's answer: no output prediction, fraud_score"


@pytest.mark.parametrize(
    ("name", "datatype"),
    [
        ("transaction_id", "INT64"),
        ("prediction", "FP32"),
        ("fraud_score", "BYTES"),
        ("fraud_score", "INT32"),
        ("fraud_score", "FP16"),
        ("fraud_score", "fp64"),
        ("model_version", "FP64"),
    ],
)
def test_an_output_of_another_datatype_is_bad(name: str, datatype: str) -> None:
    """The datatype says what the data mean."""
    assert _complaint(_changed(name, datatype=datatype)).endswith(f"datatype of output {name}")


@pytest.mark.parametrize("name", ["transaction_id", "prediction", "fraud_score", "model_version"])
@pytest.mark.parametrize("shape", [[], [2], [4], [1, 3], [3, 2], [3, 1, 1], [-3], [2, 1]])
def test_a_shape_that_is_not_that_of_the_data_is_bad(name: str, shape: list[int]) -> None:
    """A column has as many elements as its shape says, and one dimension that counts."""
    assert _complaint(_changed(name, shape=shape)).endswith(f"shape of output {name}")


@pytest.mark.parametrize("data", [[[0.5, 0.5]] * 3, [[0.5], [0.5], 0.5], [[[0.5]]] * 3, [[]] * 3])
def test_data_nested_otherwise_than_the_shape_says_are_bad(data: list[Any]) -> None:
    """No element is dropped to make them fit."""
    assert "fraud_score" in _complaint(_changed("fraud_score", shape=[3, 1], data=data))


@pytest.mark.parametrize("name", ["transaction_id", "prediction", "fraud_score", "model_version"])
def test_outputs_of_different_length_are_bad(name: str) -> None:
    """Which element belongs to which transaction would be a guess."""
    shorter = _outputs()[name]["data"][:2]

    assert " elements instead of " in _complaint(_changed(name, shape=[2], data=shorter))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fraud_score", float("nan")),
        ("fraud_score", None),
        ("fraud_score", float("inf")),
        ("fraud_score", -0.01),
        ("fraud_score", 1.01),
        ("fraud_score", True),
        ("fraud_score", "0.5"),
        ("fraud_score", [0.5]),
        ("transaction_id", CARD),
        ("transaction_id", None),
        ("transaction_id", 7),
        ("prediction", None),
        ("prediction", ""),
        ("prediction", 7),
        ("prediction", CARD * 100),
        ("prediction", CARD + "\0"),
        ("prediction", [CARD]),
        ("model_version", 7),
        ("model_version", CARD * 100),
    ],
)
def test_a_bad_element_is_named_by_its_place(name: str, value: Any) -> None:
    """And never by its value."""
    complaint = _complaint(_changed(name, data=[*_outputs()[name]["data"][:2], value]))

    assert complaint.startswith(f"not the contract's answer: outputs.2.{name}: ")
    assert CARD not in complaint


def test_an_id_that_is_there_twice_is_bad() -> None:
    """However it is spelt."""
    spellings = [str(IDS[0]), IDS[0].hex.upper(), str(IDS[1])]

    assert "twice" in _complaint(_changed("transaction_id", data=spellings))


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"data": {CARD: 1}}, "outputs.fraud_score.data"),
        ({"data": None}, "outputs.fraud_score.data"),
        ({"shape": CARD}, "outputs.fraud_score.shape"),
        ({"shape": [True, 3]}, "outputs.fraud_score.shape.0"),
        ({"datatype": [CARD]}, "outputs.fraud_score.datatype"),
    ],
)
def test_an_output_of_another_form_is_bad(changes: dict[str, Any], place: str) -> None:
    """Its place is named."""
    complaint = _complaint(_changed("fraud_score", **changes))

    assert complaint.startswith(f"not the contract's answer: {place}: ")
    assert CARD not in complaint


@example(b"")
@example(b"\xff")
@example(b"[" * 100_000)
@example(b'{"outputs": [{"name": ["transaction_id"]}]}')
@example(b'{"outputs": "4111 1111"}')
@example(b'{"outputs": [4111]}')
@example(b'{"error": "4111 1111"}')
@given(
    st.binary()
    | st.recursive(
        st.none() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("outputs"), inner),
    ).map(lambda value: json.dumps(value).encode())
)
def test_anything_else_is_a_bad_answer(body: bytes) -> None:
    """Nothing that a server sends raises anything else, or is repeated."""
    assert "4111" not in _complaint(body)


@given(st.binary())
def test_a_refusal_blames_nobody(body: bytes) -> None:
    """The protocol has no field for the element at fault."""
    assert OIP.blame(body) == set()


def _documented() -> tuple[bytes, bytes]:
    """Request and answer as docs/contracts.md shows them."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "contracts.md").read_text("utf-8")
    found = re.search(
        r"^POST /v2/models/fraud/infer\n(.+?)\n\n200\n(.+?)\n```$", text, re.MULTILINE | re.DOTALL
    )
    assert found
    return found[1].encode(), found[2].encode()


def test_the_documentation_shows_what_is_sent_and_understood() -> None:
    """To the letter, line breaks aside."""
    ids = [UUID(f"3f2504e0-4f89-11d3-9a0c-0305e82c330{number}") for number in (1, 2)]
    sent = [
        transaction(id=ids[0], amount=Decimal(200)),
        transaction(
            id=ids[1],
            description="order 2",
            amount=Decimal(-7500),
            timestamp=datetime(2026, 1, 5, 8, 0, 1, 250_000, UTC),
            merchant=None,
            operation_type="TRANSFER",
        ),
    ]
    request, answer = _documented()

    assert re.sub(rb"\n +", b"", request) == OIP.encode(sent)
    assert OIP.decode(answer) == {
        ids[0].int: Prediction("legitimate", 0.02, "7"),
        ids[1].int: Prediction("fraud", 0.75, "7"),
    }
