"""Traces, as a collector gets them over OTLP: of the whole stream, and of its parts."""

import gzip
import json
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from signal import SIGTERM
from typing import Any
from uuid import UUID

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from lab.servers import KafkaServer, ModelApi
from telemetry import TRACE_ID, tracing
from tests.factories import message, received, scored, transaction_json
from tests.support import (
    Flow,
    Outgoing,
    Topics,
    environment,
    header,
    make_recovery,
    positions,
    produce,
    read_all,
    recovery_options,
    run_script,
    wait_until,
)

SECRET = "4929 1111 2222 3333"  # noqa: S105 - a customer's, for a description
LONG = timedelta(seconds=40)
"""For what takes a second where nothing else runs."""

STOP_AND_FLUSH = timedelta(seconds=7)
"""Less than the exporter's own limit of ten seconds, which must not be waited for."""


class Listener:
    """A server on a thread that answers what `reply` gives, and keeps what it was sent."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                # An answer first would let a test look before it is kept.
                names = {name.lower(): value for name, value in self.headers.items()}
                outer.requests.append((names, body))
                status, answer = outer.reply(body)
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def reply(self, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer."""
        del body
        return 200, b""

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Collector(Listener):
    """Receives spans."""

    def spans(self, name: str) -> list[Span]:
        """Those whose names begin so."""
        return [
            span
            for _, body in self.requests
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
            if span.name.startswith(name)
        ]


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
def collector() -> Iterator[Collector]:
    """A collector that takes everything."""
    with closing(Collector()) as listener:
        yield listener


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


@pytest.fixture
def traced(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """Tracing in this process; `tracing.end` sends what waits."""
    # Not the limit that the test is about.
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "1000")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    tracing.start()
    yield collector
    tracing.end()


def traceparent() -> str:
    """A producer's context."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


Context = tuple[bytes, bytes]
"""Ids of a trace and of a span in it."""


def context(span: Span | Span.Link) -> Context:
    """Of a span, or of what it is linked to."""
    return span.trace_id, span.span_id


def parent(span: Span) -> Context:
    """What it is within."""
    return span.trace_id, span.parent_span_id


def parsed(text: str | None) -> Context:
    """What a `traceparent` names; it has to be of what is sampled."""
    assert text is not None
    _, trace, span, flags = text.split("-")
    assert int(flags, 16) & 1
    return bytes.fromhex(trace), bytes.fromhex(span)


def attributes(span: Span) -> dict[str, Any]:
    """Those that are numbers or texts."""
    return {each.key: each.value.int_value or each.value.string_value for each in span.attributes}


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
    """Whether nobody is there or nobody answers: all is stored, and the end comes in time."""
    url = variables["DATABASE_URL"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = 1 if kind == "closed" else silent.getsockname()[1]
        variables |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
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


def test_headers_that_cannot_be_sent_are_not_shown(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As one from a file with an end of line in its middle: spans are lost, the log says so."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    secret = SECRET.replace(" ", "")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"token={secret}%0A{secret}")
    tracing.start()
    with tracing.request(1):
        pass
    tracing.end()
    assert "Failed to export spans" in caplog.text
    assert secret not in caplog.text
    assert "InvalidHeader" in caplog.text
    assert collector.requests == []


def test_a_batch_tells_counts_and_positions(traced: Collector) -> None:
    """Of each partition the first and the last offset."""
    given = [(0, 6), (0, 5), (0, 8), (0, 7), (3, 1)]
    batch = [received(of=message(partition=part, offset=at)) for part, at in given]
    with tracing.scoring(batch):
        pass
    tracing.end()
    [span] = traced.spans("process transactions")
    assert attributes(span)["messaging.batch.message_count"] == 5
    [offsets] = [each.value for each in span.attributes if each.key == "fraud.offsets"]
    assert [each.string_value for each in offsets.array_value.values] == ["0:5-8", "3:1-1"]


def test_links_are_bounded_valid_and_there_once(traced: Collector) -> None:
    """Whatever producers put into the header."""
    same = traceparent()
    junk = [b"", b"\xff", b"x" * 10_000, b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01", None]
    headers = [*junk, same.encode(), same.encode()]
    for values in (headers, [traceparent().encode() for _ in range(300)]):
        batch = [received(of=message(headers=[("traceparent", value)])) for value in values]
        with tracing.scoring(batch):
            pass
    tracing.end()
    few, many = traced.spans("process")
    assert [context(link) for link in few.links] == [parsed(same)]
    assert len(many.links) == 128


def test_a_write_belongs_to_its_batches(traced: Collector) -> None:
    """It is within the first one's span and linked to the others'; rows without are no matter."""
    first, second = traceparent(), traceparent()
    rows = [scored()._replace(trace=trace) for trace in (None, first, first, second)]
    with tracing.writing(rows):
        pass
    with tracing.writing([scored()]):
        pass
    tracing.end()
    span, alone = traced.spans("INSERT")
    assert parent(span) == parsed(first)
    assert [context(link) for link in span.links] == [parsed(second)]
    assert alone.parent_span_id == b""


def test_an_error_is_told_by_its_class_alone(traced: Collector) -> None:
    """Its text may hold what was in a message."""
    with pytest.raises(LookupError), tracing.writing([]):
        raise LookupError(SECRET)
    tracing.end()
    [span] = traced.spans("INSERT")
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert attributes(span)["error.type"] == "LookupError"
    assert not any(SECRET.encode() in body for _, body in traced.requests)


def test_the_log_names_the_trace_that_is_going_on(traced: Collector) -> None:
    """And no trace after it."""
    with tracing.scoring([received()]):
        inside = TRACE_ID.get()
    assert TRACE_ID.get() is None
    tracing.end()
    [span] = traced.spans("process")
    assert inside == span.trace_id.hex()


def test_how_much_is_sampled_is_for_the_standard_variables_to_say(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that is not sampled is not sent, and the model is told so."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    tracing.start()
    with tracing.scoring([received()]), tracing.request(1):
        told = tracing.headers()["traceparent"]
    tracing.end()
    assert int(told.rpartition("-")[2], 16) & 1 == 0
    assert collector.requests == []


def test_a_full_queue_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a collector that does not answer, spans are dropped and the end is bounded."""
    # In a process of its own, since the exporter's thread tries on until its process ends.
    script = (
        "import time\n"
        "from telemetry import tracing\n"
        "tracing.start()\n"
        "began = time.monotonic()\n"
        "for _ in range(5_000):\n"
        "    with tracing.request(1):\n"
        "        pass\n"
        "tracing.end()\n"
        "print(time.monotonic() - began)\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv(
            "OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}"
        )
        seconds = run_script(script)
    assert float(seconds) < STOP_AND_FLUSH.total_seconds()
