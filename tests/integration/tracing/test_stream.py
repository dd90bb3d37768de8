"""Traces of the whole stream, as a collector gets them over OTLP."""

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from signal import SIGTERM
from typing import Any
from uuid import UUID

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from lab.servers import KafkaServer, ModelApi, wait_until
from tests.integration.tracing.collector import (
    SECRET,
    Collector,
    Listener,
    attributes,
    context,
    parent,
    parsed,
    traceparent,
)
from tests.kit.accounts import positions
from tests.kit.environment import environment
from tests.kit.factories import transaction_json
from tests.kit.flow import Flow
from tests.kit.kafka import Outgoing, Topics, header, produce, read_all
from tests.kit.recovery import make_recovery, recovery_options

STOP_AND_FLUSH = timedelta(seconds=25)
"""Less than the half minute that the SDK gives its exporter, which must not be waited for."""

LONG = timedelta(seconds=40)
"""For what takes a second where nothing else runs."""


class Model(Listener):
    """Answers as the native contract says, and refuses what is called poison."""

    def reply(self, body: bytes) -> tuple[int, bytes]:
        """Predictions, or a refusal that names the culprit."""
        rows = json.loads(body)
        bad = [place for place, row in enumerate(rows) if row["description"] == "poison"]
        if bad:
            detail = [{"loc": ["body", place, "description"]} for place in bad]
            return 422, json.dumps({"detail": detail}).encode()
        answer = [
            {"transaction_id": row["id"], "prediction": "legitimate", "fraud_score": 0.5}
            for row in rows
        ]
        return 200, json.dumps(answer).encode()


@pytest.fixture
def model() -> Iterator[Model]:
    """A model that keeps what it was asked."""
    with closing(Model()) as listener:
        yield listener


@pytest.fixture
def variables(
    broker: KafkaServer, topics: Topics, database_url: str, model_api: ModelApi
) -> dict[str, str]:
    """Environment of a stream that is traced."""
    given = environment(broker, topics, database_url=database_url, model_url=model_api.url)
    return given | {"TRACING": "true"}


def payment(number: int, **fields: Any) -> bytes:
    """A valid transaction."""
    return json.dumps(transaction_json(id=str(UUID(int=number)), **fields)).encode()


def test_a_message_is_followed_from_its_producer_to_its_end(
    broker: KafkaServer,
    variables: dict[str, str],
    model: Model,
    collector: Collector,
    tmp_path: Path,
) -> None:
    """Links to producers, the model's header, the write within the batch, the dead letter's header.

    And nothing of what is in the messages.
    """
    url = variables["DATABASE_URL"]
    values = [payment(1, description=SECRET), payment(2), payment(3, description="poison")]
    values += [b"{", payment(4, amount="much")]
    contexts = [traceparent() for _ in values]
    produce(
        broker,
        variables["KAFKA_TOPIC"],
        [
            Outgoing(value, headers=[("traceparent", each.encode())], partition=0)
            for value, each in zip(values, contexts, strict=True)
        ],
    )
    variables |= {"ML_API_URL": model.url, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    with Flow(tmp_path, variables, recovery_options(make_recovery(tmp_path))) as flow:
        letters = read_all(broker, variables["KAFKA_ERROR_TOPIC"], at_least=3, limit=LONG)
        wait_until(lambda: len(positions(url, "transactions")) == 2, LONG)
        flow.signal(SIGTERM)
        assert flow.wait() == 0

    batches = {context(span): span for span in collector.spans("process ")}
    links = {context(link) for span in batches.values() for link in span.links}
    assert links == {parsed(each) for each in contexts[:3]}
    assert all(span.kind == Span.SPAN_KIND_CONSUMER for span in batches.values())
    assert all(span.parent_span_id == b"" for span in batches.values())

    # The first request is the check at start, which belongs to no batch.
    [check, *requests] = collector.spans("POST")
    assert check.parent_span_id == b""
    assert {parent(span) for span in requests} <= batches.keys()
    assert {attributes(span)["http.response.status_code"] for span in requests} == {200, 422}
    seen = [parsed(headers["traceparent"]) for headers, _ in model.requests]
    assert sorted(seen) == sorted(context(span) for span in [check, *requests])

    writes = collector.spans("INSERT")
    assert writes
    assert {parent(span) for span in writes} <= batches.keys()
    assert sum(attributes(span)["db.operation.batch.size"] for span in writes) == 2

    [refused] = [each for each in letters if header(each, "dlq.stage") == "score"]
    assert parsed(header(refused, "dlq.traceparent")) in batches
    assert header(refused, "traceparent") == contexts[2]
    # What failed before it was in a batch leads back to its producer alone.
    for stage, sent in (("decode", contexts[3]), ("validate", contexts[4])):
        [broken] = [each for each in letters if header(each, "dlq.stage") == stage]
        assert header(broken, "dlq.traceparent") is None
        assert header(broken, "traceparent") == sent

    assert not any(SECRET.encode() in body for _, body in collector.requests)


@pytest.mark.parametrize("kind", ["closed", "silent"])
def test_a_dead_collector_does_not_hold_the_stream_up(
    broker: KafkaServer, variables: dict[str, str], tmp_path: Path, kind: str
) -> None:
    """Whether nobody is there or nobody answers: all is stored, and no answer is waited for."""
    url = variables["DATABASE_URL"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = 1 if kind == "closed" else silent.getsockname()[1]
        variables |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "600",
            "BATCH_SIZE": "1",
            "OTEL_BSP_MAX_QUEUE_SIZE": "20",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10",
        }
        produce(broker, variables["KAFKA_TOPIC"], [payment(number) for number in range(200)])
        with Flow(tmp_path, variables, recovery_options(make_recovery(tmp_path))) as flow:
            wait_until(lambda: len(positions(url, "transactions")) == 200, LONG)
            flow.signal(SIGTERM)
            assert flow.wait(STOP_AND_FLUSH) == 0
            assert "Traceback" not in flow.output()


def test_without_the_extra_the_stream_does_not_start(
    broker: KafkaServer, topics: Topics, tmp_path: Path
) -> None:
    """It ends at once, with one line."""
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").touch()
    variables = environment(broker, topics, database_url="postgresql://h/d", model_url="http://h")
    flow = Flow(tmp_path, variables | {"TRACING": "true", "PYTHONPATH": str(tmp_path)})
    with flow:
        assert flow.wait() == 1
    [line] = flow.lines()
    assert line.startswith("cannot start: TRACING: ")


@pytest.mark.parametrize("header", ["Bearer {}", "Authorization: {}", "ok=1,token={}é", "={}"])
def test_headers_that_cannot_be_read_are_named_and_not_shown(
    broker: KafkaServer, topics: Topics, tmp_path: Path, header: str
) -> None:
    """The stream does not start; a token in them is in no log."""
    variables = environment(broker, topics, database_url="postgresql://h/d", model_url="http://h")
    headers = {"TRACING": "true", "OTEL_EXPORTER_OTLP_HEADERS": header.format(SECRET)}
    with Flow(tmp_path, variables | headers) as flow:
        assert flow.wait() == 1
    [line] = flow.lines()
    assert line.startswith("cannot start: TRACING: ")
    assert "OTEL_EXPORTER_OTLP_HEADERS" in line
    assert SECRET not in line
