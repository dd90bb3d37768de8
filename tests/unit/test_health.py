"""Live and ready, on a clock that the tests move, and the server that says it."""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import timedelta
from http import HTTPStatus
from types import SimpleNamespace

import httpx
import pytest

from lab.servers import wait_until
from telemetry import (
    Health,
    Progress,
    beat,
    database_waits,
    move_breaker,
    name_worker,
    routes,
    serve,
)
from telemetry.server import MOST_AT_ONCE, Response

LIVE, EPOCH = timedelta(seconds=120), timedelta(seconds=60)
Tick = Callable[[float], None]
LIMIT = timedelta(seconds=60)
"""For what takes a second where nothing else runs."""


@pytest.fixture
def tick(monkeypatch: pytest.MonkeyPatch) -> Tick:
    """Move the clock on; no worker is known yet."""
    now = [1_000.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], time=time.time)
    for module in ("health", "progress", "waiting", "worker"):
        monkeypatch.setattr(f"telemetry.{module}.time", clock)
    monkeypatch.setattr("telemetry.worker._workers", {})

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


def _working(progress: Progress, *, partitions: int, index: int = 0, count: int = 1) -> Health:
    """Health of a process whose one worker has all its partitions."""
    health = Health(progress, workers=1, live_timeout=LIVE, epoch_timeout=EPOCH)
    health.dependencies_answered(["PostgreSQL"])
    name_worker(index, count)
    progress.partitions = partitions
    for partition in range(index, partitions, count):
        progress.assign(partition)
    return health


def test_a_worker_is_alive_while_it_gives_signs(tick: Tick) -> None:
    """And no longer than the limit without."""
    health = _working(Progress(), partitions=2)
    tick(119)
    beat()
    tick(119)
    assert health.live() == (True, {"status": "ok"})

    tick(2)
    reason = "no sign of life of a worker for 121 s"
    assert health.live() == (False, {"status": "not live", "reason": reason})


def test_workers_that_wait_for_a_paused_one_are_alive(
    tick: Tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its epoch does not end, so Bytewax does not call the others of the process."""
    progress = Progress()
    health = _working(progress, partitions=2, index=0, count=2)
    monkeypatch.setattr("telemetry.worker.threading", SimpleNamespace(get_ident=lambda: -1))
    name_worker(1, 2)
    progress.assign(1)
    tick(119)
    beat()  # of the second worker alone
    tick(2)
    assert health.live()[0]

    tick(119)
    assert not health.live()[0]


def test_a_worker_without_partitions_is_fine(tick: Tick) -> None:
    """Nothing calls it, so nothing is expected of it."""
    health = _working(Progress(), partitions=2, index=2, count=3)
    tick(10_000)

    assert health.live()[0]
    assert health.ready()[0]


def test_a_process_is_not_ready_before_all_its_workers_are_there(tick: Tick) -> None:
    """The first may be one that has no partitions."""
    progress = Progress()
    health = Health(progress, workers=2, live_timeout=LIVE, epoch_timeout=EPOCH)
    health.dependencies_answered(["PostgreSQL"])
    progress.partitions = 1
    name_worker(1, 2)

    assert not health.ready()[0]
    assert health.live() == (True, {"status": "assembling"})
    tick(0)


def test_a_worker_that_never_gets_its_partitions_is_ended(tick: Tick) -> None:
    """It came together with the others, and then they hung."""
    progress = Progress()
    health = _working(progress, partitions=0)
    progress.partitions = 1
    tick(119)
    beat()
    assert health.live() == (True, {"status": "assembling"})
    assert not health.ready()[0]

    tick(2)
    beat()
    assert not health.live()[0]


def test_ready_needs_epochs_that_end(tick: Tick) -> None:
    """Of every partition: the one that is furthest behind counts."""
    progress = Progress()
    health = _working(progress, partitions=2)
    tick(59)
    progress.epoch_ended(0)
    assert health.ready()[0]

    tick(2)
    ok, content = health.ready()
    assert (ok, content["status"], content["parts"]["epoch"]["ok"]) == (False, "not ready", False)

    progress.epoch_ended(1)
    assert health.ready()[0]


def test_ready_needs_messages_that_are_finished(tick: Tick) -> None:
    """Epochs end whatever the database does: the worker that is furthest behind counts."""
    progress = Progress()
    health = _working(progress, partitions=1)
    progress.in_hand(0, 5, moves=True)
    progress.in_hand(1, 0, moves=True)
    tick(61)
    progress.epoch_ended(0)
    progress.in_hand(0, 5, moves=False)
    progress.in_hand(1, 0, moves=True)
    ok, content = health.ready()
    assert (ok, content["status"], content["parts"]["done"]["ok"]) == (False, "not ready", False)

    move_breaker(None, "open")  # of an outage of the model the breaker tells
    assert health.ready()[0]
    move_breaker("open", None)

    progress.in_hand(0, 5, moves=True)
    assert health.ready()[0]


def test_ready_needs_the_dependencies_of_the_start(tick: Tick) -> None:
    """Before they have answered nothing else counts."""
    progress = Progress()
    health = _working(progress, partitions=1)
    health.dependencies_answered([])

    assert not health.ready()[0]
    tick(0)


def test_a_database_that_is_waited_for_is_told(tick: Tick) -> None:
    """The process is ready, and degraded; the reason that has lasted longest is the one."""
    health = _working(Progress(), partitions=1)
    database_waits("rows", "DiskFull 53100")
    tick(2)
    database_waits("session", "connection failed")
    database_waits("rows", "TooManyConnections 53300")
    try:
        ok, content = health.ready()
        assert (ok, content["status"]) == (True, "degraded")
        assert content["parts"]["database"] == {
            "ok": True, "degraded": True, "reason": "TooManyConnections 53300", "seconds": 2.0,
        }  # fmt: skip
    finally:
        for who in ("rows", "session"):
            database_waits(who, None)
    assert health.ready()[1]["status"] == "ok"
    assert health.ready()[1]["parts"]["database"] == {"ok": True, "degraded": False}


def _client(port: int) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False)


def test_the_server_answers_its_routes_and_nothing_else() -> None:
    """By path, whatever the query; no other methods, no bodies."""
    health = Health(Progress(), workers=1, live_timeout=LIVE, epoch_timeout=EPOCH)
    more = {"/": lambda: Response(HTTPStatus.OK, "text/html", b"<p>hi")}
    with _client(serve("127.0.0.1", 0, routes(health) | more)) as client:
        assert client.get("/").text == "<p>hi"
        assert client.get("/health/ready").status_code == 503
        metrics = client.get("/metrics?name[]=x")
        assert "# TYPE fraud_build_info gauge" in metrics.text
        head = client.head("/metrics")
        assert (head.status_code, head.content) == (200, b"")
        assert client.get("/nothing").status_code == 404
        assert client.post("/metrics", content=b"x").status_code == 501


def _ok() -> Response:
    return Response(HTTPStatus.OK, "text/plain", b"")


def test_clients_that_say_nothing_leave_room_for_a_probe() -> None:
    """However many hold a connection: the one that has been there longest makes room."""
    port = serve("127.0.0.1", 0, {"/": _ok}, limit=600)
    with ExitStack() as opened:
        silent = [
            opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            for _ in range(MOST_AT_ONCE)
        ]
        with _client(port) as client:
            for _ in range(3):
                assert client.get("/").status_code == 200
        assert silent[0].recv(1) == b""
        silent[-1].sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert silent[-1].recv(12) == b"HTTP/1.0 200"


@pytest.mark.parametrize("beginning", [b"G", b"GET / HTTP/1.0\r\nX: "], ids=["line", "header"])
def test_a_client_that_sends_slowly_is_cut_off(beginning: bytes) -> None:
    """A letter now and then is no reason to wait for longer: the limit is that of the request."""
    port = serve("127.0.0.1", 0, {"/": _ok}, limit=1)
    with socket.create_connection(("127.0.0.1", port), timeout=0.1) as slow:
        slow.sendall(beginning)

        def is_cut_off() -> bool:
            try:
                slow.sendall(b"x")
                return slow.recv(1) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        wait_until(is_cut_off, LIMIT, what="the end of a slow client")


def test_a_client_that_does_not_read_is_cut_off() -> None:
    """It holds a connection as well as one that does not send."""

    def answering() -> int:
        return sum("process_request" in thread.name for thread in threading.enumerate())

    large = Response(HTTPStatus.OK, "text/plain", bytes(50_000_000))
    port = serve("127.0.0.1", 0, {"/": lambda: large}, limit=1)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as deaf:
        deaf.sendall(b"GET / HTTP/1.0\r\n\r\n")
        wait_until(lambda: answering() > 0, LIMIT, what="an answer that is not read")
        wait_until(lambda: answering() == 0, LIMIT, what="its end")
        received = 0
        with suppress(ConnectionResetError):
            while chunk := deaf.recv(1_000_000):
                received += len(chunk)
        assert received < len(large.body)
