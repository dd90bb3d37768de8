"""MLflow's scoring protocol as a pair of pure functions: requests made, answers understood."""

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

from operators.model.contracts import CONTRACTS, MLFLOW, BadAnswerError
from operators.records import Prediction
from tests.kit.factories import transaction

IDS = [UUID(int=number) for number in range(1, 4)]
CARD = "4111 1111"
COLUMNS = ["id", "description", "amount", "timestamp", "merchant", "operation_type", "side"]


def _row(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "transaction_id": str(IDS[number]),
        "prediction": "legitimate",
        "fraud_score": 0.25,
    } | changes


def _body(*rows: Any, **fields: Any) -> bytes:
    return json.dumps({"predictions": rows} | fields).encode()


def _complaint(body: bytes) -> str:
    with pytest.raises(BadAnswerError) as caught:
        MLFLOW.decode(body)
    # Pydantic's own error, which holds values, must not be shown with it.
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


def test_it_is_the_contract_of_its_name() -> None:
    """`ML_API_CONTRACT=mlflow`; a server has one model, so the path names none."""
    assert CONTRACTS["mlflow"] is MLFLOW
    assert MLFLOW.path.format(model="fraud") == "invocations"


def test_a_request_is_a_data_frame() -> None:
    """One row for each transaction; null stays null."""
    first = transaction(
        id=IDS[0],
        description="Zahlung für 🎉",
        amount=Decimal("-12.5"),
        timestamp=datetime(2026, 1, 5, 8, 0, 0, 120_000, UTC),
    )
    second = transaction(id=IDS[1], merchant=None, operation_type="X", side="CREDIT")

    assert json.loads(MLFLOW.encode([first, second])) == {
        "dataframe_split": {
            "columns": COLUMNS,
            "data": [
                [
                    str(IDS[0]),
                    "Zahlung für 🎉",
                    -12.5,
                    "2026-01-05T08:00:00.120000",
                    "Corner Shop",
                    "PURCHASE",
                    "DEBIT",
                ],
                # With a fraction like the other: pandas wants one format in a column.
                [str(IDS[1]), "order 1", 12.5, "2026-01-05T08:00:00.000000", None, "X", "CREDIT"],
            ],
        }
    }


def test_the_request_for_nothing_has_the_columns() -> None:
    """A signature refuses a frame without them, and the check at start asks for nothing."""
    assert json.loads(MLFLOW.encode([])) == {"dataframe_split": {"columns": COLUMNS, "data": []}}


@pytest.mark.parametrize("amount", ["0", "7", "99999999999999.9999", "-99999999999999.9999"])
def test_an_amount_is_a_float_whatever_its_digits(amount: str) -> None:
    """Or a batch of whole amounts would make a column of another type."""
    request = json.loads(MLFLOW.encode([transaction(amount=Decimal(amount))]))
    [row] = request["dataframe_split"]["data"]

    assert type(row[2]) is float
    assert row[2] == float(Decimal(amount))


def test_answers_are_known_by_id() -> None:
    """In any order; what else a row or the answer has is ignored."""
    body = _body(
        _row(2, fraud_score=1, prediction="prüfen", model_version="7"),
        _row(0, fraud_score=0.0, model_version=None, why=[1]),
        _row(1),
        metadata={},
    )

    assert MLFLOW.decode(body) == {
        IDS[0].int: Prediction("legitimate", 0.0, None),
        IDS[1].int: Prediction("legitimate", 0.25, None),
        IDS[2].int: Prediction("prüfen", 1.0, "7"),
    }


def test_an_answer_to_nothing_is_understood() -> None:
    """The check at start asks for nothing."""
    assert MLFLOW.decode(_body()) == {}


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
        ("transaction_id", CARD),
        ("transaction_id", None),
        ("transaction_id", 7),
        ("prediction", None),
        ("prediction", ""),
        ("prediction", 7),
        ("prediction", CARD * 100),
        ("prediction", CARD + "\0"),
        ("model_version", 7),
        ("model_version", float("nan")),
        ("model_version", CARD * 100),
    ],
)
def test_a_bad_value_is_named_by_its_place(name: str, value: Any) -> None:
    """And never repeated. NaN is what pandas makes of a value that is missing."""
    complaint = _complaint(_body(_row(0), _row(1), _row(2, **{name: value})))

    assert complaint.startswith(f"not the contract's answer: predictions.2.{name}: ")
    assert CARD not in complaint


@pytest.mark.parametrize("name", ["transaction_id", "prediction", "fraud_score"])
def test_a_missing_column_is_named(name: str) -> None:
    """A model without ids cannot be used."""
    row = _row()
    del row[name]

    assert _complaint(_body(row)) == f"not the contract's answer: predictions.0.{name}: missing"


def test_an_id_that_is_there_twice_is_bad() -> None:
    """However it is spelt."""
    assert "twice" in _complaint(_body(_row(0), _row(1), _row(0, transaction_id=IDS[0].hex)))


@example(b"")
@example(b"\xff")
@example(b"[" * 100_000)
@example(b'[{"transaction_id": "4111 1111"}]')
@example(b'{"predictions": [0.4111]}')
@example(b'{"predictions": ["4111 1111"]}')
@example(b'{"predictions": {"4111 1111": 1}}')
@example(b'{"error_code": "BAD_REQUEST", "message": "4111 1111"}')
@given(
    st.binary()
    | st.recursive(
        st.none() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ).map(lambda value: json.dumps(value).encode())
)
def test_anything_else_is_a_bad_answer(body: bytes) -> None:
    """Nothing that a server sends raises anything else, or is repeated."""
    assert "4111" not in _complaint(body)


@given(st.binary())
def test_a_refusal_blames_nobody(body: bytes) -> None:
    """MLflow tells what went wrong in prose, and names no row."""
    assert MLFLOW.blame(body) == set()


def _documented() -> tuple[bytes, bytes]:
    """Request and answer as docs/contracts.md shows them."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "contracts.md").read_text("utf-8")
    found = re.search(
        r"^POST /invocations\n(.+?)\n\n200\n(.+?)\n```$", text, re.MULTILINE | re.DOTALL
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

    assert re.sub(rb"\n +", b"", request) == MLFLOW.encode(sent)
    assert MLFLOW.decode(answer) == {
        ids[0].int: Prediction("legitimate", 0.02, "7"),
        ids[1].int: Prediction("fraud", 0.75, "7"),
    }
