"""What the stand-in for the model's API makes of a request, without a server."""

import json
import math
from typing import Any
from uuid import UUID, uuid4

import pytest

from lab.model_api.scoring import Refused, parse, score


def _element(**fields: Any) -> dict[str, Any]:
    return {
        "id": "3f2504e0-4f89-11d3-9a0c-0305e82c3301",
        "description": "order 1",
        "amount": 12.5,
        "timestamp": "2026-01-05 08:00:00",
        "merchant": None,
        "operation_type": "PURCHASE",
        "side": "DEBIT",
    } | fields


def _refusal(body: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        parse(body)
    return caught.value


def _places(refused: Refused) -> list[Any]:
    assert refused.status == 422
    return [reason["loc"] for reason in json.loads(refused.body)["detail"]]


def _encode(*elements: Any) -> bytes:
    return json.dumps(elements).encode()


@pytest.mark.parametrize("bad", [{"amount": "x"}, {"amount": None}, {"amount": [1]}])
def test_a_bad_field_is_named_with_its_index(bad: dict[str, Any]) -> None:
    """One bad element fails the batch, and `loc` tells which."""
    body = _encode(_element(), _element(), _element(), _element(**bad))

    assert _places(_refusal(body)) == [["body", 3, "amount"]]


@pytest.mark.parametrize(
    "timestamp", ["2026-01-05T08:00:00Z", "2026-01-05T08:00:60", " 2026-01-05T08:00:00", "soon"]
)
def test_times_with_an_offset_and_bad_times_are_refused(timestamp: str) -> None:
    """The service takes naive times only."""
    assert _places(_refusal(_encode(_element(timestamp=timestamp)))) == [["body", 0, "timestamp"]]


def test_a_merchant_may_be_null_and_not_missing() -> None:
    """As in the service that it stands in for."""
    element = _element()
    del element["merchant"]

    assert _places(_refusal(_encode(element))) == [["body", 0, "merchant"]]


@pytest.mark.parametrize(
    ("body", "place"),
    [(b"", ["body"]), (b"{}", ["body"]), (b"[", ["body", 1]), (b"[1", ["body", 2])],
)
def test_a_body_that_is_no_array_is_refused(body: bytes, place: list[Any]) -> None:
    """For broken JSON the number in `loc` is a position in the text, not an index."""
    assert _places(_refusal(body)) == [place]


@pytest.mark.parametrize("body", [b"\xff", b"[" * 5_000, b"[" + b"1" * 5_000 + b"]"])
def test_what_the_json_parser_chokes_on_is_answered_with_400(body: bytes) -> None:
    """Without an index."""
    assert _refusal(body).status == 400


def test_an_error_that_cannot_be_encoded_is_answered_with_500() -> None:
    """An element that is bad and holds NaN or a lone surrogate fails the service itself."""
    bad = _element(description=float("nan"))
    worse = _element(amount="\ud800")

    assert _refusal(_encode(bad)).status == 500
    assert _refusal(_encode(worse)).status == 500


@pytest.mark.parametrize(
    "odd",
    [
        {"amount": float("nan")},
        {"amount": float("inf")},
        {"amount": True},
        {"amount": " 12.50 "},
        {"description": "NUL \x00"},
        {"description": "half an emoji \ud83d"},
    ],
)
def test_rubbish_that_the_service_takes_is_taken_and_scored(odd: dict[str, Any]) -> None:
    """Validation has to happen before: the service answers these with 200."""
    (transaction,) = parse(_encode(_element(**odd)))

    assert 0 <= score(transaction)["fraud_score"] <= 1


@pytest.mark.parametrize(
    "spelling",
    [
        "3F2504E0-4F89-11D3-9A0C-0305E82C3301",
        "3f2504e04f8911d39a0c0305e82c3301",
        "{3f2504e0-4f89-11d3-9a0c-0305e82c3301}",
        "urn:uuid:3f2504e0-4f89-11d3-9a0c-0305e82c3301",
    ],
)
def test_every_spelling_of_an_id_is_the_same_id(spelling: str) -> None:
    """UUIDs are compared as such."""
    (transaction,) = parse(_encode(_element(id=spelling)))

    assert transaction["id"] == UUID("3f2504e0-4f89-11d3-9a0c-0305e82c3301")


@pytest.mark.parametrize("identity", [12345, "12345", "TX-000012345678"])
def test_other_ids_come_back_as_they_are(identity: int | str) -> None:
    """Older data has them."""
    (transaction,) = parse(_encode(_element(id=identity)))

    assert score(transaction)["transaction_id"] == identity


def test_a_score_depends_on_the_transaction_alone() -> None:
    """The same transaction gets the same score in any batch."""
    first, second = _element(id=str(uuid4())), _element(id=str(uuid4()))
    alone = [score(transaction) for transaction in parse(_encode(first))]
    together = [score(transaction) for transaction in parse(_encode(second, first))]

    assert alone == together[1:]


@pytest.mark.parametrize("kind", ["uuid", "integer", "text"])
def test_two_to_four_percent_come_out_as_fraud(kind: str) -> None:
    """For ordinary amounts, whatever the ids are; a score and its label agree."""
    count = 20_000
    ids: dict[str, list[Any]] = {
        "uuid": [str(UUID(int=number * 7919 << 32)) for number in range(count)],
        "integer": list(range(1_000_000, 1_000_000 + count)),
        "text": [f"TX-{number}" for number in range(count)],
    }
    answers = [
        score(transaction)
        for transaction in parse(_encode(*(_element(id=identity) for identity in ids[kind])))
    ]

    frauds = [answer for answer in answers if answer["prediction"] == "fraud"]
    assert 0.02 <= len(frauds) / count <= 0.04
    assert all((a["fraud_score"] >= 0.5) is (a["prediction"] == "fraud") for a in answers)
    assert not any(math.isnan(answer["fraud_score"]) for answer in answers)
