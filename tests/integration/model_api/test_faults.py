"""The faults of the stand-in for the model."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest

from lab.servers import ModelApi, wait_until
from tests.integration.model_api.requests import ID, make_batch, predict, predicted, set_fault


@pytest.mark.parametrize("code", [400, 401, 403, 404, 408, 413, 415, 422, 425, 429, 500, 503])
def test_status_answers_with_its_code(api: httpx.Client, code: int) -> None:
    """Until the reset."""
    set_fault(api, "status", code=code)
    assert [predict(api).status_code for _ in range(2)] == [code, code]

    api.delete("/control")
    assert predict(api).status_code == 200


def test_a_fault_can_end_after_a_number_of_requests(api: httpx.Client) -> None:
    """The next ones are answered again."""
    set_fault(api, "outage", requests=2)

    assert [predict(api).status_code for _ in range(3)] == [503, 503, 200]
    assert api.get("/control").json()["faults"] == []


def test_a_fault_can_end_after_a_time(api: httpx.Client) -> None:
    """By itself."""
    set_fault(api, "outage", seconds=2)

    assert predict(api).status_code == 503
    wait_until(lambda: predict(api).status_code == 200)


def test_a_fault_can_meet_a_share_of_the_requests(api: httpx.Client) -> None:
    """By chance that repeats itself after a reset."""
    runs = []
    for _ in range(2):
        api.delete("/control")
        set_fault(api, "status", share=0.5)
        runs.append([predict(api).status_code for _ in range(30)])

    assert set(runs[0]) == {200, 503}
    assert runs[0] == runs[1]


def test_a_fault_can_meet_marked_batches_only(api: httpx.Client) -> None:
    """The marker is looked for in the descriptions."""
    set_fault(api, "status", marker="order 3")

    assert predict(api, make_batch(3)).status_code == 200
    assert predict(api, make_batch(4)).status_code == 503


def test_retry_after_comes_in_both_forms(api: httpx.Client) -> None:
    """In seconds, or as a date."""
    set_fault(api, "status", code=429, retry_after=7)
    assert predict(api).headers["retry-after"] == "7"

    set_fault(api, "status", code=429, retry_after=3600, retry_after_date=True)
    date = parsedate_to_datetime(predict(api).headers["retry-after"])
    assert 3500 < date.timestamp() - time.time() <= 3600


@pytest.mark.parametrize("code", [400, 422, 500])
def test_poison_fails_its_batch_and_hides(api: httpx.Client, code: int) -> None:
    """Only batches that hold the marked transaction fail, and nothing tells where it is."""
    poisoned = make_batch()
    poisoned[2]["description"] = "a poison pill"
    set_fault(api, "poison", code=code)

    assert predict(api).status_code == 200
    assert predict(api, poisoned).status_code == code
    assert "loc" not in predict(api, poisoned).text


def test_poison_index_names_the_element(api: httpx.Client) -> None:
    """As validation does."""
    poisoned = make_batch()
    poisoned[2]["description"] = "a poison pill"
    set_fault(api, "poison_index")

    assert predict(api).status_code == 200
    assert predict(api, poisoned).json()["detail"][0]["loc"] == ["body", 2, "description"]


def test_fickle_changes_its_mind_about_one_and_the_same(api: httpx.Client) -> None:
    """The same batch is taken, refused and failed, depending on when it is asked for."""
    batch = make_batch()
    batch[2]["description"] = "a fickle one"
    set_fault(api, "fickle", period=0.05)

    assert predict(api).status_code == 200
    seen: set[int] = set()

    def has_said_everything() -> bool:
        seen.add(predict(api, batch).status_code)
        return seen == {200, 422, 500}

    wait_until(has_said_everything, what="a third verdict")


def test_too_large_depends_on_the_batch(api: httpx.Client) -> None:
    """Smaller ones pass."""
    set_fault(api, "too_large", elements=2)

    assert predict(api, make_batch(3)).status_code == 413
    assert len(predict(api, make_batch(2)).json()) == 2


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("reset", httpx.ReadError),
        ("truncate", httpx.RemoteProtocolError),
        ("hang", httpx.ReadTimeout),
    ],
)
def test_connections_break_in_several_ways(
    api: httpx.Client, fault: str, error: type[httpx.TransportError]
) -> None:
    """And work again after the reset."""
    set_fault(api, fault)
    with pytest.raises(error):
        api.post("/predict", json=make_batch(), timeout=0.3)

    api.delete("/control")
    assert len(predicted(api)) == 4


def test_what_hangs_does_not_pile_up(api: httpx.Client) -> None:
    """A client that leaves ends its request."""
    set_fault(api, "hang")
    with pytest.raises(httpx.ReadTimeout):
        api.post("/predict", json=make_batch(), timeout=0.1)

    wait_until(lambda: api.get("/control").json()["in_flight"] == 0)
    assert api.get("/control").json()["by_status"] == {"dropped": 1}


def test_what_hangs_is_let_go_by_the_reset(api: httpx.Client) -> None:
    """Its connection is reset."""
    set_fault(api, "hang")
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(predict, api)
        with httpx.Client(base_url=api.base_url, trust_env=False) as other:
            wait_until(lambda: other.get("/control").json()["in_flight"] == 1)
            other.delete("/control")
        assert isinstance(answer.exception(10), httpx.ReadError)


def test_huge_sends_a_hundred_megabytes(api: httpx.Client) -> None:
    """In pieces: a client that reads on has to have a limit."""
    set_fault(api, "huge")

    with api.stream("POST", "/predict", json=make_batch()) as answer:
        assert sum(map(len, answer.iter_raw())) == 100_000_000


def test_answers_that_are_no_predictions(api: httpx.Client) -> None:
    """A page, a redirect, and a text that is only called JSON."""
    set_fault(api, "html")
    assert predict(api).headers["content-type"].startswith("text/html")
    api.delete("/control")

    set_fault(api, "redirect")
    assert predict(api).status_code == 307
    api.delete("/control")

    set_fault(api, "not_json")
    with pytest.raises(json.JSONDecodeError):
        predict(api).json()


def test_slow_takes_longer(api: httpx.Client) -> None:
    """`delay_ms` in place of the usual time, times `factor`: a minute, which is not waited for."""
    set_fault(api, "slow", delay_ms=100, factor=600)

    with pytest.raises(httpx.ReadTimeout):
        api.post("/predict", json=make_batch(), timeout=0.3)


def _ids(rows: list[dict[str, Any]]) -> list[Any]:
    return [row.get("transaction_id") for row in rows]


def test_answers_with_wrong_ids(api: httpx.Client) -> None:
    """One is missing, twice there, foreign, left out; half are missing; the order differs."""
    ids = [row["id"] for row in make_batch()]
    found = {}
    for fault in ("missing", "doubled", "foreign", "anonymous", "short", "shuffle"):
        api.delete("/control")
        set_fault(api, fault, marker="order")
        found[fault] = _ids(predicted(api))

    assert len(found["missing"]) == 3
    assert len(found["doubled"]) == 5
    assert set(found["doubled"]) == set(ids)
    assert len(set(found["foreign"]) - set(ids)) == 1
    assert found["anonymous"].count(None) == 1
    assert found["short"] == ids[:2]
    assert sorted(found["shuffle"]) == ids


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("nan", '"fraud_score":NaN'),
        ("text", '"fraud_score":"high"'),
        ("no_score", '"fraud_score":null'),
        ("out_of_range", '"fraud_score":1.5'),
        ("no_prediction", '"prediction":null'),
    ],
)
def test_answers_with_a_wrong_value(api: httpx.Client, fault: str, text: str) -> None:
    """One element is wrong; a marker tells which."""
    set_fault(api, fault, marker="order 2")

    answer = predict(api).text
    assert answer.count(text) == 1
    assert answer.index(ID.format(2)) < answer.index(text)
    assert text not in answer[answer.index(ID.format(3)) :]


def test_connections_are_refused_for_a_time(api: httpx.Client) -> None:
    """The port is closed; who asked for it on that port is answered."""
    set_fault(api, "refuse", seconds=2)

    assert not _reaches(api)
    wait_until(lambda: _reaches(api))


def test_connections_are_refused_until_the_reset(model_api: ModelApi, api: httpx.Client) -> None:
    """Those that are there are closed, and the second port goes on."""
    assert predict(api).status_code == 200
    model_api.control(name="refuse")

    with pytest.raises(httpx.TransportError):
        predict(api)
    assert not _reaches(api)

    model_api.reset()
    assert _reaches(api)


def _reaches(api: httpx.Client) -> bool:
    try:
        return predict(api).status_code == 200
    except httpx.ConnectError:
        return False


@pytest.mark.parametrize(
    "unknown", [{"name": "earthquake"}, {"name": "status", "codes": 1}, {"share": 1}, {}, "x"]
)
def test_unknown_faults_are_refused(api: httpx.Client, unknown: Any) -> None:
    """A typing error in a test must not look like a robust client."""
    assert api.post("/control", json=unknown).status_code == 422
    assert api.get("/control").json()["faults"] == []
