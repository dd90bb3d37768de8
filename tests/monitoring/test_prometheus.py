"""Dashboard and alerts, asked of a real Prometheus about a stream that runs for real."""

import math
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from lab.sample import transactions
from lab.servers import KafkaServer, ModelApi, free_port, wait_until
from tests.kit.environment import environment
from tests.kit.flow import Flow
from tests.kit.kafka import Topics, produce
from tests.kit.recovery import make_recovery, recovery_options
from tests.monitoring.prometheus import Prometheus
from tests.monitoring.queries import RULES, Query, queries

pytestmark = pytest.mark.prometheus

JOB = "fraud-scoring"
MESSAGES = 300
BROKEN = 5


@pytest.fixture
def prometheus(
    broker: KafkaServer, topics: Topics, database_url: str, model_api: ModelApi, tmp_path: Path
) -> Iterator[Prometheus]:
    """Prometheus, with a stream that has stored, failed, and asked again."""
    port = free_port()
    variables = environment(
        broker, topics, database_url=database_url, model_url=model_api.url, HTTP_PORT=str(port),
        BATCH_SIZE="20", RETRY_BACKOFF="1",
    )  # fmt: skip
    with (
        Prometheus(tmp_path / "prometheus", f"127.0.0.1:{port}") as running,
        Flow(tmp_path, variables, recovery_options(make_recovery(tmp_path))) as flow,
    ):
        flow.wait_for("source.start")
        # Before the first message: a rate is of what was counted between two looks.
        _wait(running, "count(fraud_messages_read_total)", 4)
        model_api.control(name="status", code=503, requests=2)
        _produce(broker, topics)
        _wait(running, "sum(fraud_messages_stored_total)", MESSAGES)
        _wait(running, "sum(fraud_dead_letters_total)", BROKEN)
        _wait(running, "count(fraud_commit_timestamp_seconds)", 1)
        _wait(running, "sum(rate(fraud_epoch_duration_seconds_count[1m]) > 0)", 0)
        yield running


def _produce(broker: KafkaServer, topics: Topics) -> None:
    samples = transactions(MESSAGES, seed=1, broken=0, repeated=0)
    produce(broker, topics.transactions, [*(each.value for each in samples), *[b"{oops"] * BROKEN])


def _wait(prometheus: Prometheus, query: str, least: float) -> None:
    def enough() -> bool:
        values = prometheus.values(query)
        return bool(values) and sum(values) >= least

    wait_until(enough, timedelta(seconds=30), what=f"{query} >= {least}")


def _fault(prometheus: Prometheus, query: Query) -> str | None:
    values = prometheus.values(query.filled(job=JOB))
    if not values:
        return "shows nothing"
    return None if all(map(math.isfinite, values)) else f"shows {values}"


def test_each_panel_shows_something(prometheus: Prometheus) -> None:
    """Finite numbers for each query of the dashboard, and those that are known are right.

    What failed, failed once: its rate is that of the very first failures.
    """
    faults = {
        f"{query.panel}, {query.letter}": fault
        for query in queries()
        if (fault := _fault(prometheus, query))
    }
    assert faults == {}

    shown = {(query.panel, query.letter): query.filled(job=JOB) for query in queries()}
    assert prometheus.values(shown["Processes", "A"]) == [1]
    assert prometheus.values(shown["Lag", "A"]) == [0]
    for rate in ("Read", "Stored", "Failed", "Error rate", "Retries, by reason"):
        assert prometheus.total(shown[rate, "A"]) > 0, rate


def test_prometheus_takes_the_alert_rules(prometheus: Prometheus) -> None:
    """All are loaded with the project's own configuration, and evaluate without an error."""
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    expected = {rule["alert"] for rule in group["rules"]}

    def evaluated() -> bool:
        return all(rule["health"] != "unknown" for rule in prometheus.rules())

    wait_until(evaluated, what="the first evaluation of all rules")
    assert {rule["name"]: rule["health"] for rule in prometheus.rules()} == dict.fromkeys(
        expected, "ok"
    )
