"""A collector of traces, and what it was sent."""

import gzip
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

SECRET = "4929 1111 2222 3333"  # noqa: S105 - a customer's, for a description


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
