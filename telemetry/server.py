"""A small HTTP server beside the stream: health, metrics, and what else is given to it.

Python's own, on threads that end with the process. It takes no bodies, and few requests at once.

Whoever may connect could hold all its connections: by saying nothing, by sending a letter now and
then, by not reading the answer. So a request as a whole has a limit, and when there is no room, the
connection that has been open the longest makes room for the new one. A probe, which is short, finds
room at any time.
"""

import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Final, NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from telemetry.health import Health

__all__ = ["Response", "Route", "routes", "serve"]

MOST_AT_ONCE: Final = 16
TIMEOUT: Final = 5.0  # seconds for a client to send its whole request and take the answer
LEAVING: Final = 1.0  # seconds that a client is waited for which has to make room


class Response(NamedTuple):
    """What a route answers."""

    status: HTTPStatus
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


Route = Callable[[], Response]


def routes(health: Health) -> dict[str, Route]:
    """Give what every process answers, by path; others may be added.

    :arg health: Of this process.

    """
    return {
        "/health/live": lambda: _answer(*health.live()),
        "/health/ready": lambda: _answer(*health.ready()),
        "/metrics": lambda: Response(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(REGISTRY)),
    }


def _answer(ok: bool, content: dict[str, Any]) -> Response:  # noqa: FBT001 - from health
    status = HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE
    return Response(status, "application/json", json.dumps(content).encode() + b"\n")


class _Handler(BaseHTTPRequestHandler):
    server_version = "fraud"
    sys_version = ""
    table: ClassVar[Mapping[str, Route]]

    def do_GET(self) -> None:
        route = self.table.get(self.path.partition("?")[0])
        found = Response(HTTPStatus.NOT_FOUND, "text/plain", b"not found\n")
        response = route() if route else found
        self.send_response(response.status)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in response.headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    do_HEAD = do_GET  # noqa: N815 - the name that the class looks for

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        """Say nothing: probes come every few seconds."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 4 * MOST_AT_ONCE  # with the default of 5 a probe may wait for seconds

    def __init__(self, address: tuple[str, int], handler: type[_Handler], limit: float) -> None:
        self._limit = limit
        self._slots = threading.BoundedSemaphore(MOST_AT_ONCE)
        self._lock = threading.Lock()
        self._open: dict[socket.socket, float] = {}  # since when, the oldest first
        super().__init__(address, handler)

    def server_bind(self) -> None:
        # Not HTTPServer's, which asks the name service for the host's name.
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            self._cut_off(opened_before=time.monotonic(), most=1)
            if not self._slots.acquire(timeout=LEAVING):
                super().shutdown_request(request)
                return
        with self._lock:
            self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def shutdown_request(self, request: Any) -> None:
        with self._lock:  # so that nobody cuts off another connection that has its number by then
            self._open.pop(request, None)
            super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut off those that take too long; called twice a second."""
        self._cut_off(opened_before=time.monotonic() - self._limit, most=MOST_AT_ONCE)

    def _cut_off(self, *, opened_before: float, most: int) -> None:
        """Let the threads of the oldest connections see their end."""
        with self._lock:
            late = [each for each, since in self._open.items() if since <= opened_before]
            for request in late[:most]:
                del self._open[request]
                with suppress(OSError):  # the client has gone by itself
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that goes away is no news."""


def serve(host: str, port: int, table: Mapping[str, Route], *, limit: float = TIMEOUT) -> int:
    """Answer until the process ends.

    :arg host: Address to listen on.

    :arg port: Likewise; 0 for any.

    :arg table: Routes by path.

    :arg limit: Seconds for a client to send its whole request and take the answer.

    :returns: The port.

    :raises OSError: It cannot listen there.

    """
    server = _Server((host, port), type("Handler", (_Handler,), {"table": table}), limit)
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return int(server.server_address[1])
