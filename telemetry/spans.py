"""Spans through OpenTelemetry's SDK: the only module that knows it, see `telemetry.tracing`.

Spans wait in a queue of limited length and are sent by a thread of the SDK's own: a collector that
is slow, wrong or not there costs spans and nothing else. What a span tells is a count, a position,
a status or the name of an error's class; never its text, which could hold what was in a message.
"""

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    SpanContext,
    SpanKind,
    StatusCode,
    format_trace_id,
    get_current_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.re import parse_env_headers
from opentelemetry.util.types import AttributeValue

from telemetry import tracing
from telemetry.logs import TRACE_ID
from telemetry.metrics import VERSION

__all__ = ["LAST_FLUSH", "Spans"]

SERVICE: Final = "fraud-scoring-stream"
MOST_LINKS: Final = 128  # of a span; OpenTelemetry's own default
MOST_RANGES: Final = 32  # of offsets that a span tells
LAST_FLUSH: Final = 2.0  # seconds that the end of the process waits for the collector

_propagator: Final = TraceContextTextMapPropagator()


def _refuse(_record: logging.LogRecord) -> bool:
    msg = (
        "OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_TRACES_HEADERS: must be name=value,"
        " percent-encoded, separated by commas"
    )
    raise ValueError(msg)


def _unquoted(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(
            type(each).__name__ if isinstance(each, ValueError) else each for each in record.args
        )
    return True


# A header may hold a token. OpenTelemetry logs one that it cannot read as a whole, and goes on
# without; what it can read and not send, the error quotes.
logging.getLogger(parse_env_headers.__module__).addFilter(_refuse)
logging.getLogger(OTLPSpanExporter.__module__).addFilter(_unquoted)


class Spans:
    """Makes spans and sends them, as the `OTEL_…` variables say.

    :raises ValueError: One of them is wrong.

    """

    def __init__(self) -> None:
        resource = Resource.create()
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            named = {"service.name": SERVICE, "service.version": VERSION}
            resource = resource.merge(Resource(named))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer(SERVICE, VERSION)
        self._over = threading.Event()
        # Begun here: from 3.12 on Python begins no thread while it ends.
        self._last = threading.Thread(target=self._send_last, name="last spans", daemon=True)
        self._last.start()

    def end(self) -> None:
        """Send what waits, within `LAST_FLUSH`."""
        self._over.set()
        self._last.join(LAST_FLUSH)

    def _send_last(self) -> None:
        self._over.wait()
        # Its own limit is half a minute, and no argument leads there.
        self._provider.shutdown()

    def scoring(self, batch: Sequence[tracing.Received]) -> AbstractContextManager[None]:
        """See `tracing.scoring`."""
        topic = batch[0].message.topic if batch else ""
        return self._span(
            f"process {topic}",
            SpanKind.CONSUMER,
            Context(),
            links=(_traceparent(item.message) for item in batch),
            attributes={
                "messaging.system": "kafka",
                "messaging.operation.type": "process",
                "messaging.destination.name": topic,
                "messaging.batch.message_count": len(batch),
                "fraud.offsets": _offsets(batch),
            },
        )

    def request(self, transactions: int) -> AbstractContextManager[None]:
        """See `tracing.request`."""
        return self._span(
            "POST",
            SpanKind.CLIENT,
            None,
            links=(),
            attributes={"http.request.method": "POST", "fraud.transactions": transactions},
        )

    def answered(self, status: int) -> None:
        """See `tracing.answered`."""
        get_current_span().set_attribute("http.response.status_code", status)

    def writing(self, rows: Sequence[tracing.Scored]) -> AbstractContextManager[None]:
        """See `tracing.writing`."""
        batches = list(dict.fromkeys(row.trace for row in rows if row.trace))
        return self._span(
            "INSERT transactions",
            SpanKind.CLIENT,
            _propagator.extract({"traceparent": batches[0]}, Context()) if batches else Context(),
            links=batches[1:],
            attributes={
                "db.system.name": "postgresql",
                "db.operation.name": "INSERT",
                "db.collection.name": "transactions",
                "db.operation.batch.size": len(rows),
            },
        )

    def headers(self) -> dict[str, str]:
        """See `tracing.headers`."""
        carrier: dict[str, str] = {}
        _propagator.inject(carrier)
        return carrier

    @contextmanager
    def _span(
        self,
        name: str,
        kind: SpanKind,
        parent: Context | None,
        *,
        links: Iterable[str | None],
        attributes: dict[str, AttributeValue],
    ) -> Iterator[None]:
        with self._tracer.start_as_current_span(
            name,
            parent,
            kind,
            attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            if span.is_recording():  # links are work, and not needed for what is not sampled
                for link in _contexts(links):
                    span.add_link(link)
            context = span.get_span_context()
            token = TRACE_ID.set(format_trace_id(context.trace_id) if context.is_valid else None)
            try:
                yield
            except Exception as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(StatusCode.ERROR)
                raise
            finally:
                TRACE_ID.reset(token)


def _contexts(traceparents: Iterable[str | None]) -> Iterator[SpanContext]:
    """The valid ones, each once, and not too many."""
    different = dict.fromkeys(each for each in traceparents if each)
    for each in islice(different, MOST_LINKS):
        extracted = _propagator.extract({"traceparent": each}, Context())
        context = get_current_span(extracted).get_span_context()
        if context.is_valid:
            yield context


def _traceparent(message: tracing.Message) -> str | None:
    # Not `tracestate`, in which a producer may say what it likes.
    for name, value in message.headers:
        if name == "traceparent" and value:
            return value.decode(errors="replace")
    return None


def _offsets(batch: Sequence[tracing.Received]) -> list[str]:
    """`partition:first-last` of each partition."""
    found: dict[int, tuple[int, int]] = {}
    for item in batch:
        partition, offset = item.message.partition, item.message.offset
        first, last = found.get(partition, (offset, offset))
        found[partition] = min(first, offset), max(last, offset)
    ranges = ((partition, *ends) for partition, ends in sorted(found.items()))
    return [f"{partition}:{first}-{last}" for partition, first, last in islice(ranges, MOST_RANGES)]
