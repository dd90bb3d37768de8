"""The stand-in for the model's API as a server: its answers, its counters, its end."""

import http.client
import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from lab.servers import ModelApi, wait_until
from tests.integration.model_api.requests import make_batch, predict, predicted, set_fault


def test_every_transaction_is_answered(api: httpx.Client) -> None:
    """One element for each, with the id in its canonical spelling and the honest version."""
    batch = make_batch()
    batch[0]["id"] = batch[0]["id"].upper().replace("-", "")

    answer = predict(api, batch)

    assert answer.headers["content-type"].startswith("application/json")
    assert [row["transaction_id"] for row in answer.json()] == [row["id"] for row in make_batch()]
    assert {row["model_version"] for row in answer.json()} == {"stand-in-1"}
    assert {row["prediction"] for row in answer.json()} <= {"fraud", "legitimate"}


def test_an_empty_batch_is_answered_with_an_empty_array(api: httpx.Client) -> None:
    """So a probe can be sent to `/predict`, and it counts as a request."""
    assert predict(api, []).json() == []
    assert api.get("/control").json()["requests"] == 1


def test_a_bad_element_fails_the_batch_and_is_named(api: httpx.Client) -> None:
    """422 with the index in `loc`."""
    batch = make_batch()
    batch[3]["amount"] = "x"

    answer = predict(api, batch)

    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", 3, "amount"]


def test_there_is_no_health_endpoint(api: httpx.Client) -> None:
    """As in the service that it stands in for."""
    assert api.get("/health").status_code == 404


def test_counters(api: httpx.Client) -> None:
    """Requests, elements, in flight, by status; the reset answers with them and starts anew."""
    set_fault(api, "outage", requests=1)
    predict(api)
    predict(api)

    state = api.delete("/control").json()
    expected = {"requests": 2, "elements": 8, "in_flight": 0, "by_status": {"200": 1, "503": 1}}
    assert expected.items() <= state.items()
    assert api.get("/control").json()["requests"] == 0


def test_the_most_requests_in_flight_are_counted(model_api: ModelApi, api: httpx.Client) -> None:
    """To see that a client keeps to its limit."""
    set_fault(api, "hang")
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(predict, api) for _ in range(3)]
        wait_until(lambda: model_api.state()["in_flight"] == 3)
        assert api.delete("/control").json()["in_flight_max"] == 3
        assert all(isinstance(each.exception(10), httpx.TransportError) for each in asked)


def test_options_of_the_command_line(tmp_path: Path) -> None:
    """A token that requests need, and faults from the start."""
    options = ["--token", "secret", "--fault", "status,code=429,requests=1", "--fault", "short"]
    with ModelApi(tmp_path, options=options) as server:
        assert httpx.post(f"{server.url}/predict", json=[], trust_env=False).status_code == 401

        headers = {"Authorization": "Bearer secret"}
        with httpx.Client(base_url=server.url, headers=headers, trust_env=False) as api:
            assert predict(api).status_code == 429
            assert len(predicted(api)) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_on_a_signal_with_requests_in_flight(tmp_path: Path, number: int) -> None:
    """With exit code 0; what hangs is not waited for."""
    with ModelApi(tmp_path, options=["--fault", "hang"]) as server:
        process = server._child  # noqa: SLF001 - its exit code is not kept elsewhere
        assert process is not None
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("POST", "/predict", json.dumps(make_batch()))
        wait_until(lambda: server.state()["in_flight"] == 1)

        process.send_signal(number)

        assert process.wait(30) == 0
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
        assert httpx.post(f"{url}/predict", json=make_batch(1), trust_env=False).is_success
