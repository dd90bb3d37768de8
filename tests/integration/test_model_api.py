"""The stand-in for the model's API as a server: its answers, its faults, its counters."""

import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from lab.servers import ModelApi, wait_until

ID = "3f2504e0-4f89-11d3-9a0c-0305e82c33{:02}"


@pytest.fixture
def api(model_api: ModelApi) -> Iterator[httpx.Client]:
    """Client of the server, which has no faults at the start of each test."""
    with httpx.Client(base_url=model_api.url, trust_env=False, timeout=10) as client:
        yield client


def _batch(count: int = 4, **fields: Any) -> list[dict[str, Any]]:
    return [
        {
            "id": ID.format(number),
            "description": f"order {number}",
            "amount": 12.5,
            "timestamp": "2026-01-05T08:00:00",
            "merchant": None,
            "operation_type": "PURCHASE",
            "side": "DEBIT",
        }
        | fields
        for number in range(count)
    ]


def _fault(api: httpx.Client, name: str, **parameters: Any) -> None:
    api.post("/control", json={"name": name, **parameters}).raise_for_status()


def _predict(api: httpx.Client, batch: Any = None) -> httpx.Response:
    return api.post("/predict", json=_batch() if batch is None else batch)


def _rows(api: httpx.Client) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = _predict(api).raise_for_status().json()
    return rows


def test_every_transaction_is_answered(api: httpx.Client) -> None:
    """One element for each, with the id in its canonical spelling and the honest version."""
    batch = _batch()
    batch[0]["id"] = batch[0]["id"].upper().replace("-", "")

    answer = _predict(api, batch)

    assert answer.headers["content-type"].startswith("application/json")
    assert [row["transaction_id"] for row in answer.json()] == [row["id"] for row in _batch()]
    assert {row["model_version"] for row in answer.json()} == {"stand-in-1"}
    assert {row["prediction"] for row in answer.json()} <= {"fraud", "legitimate"}


def test_an_empty_batch_is_answered_with_an_empty_array(api: httpx.Client) -> None:
    """So a probe can be sent to `/predict`, and it counts as a request."""
    assert _predict(api, []).json() == []
    assert api.get("/control").json()["requests"] == 1


def test_a_bad_element_fails_the_batch_and_is_named(api: httpx.Client) -> None:
    """422 with the index in `loc`."""
    batch = _batch()
    batch[3]["amount"] = "x"

    answer = _predict(api, batch)

    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", 3, "amount"]


def test_there_is_no_health_endpoint(api: httpx.Client) -> None:
    """As in the service that it stands in for."""
    assert api.get("/health").status_code == 404


@pytest.mark.parametrize("code", [400, 401, 403, 404, 408, 413, 415, 422, 425, 429, 500, 503])
def test_status_answers_with_its_code(api: httpx.Client, code: int) -> None:
    """Until the reset."""
    _fault(api, "status", code=code)
    assert [_predict(api).status_code for _ in range(2)] == [code, code]

    api.delete("/control")
    assert _predict(api).status_code == 200


def test_a_fault_can_end_after_a_number_of_requests(api: httpx.Client) -> None:
    """The next ones are answered again."""
    _fault(api, "outage", requests=2)

    assert [_predict(api).status_code for _ in range(3)] == [503, 503, 200]
    assert api.get("/control").json()["faults"] == []


def test_a_fault_can_end_after_a_time(api: httpx.Client) -> None:
    """By itself."""
    _fault(api, "outage", seconds=0.2)

    assert _predict(api).status_code == 503
    wait_until(lambda: _predict(api).status_code == 200)


def test_a_fault_can_meet_a_share_of_the_requests(api: httpx.Client) -> None:
    """By chance that repeats itself after a reset."""
    runs = []
    for _ in range(2):
        api.delete("/control")
        _fault(api, "status", share=0.5)
        runs.append([_predict(api).status_code for _ in range(30)])

    assert set(runs[0]) == {200, 503}
    assert runs[0] == runs[1]


def test_a_fault_can_meet_marked_batches_only(api: httpx.Client) -> None:
    """The marker is looked for in the descriptions."""
    _fault(api, "status", marker="order 3")

    assert _predict(api, _batch(3)).status_code == 200
    assert _predict(api, _batch(4)).status_code == 503


def test_retry_after_comes_in_both_forms(api: httpx.Client) -> None:
    """In seconds, or as a date."""
    _fault(api, "status", code=429, retry_after=7)
    assert _predict(api).headers["retry-after"] == "7"

    _fault(api, "status", code=429, retry_after=3600, retry_after_date=True)
    date = parsedate_to_datetime(_predict(api).headers["retry-after"])
    assert 3500 < date.timestamp() - time.time() <= 3600


@pytest.mark.parametrize("code", [400, 422, 500])
def test_poison_fails_its_batch_and_hides(api: httpx.Client, code: int) -> None:
    """Only batches that hold the marked transaction fail, and nothing tells where it is."""
    poisoned = _batch()
    poisoned[2]["description"] = "a poison pill"
    _fault(api, "poison", code=code)

    assert _predict(api).status_code == 200
    assert _predict(api, poisoned).status_code == code
    assert "loc" not in _predict(api, poisoned).text


def test_poison_index_names_the_element(api: httpx.Client) -> None:
    """As validation does."""
    poisoned = _batch()
    poisoned[2]["description"] = "a poison pill"
    _fault(api, "poison_index")

    assert _predict(api).status_code == 200
    assert _predict(api, poisoned).json()["detail"][0]["loc"] == ["body", 2, "description"]


def test_too_large_depends_on_the_batch(api: httpx.Client) -> None:
    """Smaller ones pass."""
    _fault(api, "too_large", elements=2)

    assert _predict(api, _batch(3)).status_code == 413
    assert len(_predict(api, _batch(2)).json()) == 2


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
    _fault(api, fault)
    with pytest.raises(error):
        api.post("/predict", json=_batch(), timeout=0.3)

    api.delete("/control")
    assert len(_rows(api)) == 4


def test_what_hangs_does_not_pile_up(api: httpx.Client) -> None:
    """A client that leaves ends its request."""
    _fault(api, "hang")
    with pytest.raises(httpx.ReadTimeout):
        api.post("/predict", json=_batch(), timeout=0.1)

    wait_until(lambda: api.get("/control").json()["in_flight"] == 0)
    assert api.get("/control").json()["by_status"] == {"dropped": 1}


def test_what_hangs_is_let_go_by_the_reset(api: httpx.Client) -> None:
    """Its connection is reset."""
    _fault(api, "hang")
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(_predict, api)
        with httpx.Client(base_url=api.base_url, trust_env=False) as other:
            wait_until(lambda: other.get("/control").json()["in_flight"] == 1)
            other.delete("/control")
        assert isinstance(answer.exception(10), httpx.ReadError)


def test_huge_sends_a_hundred_megabytes(api: httpx.Client) -> None:
    """In pieces: a client that reads on has to have a limit."""
    _fault(api, "huge")

    with api.stream("POST", "/predict", json=_batch()) as answer:
        assert sum(map(len, answer.iter_raw())) == 100_000_000


def test_answers_that_are_no_predictions(api: httpx.Client) -> None:
    """A page, a redirect, and a text that is only called JSON."""
    _fault(api, "html")
    assert _predict(api).headers["content-type"].startswith("text/html")
    api.delete("/control")

    _fault(api, "redirect")
    assert _predict(api).status_code == 307
    api.delete("/control")

    _fault(api, "not_json")
    with pytest.raises(json.JSONDecodeError):
        _predict(api).json()


def test_slow_takes_longer(api: httpx.Client) -> None:
    """`delay_ms` in place of the usual time, times `factor`."""
    _fault(api, "slow", delay_ms=50, factor=4)

    assert _predict(api).elapsed.total_seconds() >= 0.2


def _ids(rows: list[dict[str, Any]]) -> list[Any]:
    return [row.get("transaction_id") for row in rows]


def test_answers_with_wrong_ids(api: httpx.Client) -> None:
    """One is missing, twice there, foreign, left out; half are missing; the order differs."""
    ids = [row["id"] for row in _batch()]
    found = {}
    for fault in ("missing", "doubled", "foreign", "anonymous", "short", "shuffle"):
        api.delete("/control")
        _fault(api, fault, marker="order")
        found[fault] = _ids(_rows(api))

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
    _fault(api, fault, marker="order 2")

    answer = _predict(api).text
    assert answer.count(text) == 1
    assert answer.index(ID.format(2)) < answer.index(text)
    assert text not in answer[answer.index(ID.format(3)) :]


def test_connections_are_refused_for_a_time(api: httpx.Client) -> None:
    """The port is closed; who asked for it on that port is answered."""
    _fault(api, "refuse", seconds=0.3)

    assert not _reaches(api)
    wait_until(lambda: _reaches(api))


def test_connections_are_refused_until_the_reset(model_api: ModelApi, api: httpx.Client) -> None:
    """Those that are there are closed, and the second port goes on."""
    assert _predict(api).status_code == 200
    model_api.control(name="refuse")

    with pytest.raises(httpx.TransportError):
        _predict(api)
    assert not _reaches(api)

    model_api.reset()
    assert _reaches(api)


def _reaches(api: httpx.Client) -> bool:
    try:
        return _predict(api).status_code == 200
    except httpx.ConnectError:
        return False


@pytest.mark.parametrize(
    "unknown", [{"name": "earthquake"}, {"name": "status", "codes": 1}, {"share": 1}, {}, "x"]
)
def test_unknown_faults_are_refused(api: httpx.Client, unknown: Any) -> None:
    """A typing error in a test must not look like a robust client."""
    assert api.post("/control", json=unknown).status_code == 422
    assert api.get("/control").json()["faults"] == []


def test_counters(api: httpx.Client) -> None:
    """Requests, elements, in flight, by status; the reset answers with them and starts anew."""
    _fault(api, "slow", delay_ms=300)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: _predict(api), range(3)))
    api.delete("/control").raise_for_status()
    _fault(api, "outage", requests=1)
    _predict(api)
    _predict(api)

    state = api.delete("/control").json()
    expected = {"requests": 2, "elements": 8, "in_flight": 0, "by_status": {"200": 1, "503": 1}}
    assert expected.items() <= state.items()
    assert api.get("/control").json()["requests"] == 0


def test_the_most_requests_in_flight_are_counted(api: httpx.Client) -> None:
    """To see that a client keeps to its limit."""
    _fault(api, "slow", delay_ms=300)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: _predict(api), range(3)))

    assert api.get("/control").json()["in_flight_max"] == 3


def test_options_of_the_command_line(tmp_path: Path) -> None:
    """A token that requests need, and faults from the start."""
    options = ["--token", "secret", "--fault", "status,code=429,requests=1", "--fault", "short"]
    with ModelApi(tmp_path, options=options) as server:
        assert httpx.post(f"{server.url}/predict", json=[], trust_env=False).status_code == 401

        headers = {"Authorization": "Bearer secret"}
        with httpx.Client(base_url=server.url, headers=headers, trust_env=False) as api:
            assert _predict(api).status_code == 429
            assert len(_rows(api)) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_on_a_signal_with_requests_in_flight(tmp_path: Path, number: int) -> None:
    """With exit code 0, and at once."""
    with ModelApi(tmp_path, options=["--fault", "hang"]) as server:
        process = server._child  # noqa: SLF001 - its exit code is not kept elsewhere
        assert process is not None
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("POST", "/predict", json.dumps(_batch()))
        wait_until(lambda: server.state()["in_flight"] == 1)

        process.send_signal(number)

        assert process.wait(5) == 0
        connection.close()


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [("earthquake", "unknown fault earthquake"), ("refuse", "--control-port")],
)
def test_a_wrong_option_is_told_in_words(fault: str, complaint: str) -> None:
    """Not by a traceback. A refusal that nothing could end is wrong, too."""
    command = [sys.executable, "-m", "lab.model_api", "--port", "0", "--fault", fault]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own

    assert ended.returncode == 2
    assert complaint in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is Linux' alone")
def test_it_listens_at_the_address_that_it_is_told(tmp_path: Path) -> None:
    """As in a container, which others reach by another address than 127.0.0.1."""
    with ModelApi(tmp_path, options=["--host", "0.0.0.0"]) as server:  # noqa: S104 - for a moment
        url = server.url.replace("127.0.0.1", "127.0.0.2")
        assert httpx.post(f"{url}/predict", json=_batch(1), trust_env=False).is_success
