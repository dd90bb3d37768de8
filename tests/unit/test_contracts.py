"""What a model server is sent, and what of its answers is believed."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from operators.model.contracts import NATIVE, BadAnswerError
from operators.records import Prediction
from tests.kit.factories import ID, transaction

MARKER = "SECRET"
OTHER = UUID("11111111-2222-3333-4444-555555555555")
BAD_SCORES: list[Any] = [
    *(float("nan"), float("inf"), -float("inf"), 1.0000001, -1e-9, 2, -1, 10**400),
    *("0.5", MARKER, True, False, None, [], {}),
]


def _answer(**overrides: Any) -> dict[str, Any]:
    return {"transaction_id": str(ID), "prediction": "fraud", "fraud_score": 0.9} | overrides


def _without(name: str) -> dict[str, Any]:
    return {key: value for key, value in _answer().items() if key != name}


def _decode(*answers: Any) -> dict[int, Prediction]:
    return NATIVE.decode(json.dumps(answers).encode())


def test_a_request_is_an_array_in_the_order_given() -> None:
    """One object a transaction, to `/predict`."""
    body = json.loads(NATIVE.encode([transaction(), transaction(id=OTHER, side="CREDIT")]))

    assert NATIVE.path == "predict"
    assert [(item["id"], item["side"]) for item in body] == [
        (str(ID), "DEBIT"),
        (str(OTHER), "CREDIT"),
    ]


def test_a_request_holds_what_the_api_takes() -> None:
    """Canonical ids, float amounts, naive times, and nothing of our own such as external ids."""
    body = NATIVE.encode(
        [
            transaction(
                external_id="5",
                amount=Decimal("-12345678901234.5678"),
                timestamp=datetime(2026, 1, 5, 8, 0, 0, 123_456, tzinfo=UTC),
            )
        ]
    )

    assert json.loads(body) == [
        {
            "id": "3f2504e0-4f89-11d3-9a0c-0305e82c3301",
            "description": "order 1",
            "amount": -12345678901234.568,
            "timestamp": "2026-01-05T08:00:00.123456",
            "merchant": "Corner Shop",
            "operation_type": "PURCHASE",
            "side": "DEBIT",
        }
    ]


def test_a_merchant_that_is_missing_is_sent_as_null() -> None:
    """The API wants the field to be there."""
    [item] = json.loads(NATIVE.encode([transaction(merchant=None)]))

    assert item["merchant"] is None


@given(
    amount=st.decimals(-(10**14) + 1, 10**14 - 1, places=4),
    text=st.text(st.characters(exclude_categories=["Cs"])),
)
def test_a_request_is_json_whatever_is_in_it(amount: Decimal, text: str) -> None:
    """Any valid transaction arrives, its amount as the nearest float."""
    [item] = json.loads(NATIVE.encode([transaction(amount=amount, description=text)]))

    assert item["amount"] == float(amount)
    assert item["description"] == text


def test_no_transactions_are_an_empty_array() -> None:
    """Which is what the check at start asks with, and is answered likewise."""
    assert NATIVE.encode([]) == b"[]"
    assert NATIVE.decode(b"[]") == {}


def test_answers_are_known_by_id_not_by_position() -> None:
    """Their order does not matter, and neither does the spelling of their ids."""
    first = _answer(transaction_id=str(OTHER).upper(), fraud_score=0.1, model_version="v2")
    second = _answer(transaction_id=ID.hex)
    expected = {ID.int: Prediction("fraud", 0.9, None), OTHER.int: Prediction("fraud", 0.1, "v2")}

    assert _decode(first, second) == expected
    assert _decode(second, first) == expected


@pytest.mark.parametrize("score", [0, 1, 0.0, 1.0, 0.5, 1e-300])
def test_a_score_is_a_number_from_0_to_1(score: float) -> None:
    """Both ends included; an integer is a number."""
    assert _decode(_answer(fraud_score=score))[ID.int].fraud_score == score


@pytest.mark.parametrize("version", [{}, {"model_version": None}], ids=["absent", "null"])
def test_an_answer_needs_no_version(version: dict[str, Any]) -> None:
    """Null and absent are the same."""
    assert _decode(_answer(**version))[ID.int].model_version is None


def test_other_fields_of_an_answer_are_ignored() -> None:
    """A server may say more than was agreed."""
    assert _decode(_answer(explanation={"amount": 0.5})) == _decode(_answer())


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([_answer(), _answer()], id="same spelling"),
        pytest.param([_answer(), _answer(transaction_id=ID.hex.upper())], id="other spelling"),
        pytest.param([_answer(), _answer(fraud_score=0.1)], id="other score"),
    ],
)
def test_an_id_that_is_answered_twice_is_no_answer(answers: list[dict[str, Any]]) -> None:
    """One of them would have to be guessed."""
    with pytest.raises(BadAnswerError, match="twice"):
        _decode(*answers)


@pytest.mark.parametrize(
    "answer",
    [
        *[pytest.param(_answer(fraud_score=score), id=f"score {score!r}") for score in BAD_SCORES],
        *[
            pytest.param(_answer(prediction=prediction), id=f"prediction {prediction!r:.20}")
            for prediction in ["", f"{MARKER}\0", MARKER * 50, "\ud800", None, 1, True, [MARKER]]
        ],
        *[
            pytest.param(_answer(transaction_id=identity), id=f"id {identity!r:.20}")
            for identity in [MARKER, "", 5, None, True, [MARKER]]
        ],
        *[
            pytest.param(_answer(model_version=version), id=f"version {version!r:.20}")
            for version in [f"{MARKER}\0", MARKER * 50, 1, [MARKER]]
        ],
        *[
            pytest.param(_without(name), id=f"no {name}")
            for name in ("transaction_id", "prediction", "fraud_score")
        ],
        pytest.param({MARKER: MARKER}, id="another object"),
        pytest.param(MARKER, id="text"),
        pytest.param([MARKER], id="array"),
        pytest.param(None, id="null"),
    ],
)
def test_an_answer_that_breaks_the_contract_is_not_believed(answer: Any) -> None:
    """One bad element spoils the whole answer, and the message repeats nothing of it."""
    with pytest.raises(BadAnswerError) as caught:
        _decode(_answer(transaction_id=str(OTHER)), answer)

    assert MARKER not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(f"<html><body>{MARKER}</body></html>".encode(), id="HTML"),
        pytest.param(b"{}", id="object"),
        pytest.param(json.dumps({"detail": MARKER}).encode(), id="object with an error"),
        pytest.param(b"null", id="null"),
        pytest.param(f'"{MARKER}"'.encode(), id="text"),
        pytest.param(json.dumps([_answer()]).encode()[:-1], id="cut off"),
        pytest.param(json.dumps([_answer()]).encode() + MARKER.encode(), id="more behind"),
        pytest.param(b"[\xff]", id="not UTF-8"),
        pytest.param(b"[" * 100_000, id="100,000 brackets"),
    ],
)
def test_a_body_that_is_no_array_of_answers_is_not_believed(body: bytes) -> None:
    """Such as what a proxy answers in the server's place, with 200."""
    with pytest.raises(BadAnswerError) as caught:
        NATIVE.decode(body)

    assert MARKER not in str(caught.value)


@given(body=st.binary(max_size=100))
def test_any_bytes_are_predictions_or_no_answer(body: bytes) -> None:
    """Nothing else is raised, whatever a server sends."""
    with suppress(BadAnswerError):
        NATIVE.decode(body)


def _refusal(*places: Any) -> bytes:
    return json.dumps({"detail": [{"loc": place, "msg": MARKER} for place in places]}).encode()


def test_a_refusal_names_elements() -> None:
    """As FastAPI does: the position in the array is the second part of the place."""
    body = _refusal(["body", 3, "amount"], ["body", 0, "merchant", "str"], ["body", 3, "side"])

    assert NATIVE.blame(body) == {0, 3}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(_refusal(["body", 17]), id="position in a text that is no JSON"),
        pytest.param(_refusal(["body"]), id="all of it"),
        pytest.param(_refusal([]), id="no place"),
        pytest.param(_refusal(["body", True, "amount"]), id="boolean"),
        pytest.param(_refusal(["body", "3", "amount"]), id="text"),
        pytest.param(_refusal(["body", 3.0, "amount"]), id="float"),
        pytest.param(_refusal(["body", None, "amount"]), id="null"),
        pytest.param(_refusal("body"), id="place is a text"),
        pytest.param(_refusal({"a": 1, "b": 2, "c": 3}), id="place is an object"),
        pytest.param(_refusal(3), id="place is a number"),
        pytest.param(b'{"detail": [{}]}', id="without place"),
        pytest.param(b'{"detail": [3]}', id="detail of numbers"),
        pytest.param(b'{"detail": 3}', id="detail is a number"),
        pytest.param(b'{"detail": "There was an error parsing the body"}', id="detail is a text"),
        pytest.param(b'{"error": "Bad Request"}', id="no detail"),
        pytest.param(b"[]", id="array"),
        pytest.param(b"Bad Request", id="no JSON"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff", id="not UTF-8"),
        pytest.param(b"[" * 100_000, id="100,000 brackets"),
    ],
)
def test_a_refusal_that_names_no_element_blames_nobody(body: bytes) -> None:
    """Then the culprit is looked for by halves."""
    assert NATIVE.blame(body) == set()


@example(b'{"detail": [{"loc": ["body", 1, "amount"]}, {"loc": null}]}')
@given(
    st.binary()
    | st.recursive(
        st.none() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["detail", "loc", "a", "b", "c"]), inner)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_may_be_a_refusal(body: bytes) -> None:
    """Nothing is raised, whatever a server sends with it."""
    assert all(type(place) is int for place in NATIVE.blame(body))
