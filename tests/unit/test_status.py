"""The figures of the status page, and how the page is served."""

import base64
import hashlib
import json
import re
from datetime import timedelta

import httpx
import pytest

from telemetry import (
    LATEST_FAILURES,
    FailureNote,
    Health,
    Progress,
    metrics,
    serve,
    status_routes,
)


@pytest.fixture
def progress() -> Progress:
    """Of a process that has begun."""
    return Progress()


@pytest.fixture
def client(progress: Progress) -> httpx.Client:
    """Asks a server of the status page."""
    minute = timedelta(minutes=1)
    health = Health(progress, workers=1, live_timeout=minute, epoch_timeout=minute)
    port = serve("127.0.0.1", 0, status_routes(progress, health))
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False)


def test_the_figures_have_all_that_the_page_shows(client: httpx.Client) -> None:
    """By these names, as JSON that a browser reads: no infinite number."""

    def refuse(name: str) -> None:
        pytest.fail(f"{name} is not JSON")

    with client:
        figures = json.loads(client.get("/status.json").text, parse_constant=refuse)
    assert figures.keys() == {
        "time", "version", "counts", "lag", "in_flight", "arrival_to_commit",
        "connection_losses", "live", "ready", "failures",
    }  # fmt: skip
    assert figures["counts"].keys() == {"read", "asked", "stored", "duplicates", "failed"}
    assert figures["connection_losses"].keys() == {"kafka", "model", "postgres"}
    assert figures["ready"]["parts"].keys() == {
        "dependencies",
        "partitions",
        "epoch",
        "done",
        "breaker",
        "database",
    }
    latency = figures["arrival_to_commit"]
    assert len(latency["at_most"]) == len(latency["limits"]) + 1


def test_the_figures_are_those_of_the_metrics(client: httpx.Client, progress: Progress) -> None:
    """Counted once: what is counted for metrics is what is shown."""
    with client:
        before = client.get("/status.json").json()
        progress.count("messages", 7, partition=0)
        progress.count("stored", 4)
        progress.count("failed", 2, stage="score", disposition="rejected")
        progress.count("failed", 1, stage="score", disposition="exhausted")
        metrics.REQUEST_TRANSACTIONS.observe(5)
        progress.lag(0, 11)
        progress.committed([0, 0])
        after = client.get("/status.json").json()
    assert (after["counts"]["read"], after["counts"]["stored"], after["lag"]) == (7, 4, 11)
    assert after["counts"]["asked"] - before["counts"]["asked"] == 5
    assert after["counts"]["failed"]["score"] - before["counts"]["failed"].get("score", 0) == 3
    last = [each["arrival_to_commit"]["at_most"][-1] for each in (before, after)]
    assert last[1] - last[0] == 2


def test_the_latest_failures_are_kept_and_no_more(client: httpx.Client, progress: Progress) -> None:
    """The last one first, with its position and without anything that was in it."""
    for offset in range(LATEST_FAILURES + 5):
        progress.note_failures([FailureNote("decode", "poison", "not_json", 3, offset)])
    with client:
        failures = client.get("/status.json").json()["failures"]
    assert [each["offset"] for each in failures] == list(range(LATEST_FAILURES + 4, 4, -1))
    assert failures[0].keys() == {"time", "stage", "disposition", "code", "partition", "offset"}


def test_the_page_may_run_its_own_script_and_no_other(client: httpx.Client) -> None:
    """The policy has the script's digest; the page names nothing that is elsewhere."""
    with client:
        answer = client.get("/")
    [script] = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith(f"default-src 'none'; script-src 'sha256-{digest}';")
    assert "unsafe" not in policy
    assert not re.search(r"https?://|\ssrc=|url\(|@import", answer.text)
