"""Spans of each part of the stream, as a collector gets them over OTLP."""

import socket
from collections.abc import Iterator

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from telemetry import TRACE_ID, tracing
from tests.integration.tracing.collector import (
    SECRET,
    Collector,
    attributes,
    context,
    parent,
    parsed,
    traceparent,
)
from tests.kit.checkout import run_script
from tests.kit.factories import message, received, scored


@pytest.fixture
def traced(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """Tracing in this process; `tracing.end` sends what waits."""
    # Not the limit that the test is about.
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "1000")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    tracing.start()
    yield collector
    tracing.end()


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
    """With a collector that does not answer, spans are dropped; the end does not wait for it."""
    # In a process of its own, since the exporter's thread tries on until its process ends.
    script = (
        "import threading\n"
        "from telemetry import tracing\n"
        "tracing.start()\n"
        "for _ in range(5_000):\n"
        "    with tracing.request(1):\n"
        "        pass\n"
        "tracing.end()\n"
        "print('last spans' in {thread.name for thread in threading.enumerate()})\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv(
            "OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}"
        )
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")
        assert run_script(script) == "True", "it waited until the exporter had given up"
