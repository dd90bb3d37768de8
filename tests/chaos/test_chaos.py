"""The short form of `make chaos`: a few strikes, and what it is made of."""

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from lab.servers import wait_until
from lab.servers.ports import LOCALHOST
from operators.dead_letters.already_written import SLACK
from tests.chaos.episode import run
from tests.chaos.ledger import Findings, compare
from tests.chaos.load import Place
from tests.chaos.plan import Kind, draw
from tests.chaos.proxy import Cut, Proxy
from tests.chaos.report import line
from tests.chaos.world import World
from tests.support import Account, Position
from tests.wall_clock import WallClock

PLACES: dict[Position, Place] = {
    (0, 0): "row",
    (0, 1): "row",
    (0, 2): "dead letter",
    (1, 0): "either",
}
SENT = set(PLACES)
"""Of `PLACES`."""


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.skipif(bool(WallClock.missing()), reason=str(WallClock.missing()))
@pytest.mark.parametrize("seed", [17400])
def test_nothing_is_lost_or_there_twice_whatever_is_killed(
    seed: int, servers_folder: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """Twelve strikes under load; then every message is in exactly one place, once."""
    kafka = pytestconfig.getoption("--kafka")
    plan = draw(seed, strikes=12, broker_dies=kafka == "apache")
    with World(servers_folder / "chaos", kafka) as world:
        result = run(world, plan, tmp_path)
    print(line(result))  # noqa: T201 - to repeat it
    assert result.problems == [], f"see {tmp_path}; again: python -m tests.chaos --seed {seed}"
    assert len(result.hits) == 12
    assert Kind.CLOCK in {hit.kind for hit in result.hits}
    assert result.messages > 1_000
    assert result.replays.rows > 0, "no strike hit anything"


def test_a_seed_makes_the_same_plan_again() -> None:
    """Two episodes of one seed differ in timing alone."""
    one, again, other = (draw(seed, strikes=30, broker_dies=True) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    shapes = [next(shape) for shape in [again.shapes(1)] * 5]
    assert [next(shape) for shape in [one.shapes(1)] * 5] == shapes


def test_a_row_of_strikes_has_every_kind() -> None:
    """None is left to luck for long; a broker that would lose everything is not killed."""
    kinds = {strike.kind for strike in draw(3, strikes=31, broker_dies=True).strikes}
    assert kinds == set(Kind)
    strikes = draw(3, strikes=100, broker_dies=False).strikes
    assert Kind.KILL_BROKER not in {strike.kind for strike in strikes}


def test_clocks_stay_within_what_the_stream_allows() -> None:
    """From far behind to far ahead is still less than five minutes."""
    moves = [
        strike.ahead
        for seed in range(50)
        for strike in draw(seed, strikes=9, broker_dies=True).strikes
    ]
    assert min(moves) < -120
    assert max(moves) > 120
    assert timedelta(seconds=max(moves) - min(moves)) < SLACK


def test_strikes_may_be_of_some_kinds_only() -> None:
    """To look into one of them."""
    strikes = draw(3, strikes=20, broker_dies=True, only=[Kind.FREEZE, Kind.LOSE]).strikes
    assert {strike.kind for strike in strikes} == {Kind.FREEZE, Kind.LOSE}


def test_all_in_their_places_is_no_finding() -> None:
    """Of a pair in conflict either may be stored."""
    found = Account({(0, 0)}, {(0, 1)}, Counter({(0, 2): 1, (1, 0): 1}))
    assert compare(SENT, PLACES, found, SENT).problems() == []


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (Account({(0, 0)}, set(), Counter({(0, 2): 1, (1, 0): 1})), "1 missing"),
        (Account({(0, 0), (0, 1)}, {(0, 1), (1, 0)}, Counter({(0, 2): 1})), "1 in two places"),
        (Account({(0, 0), (1, 0)}, {(0, 1)}, Counter({(0, 2): 2})), "1 doubled dead letters"),
        (Account({(0, 0), (1, 0)}, set(), Counter({(0, 1): 1, (0, 2): 1})), "1 misplaced"),
        (Account({(0, 0), (0, 1), (0, 2), (1, 0)}, set(), Counter()), "1 misplaced"),
        (
            Account({(0, 0), (0, 1), (1, 0), (1, 1)}, set(), Counter({(0, 2): 1})),
            "1 never there",
        ),
    ],
)
def test_each_way_to_be_wrong_is_found(found: Account, problem: str) -> None:
    """A proof that cannot fail proves nothing."""
    assert compare(SENT, PLACES, found, SENT).problems() == [problem]


def test_what_the_broker_lost_is_not_blamed_on_the_stream() -> None:
    """Acknowledged and not in the topic: told apart from what is missing."""
    found = Account({(0, 0), (0, 1), (1, 0)}, set(), Counter({(0, 2): 1}))
    findings = compare(SENT, PLACES, found, [*SENT, (1, 1)])
    assert findings == Findings(messages=4, vanished=[(1, 1)])


class Echo:
    """A server that answers each byte with itself, and counts connections."""

    def __init__(self) -> None:
        self._socket = socket.create_server((LOCALHOST, 0))
        self.port: int = self._socket.getsockname()[1]
        self.received = b""
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """End it."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(1):
                    self.received += data
                    connection.sendall(data)
            except OSError:
                return


@pytest.fixture
def echo() -> Iterator[Echo]:
    """A server."""
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    """A proxy before it."""
    with Proxy(echo.port) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    """A connection through the proxy that has been used."""
    with ExitStack() as stack:
        connection = socket.create_connection((LOCALHOST, proxy.port), timeout=5)
        stack.enter_context(connection)
        connection.sendall(b"1")
        assert connection.recv(1) == b"1"
        connection.settimeout(0.2)
        yield connection


def test_a_silent_cut_delivers_late(client: socket.socket, proxy: Proxy, echo: Echo) -> None:
    """Nothing arrives before it is over, then everything does."""
    proxy.cut(Cut.SILENT)
    client.sendall(b"2")
    with pytest.raises(TimeoutError):
        client.recv(1)
    assert echo.received == b"1"
    proxy.heal()
    client.settimeout(5)
    assert client.recv(1) == b"2"


def test_a_silent_cut_delivers_what_was_given_up(
    client: socket.socket, proxy: Proxy, echo: Echo
) -> None:
    """The client closes meanwhile: what it sent arrives all the same."""
    proxy.cut(Cut.SILENT)
    client.sendall(b"2")
    client.close()
    proxy.heal()
    wait_until(lambda: echo.received == b"12", timedelta(seconds=5), what="the byte")


def test_a_cut_of_answers_lets_requests_pass(
    client: socket.socket, proxy: Proxy, echo: Echo
) -> None:
    """The server acts, and the client does not know."""
    proxy.cut(Cut.ANSWERS)
    client.sendall(b"2")
    with pytest.raises(TimeoutError):
        client.recv(1)
    assert echo.received == b"12"
    proxy.heal()
    client.settimeout(5)
    assert client.recv(1) == b"2"


def test_a_cut_can_refuse(client: socket.socket, proxy: Proxy) -> None:
    """Connections are reset and new ones refused, until it is over."""
    proxy.cut(Cut.REFUSED)
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((LOCALHOST, proxy.port), timeout=5)
    proxy.heal()
    with socket.create_connection((LOCALHOST, proxy.port), timeout=5) as again:
        again.sendall(b"3")
        assert again.recv(1) == b"3"
