"""Health and metrics as a probe and a scraper see them, of a stream that runs for real."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from signal import SIGTERM
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from lab.sample import transactions
from lab.servers import KafkaServer, ModelApi, free_port, wait_until
from operators.engine.loop import EventLoop
from operators.postgres.session import Session
from tests.chaos.proxy import Cut, Proxy
from tests.kit.environment import environment, settings_of
from tests.kit.flow import Flow
from tests.kit.kafka import Topics, produce
from tests.kit.recovery import make_recovery, recovery_options
from tests.monitoring.queries import expressions, named

MESSAGES = 300
until = partial(wait_until, limit=timedelta(seconds=60))

OPEN = ("open", "half-open")
DEAD_LETTERS = "fraud_dead_letters_total"
REASONS = {"connection", "08", "22", "23", "25", "40", "42", "53", "55", "57", "58", "P0"}
POSSIBLE = {
    ("decode", "poison"),
    ("validate", "poison"),
    ("score", "rejected"),
    ("score", "exhausted"),
    ("persist", "rejected"),
    ("persist", "conflict"),
}


class Probe:
    """Asks one process."""

    def __init__(self, port: int) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False)

    def health(self, kind: str) -> tuple[int, dict[str, Any]]:
        """Status and content; 0 while nothing answers."""
        try:
            response = self._client.get(f"/health/{kind}")
        except httpx.TransportError:
            return 0, {}
        return response.status_code, response.json()

    def is_ready(self) -> bool:
        """Whether it is."""
        return self.health("ready")[0] == 200

    def is_paused(self) -> bool:
        """Whether a breaker is there and is not closed."""
        states = [self.metric("fraud_model_breakers", state=state) for state in OPEN]
        return sum(states) > 0

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples that have these labels."""
        return sum(
            sample.value
            for sample in self._samples(name)
            if labels.items() <= sample.labels.items()
        )

    def labels(self, name: str, *, value: float) -> list[dict[str, str]]:
        """Of the samples that have this value."""
        return [sample.labels for sample in self._samples(name) if sample.value == value]

    def _samples(self, name: str) -> list[Sample]:
        text = self._client.get("/metrics").text
        return [
            sample
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        ]


Stream = Callable[..., AbstractContextManager[tuple[Probe, Flow]]]


@pytest.fixture
def stream(
    broker: KafkaServer, topics: Topics, database_url: str, model_api: ModelApi, tmp_path: Path
) -> Stream:
    """Run a stream, ready to work: `stream("-w", "2", STOP_TIMEOUT="6")`."""

    @contextmanager
    def run(*options: str, **variables: str) -> Iterator[tuple[Probe, Flow]]:
        port = free_port()
        everything = environment(
            broker, topics, database_url=database_url, model_url=model_api.url,
            HTTP_PORT=str(port), **variables,
        )  # fmt: skip
        probe = Probe(port)
        with Flow(tmp_path, everything, options) as flow:
            until(probe.is_ready)
            yield probe, flow

    return run


def _values(count: int = MESSAGES, *, seed: int = 5) -> list[bytes]:
    return [sample.value for sample in transactions(count, seed=seed, broken=0, repeated=0)]


def test_a_stream_that_works_says_so(broker: KafkaServer, topics: Topics, stream: Stream) -> None:
    """Ready once partitions are assigned; every message is in the metrics once."""
    with stream() as (probe, _):
        produce(broker, topics.transactions, [*_values(), b"{oops"])
        until(lambda: probe.metric("fraud_messages_stored_total") == MESSAGES)
        until(lambda: probe.metric("fraud_dead_letter_codes_total", code="not_json") == 1)

        status, content = probe.health("ready")
        assert (status, content["status"]) == (200, "ok")
        assert content["parts"]["partitions"] == {"ok": True, "assigned": 4, "expected": 4}
        assert probe.health("live") == (200, {"status": "ok"})
        assert probe.metric("fraud_messages_read_total") == MESSAGES + 1
        assert probe.metric("fraud_arrival_to_commit_seconds_count") == MESSAGES
        assert probe.metric(DEAD_LETTERS, stage="decode", disposition="poison") == 1
        assert probe.metric("fraud_database_write_rows_sum") == MESSAGES
        assert probe.metric("fraud_model_request_transactions_sum") == MESSAGES
        asked = probe.metric("fraud_model_requests_total", outcome="answered")
        assert probe.metric("fraud_model_request_duration_seconds_count") == asked > 0
        assert probe.metric("fraud_model_requests_in_flight") == 0
        assert probe.metric("fraud_model_breakers", state="closed") == 1
        # Without recovery an epoch is ten seconds; an idle stream ends epochs too.
        until(lambda: probe.metric("fraud_epoch_duration_seconds_count") >= 4)
        until(lambda: probe.metric("fraud_commit_timestamp_seconds") > 4 * (time.time() - 60))


def test_what_counts_failures_is_there_before_the_first(stream: Stream) -> None:
    """Each counter that an alert or a panel asks for is 0, or a rate would miss the first.

    A code of an error is not known before, nor is what a model says.
    """
    asked = {name for each in expressions() for name in named(each) if name.endswith("_total")}
    asked -= {"fraud_dead_letter_codes_total", "process_cpu_seconds_total"}
    asked -= {"fraud_predictions_total", "fraud_model_versions_total"}
    with stream("-s", "60") as (probe, _):  # before the first epoch has ended, too
        found = {name: probe.labels(name, value=0) for name in asked}

        assert {name for name, labels in found.items() if not labels} == set()
        assert {(each["stage"], each["disposition"]) for each in found[DEAD_LETTERS]} == POSSIBLE
        assert {each["reason"] for each in found["fraud_database_retries_total"]} == REASONS
        partitions = [{"partition": str(number)} for number in range(4)]
        assert found["fraud_messages_read_total"] == partitions
        assert found["fraud_messages_skipped_total"] == partitions
        assert probe.metric("fraud_epoch_end_timestamp_seconds") > 4 * (time.time() - 60)


def test_a_stream_that_is_paused_is_alive_and_degraded(
    broker: KafkaServer, topics: Topics, model_api: ModelApi, stream: Stream, tmp_path: Path
) -> None:
    """With the model down for longer than both limits it is neither ended nor taken out."""
    recovery = make_recovery(tmp_path)
    with stream(
        "-r", str(recovery), "-s", "0", "-b", "0", BATCH_SIZE="10", SCORING_CONCURRENCY="2",
        LIVE_TIMEOUT="1", EPOCH_TIMEOUT="1", MAX_RETRIES="0",
    ) as (probe, _):  # fmt: skip
        model_api.control(name="outage")
        produce(broker, topics.transactions, _values(2_000))
        until(probe.is_paused)
        until(lambda: probe.health("ready")[1]["parts"]["done"]["seconds_since_last"] > 1)
        assert probe.health("live")[0] == 200
        status, content = probe.health("ready")
        assert (status, content["status"]) == (200, "degraded")
        model_api.reset()
        until(lambda: probe.metric("fraud_messages_stored_total") == 2_000)
        until(lambda: probe.health("ready")[1]["status"] == "ok")


def test_a_broker_that_is_silent_shows_in_the_age_of_the_last_commit(
    broker: KafkaServer, stream: Stream, tmp_path: Path
) -> None:
    """Epochs go on without it, and when it answers again both are new."""

    def committed() -> float:
        return probe.metric("fraud_commit_timestamp_seconds", partition="0")

    def behind() -> float:
        return probe.metric("fraud_epoch_end_timestamp_seconds", partition="0") - committed()

    with stream(*recovery_options(make_recovery(tmp_path))) as (probe, _):
        until(lambda: committed() > 0)
        broker.pause()
        until(lambda: behind() > 3)
        broker.resume()
        until(lambda: behind() < 1)


def test_a_cluster_that_does_not_come_together_is_not_alive_for_ever(
    broker: KafkaServer, topics: Topics, database_url: str, model_api: ModelApi, tmp_path: Path
) -> None:
    """A process that waits for another is alive until the limit, and never ready."""
    port = free_port()
    variables = environment(
        broker, topics, database_url=database_url, model_url=model_api.url, HTTP_PORT=str(port),
        LIVE_TIMEOUT="3",
    )  # fmt: skip
    addresses = f"127.0.0.1:{free_port()};127.0.0.1:{free_port()}"
    probe = Probe(port)
    with Flow(tmp_path, variables, ["-i", "0", "-a", addresses]):
        until(lambda: probe.health("live")[0] > 0)
        assert probe.health("live") == (200, {"status": "assembling"})
        until(lambda: probe.health("live")[0] == 503)
        assert "not assembled" in probe.health("live")[1]["reason"]
        status, content = probe.health("ready")
        assert (status, content["parts"]["partitions"]["ok"]) == (503, False)
        assert content["parts"]["dependencies"]["ok"]


def test_a_process_of_a_cluster_is_ready_when_it_has_all_its_partitions(
    broker: KafkaServer, topics: Topics, database_url: str, model_api: ModelApi, tmp_path: Path
) -> None:
    """Not before the cluster is there, nor before its locks are free; the other may be ready."""
    ports, addresses = [free_port(), free_port()], [free_port(), free_port()]
    probes = [Probe(port) for port in ports]

    def partitions(number: int) -> tuple[Any, ...]:
        status, content = probes[number].health("ready")
        found = content["parts"]["partitions"]
        return status, found["assigned"], found["expected"]

    with ExitStack() as running:
        # Through it the second process finds the first.
        network = running.enter_context(Proxy(addresses[0]))
        network.cut(Cut.REFUSED)
        for number, first in enumerate([addresses[0], network.port]):
            variables = environment(
                broker, topics, database_url=database_url, model_url=model_api.url,
                HTTP_PORT=str(ports[number]),
            )  # fmt: skip
            hosts = f"127.0.0.1:{first};127.0.0.1:{addresses[1]}"
            flow = Flow(tmp_path / str(number), variables, ["-i", str(number), "-a", hosts])
            running.enter_context(flow)
            flow.wait_for("start ")
        assert [partitions(number) for number in (0, 1)] == [(503, 0, None)] * 2

        # Another has the last partition of the first process.
        other = Session(settings_of(variables))
        running.callback(other.close)
        EventLoop().run(other.claim([f"2-{topics.transactions}"]))
        network.heal()
        until(lambda: partitions(1) == (200, 2, 2))
        assert partitions(0) == (503, 0, 2)  # all of a worker are taken over together
        other.close()
        until(lambda: partitions(0) == (200, 2, 2))


def test_a_stream_that_is_told_to_end_is_not_ready(
    broker: KafkaServer, topics: Topics, model_api: ModelApi, stream: Stream
) -> None:
    """From then on, while it waits for what it has in hand; and it is alive."""
    with stream(STOP_TIMEOUT="6") as (probe, flow):
        model_api.control(name="hang")
        produce(broker, topics.transactions, _values())
        until(lambda: model_api.state()["in_flight"] > 0)
        flow.signal(SIGTERM)
        until(lambda: probe.health("ready")[1].get("status") == "stopping")
        assert probe.health("ready")[0] == 503
        assert probe.health("live") == (200, {"status": "ok"})
        assert model_api.state()["in_flight"] > 0
        assert flow.wait() == 0


def test_each_process_answers_for_its_own_partitions(stream: Stream) -> None:
    """Of four partitions two workers have two each, also as threads of one process."""
    with stream("-w", "6") as (probe, _):
        partitions = probe.health("ready")[1]["parts"]["partitions"]
        assert partitions == {"ok": True, "assigned": 4, "expected": 4}
        assert probe.health("live") == (200, {"status": "ok"})


def test_a_port_that_is_taken_is_one_line(
    broker: KafkaServer, topics: Topics, database_url: str, model_api: ModelApi, tmp_path: Path
) -> None:
    """It names the setting, and the stream does not start."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        variables = environment(
            broker, topics, database_url=database_url, model_url=model_api.url, HTTP_PORT=str(port)
        )
        flow = Flow(tmp_path, variables)
        assert flow.run() == 1
    assert flow.lines() == [
        f"cannot start: HTTP_PORT, HTTP_HOST: 127.0.0.1:{port}: Address already in use"
    ]


def test_json_logs_have_worker_and_partition(
    broker: KafkaServer, topics: Topics, database_url: str, model_api: ModelApi, tmp_path: Path
) -> None:
    """Where they apply."""
    variables = environment(
        broker, topics, database_url=database_url, model_url=model_api.url, LOG_FORMAT="json"
    )
    with Flow(tmp_path, variables, ["-w", "2"]) as flow:
        until(lambda: flow.output().count("source.start") == 4)
        lines = [json.loads(line) for line in flow.lines() if line.startswith("{")]
    started = {(line["worker"], line["partition"]) for line in lines if "partition" in line}
    assert started == {(0, 0), (1, 1), (0, 2), (1, 3)}
    assert all("worker" not in line for line in lines if line["event"] == "start")
