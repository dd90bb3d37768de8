"""Traces of the stream, off unless `start` was called: what the steps use by name.

OpenTelemetry is an extra and is known to `telemetry.spans` alone, which is imported at `start`.
While tracing is off each function here is one look at an attribute.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from telemetry.spans import Spans

__all__ = [
    "Message",
    "Received",
    "Scored",
    "TracingError",
    "answered",
    "end",
    "headers",
    "request",
    "scoring",
    "start",
    "traceparent",
    "writing",
]


class TracingError(Exception):
    """Tracing is asked for and cannot be had. The message names the setting."""


class Message(Protocol):
    """What is looked at of a message."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        """`traceparent` is taken from them."""

    @property
    def topic(self) -> str:
        """Told."""

    @property
    def partition(self) -> int:
        """Told."""

    @property
    def offset(self) -> int:
        """Told."""


class Received(Protocol):
    """What is looked at of a transaction that is scored."""

    @property
    def message(self) -> Message:
        """That it came in."""


class Scored(Protocol):
    """What is looked at of a row."""

    @property
    def trace(self) -> str | None:
        """`traceparent` of the batch in which it was scored."""


class _Tracing:
    spans: "Spans | None" = None


_tracing: Final = _Tracing()
_NOTHING: Final = nullcontext()


def start() -> None:
    """Trace from now on; OpenTelemetry's own variables say where to and how much.

    :raises TracingError: The extra is not installed, or one of those variables is wrong.

    """
    try:
        from telemetry.spans import Spans  # noqa: PLC0415 - an extra
    except ImportError:
        msg = (
            "TRACING: needs opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http,"
            " which requirements-tracing.lock has"
        )
        raise TracingError(msg) from None
    try:
        _tracing.spans = Spans()
    except ValueError as error:
        msg = f"TRACING: a variable of OpenTelemetry (OTEL_…) is wrong: {error}"
        raise TracingError(msg) from None


def end() -> None:
    """Send what waits, for a short time at most, and trace no more."""
    spans, _tracing.spans = _tracing.spans, None
    if spans is not None:
        spans.end()


def scoring(batch: Sequence[Received]) -> AbstractContextManager[None]:
    """Trace the scoring of a batch, linked to the contexts that its messages' headers name."""
    spans = _tracing.spans
    return _NOTHING if spans is None else spans.scoring(batch)


def request(transactions: int) -> AbstractContextManager[None]:
    """Trace a request to the model."""
    spans = _tracing.spans
    return _NOTHING if spans is None else spans.request(transactions)


def answered(status: int) -> None:
    """Note the status of its answer."""
    spans = _tracing.spans
    if spans is not None:
        spans.answered(status)


def writing(rows: Sequence[Scored]) -> AbstractContextManager[None]:
    """Trace a write to the database, within the batch of the first row, linked to the others'."""
    spans = _tracing.spans
    return _NOTHING if spans is None else spans.writing(rows)


def headers() -> dict[str, str]:
    """The context that is going on, as W3C's headers; none if there is none."""
    spans = _tracing.spans
    return {} if spans is None else spans.headers()


def traceparent() -> str | None:
    """The same as one text; None if there is none."""
    return headers().get("traceparent")
