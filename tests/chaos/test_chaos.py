"""The short form of `make chaos`: a few strikes, and what it is made of."""

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from pathlib import Path

import pytest

from lab.servers import KafkaServer, wait_until
from lab.servers.ports import LOCALHOST
from tests.chaos.episode import run
from tests.chaos.ledger import Entry, Findings, compare, letters_of
from tests.chaos.messages import Messages, Place
from tests.chaos.plan import MOST_STREAMS, SHAPES, Kind, draw
from tests.chaos.proxy import Cut, Proxy
from tests.chaos.report import line, outline
from tests.chaos.world import World
from tests.kit.accounts import Position
from tests.kit.kafka import Outgoing, Topics, produce
from tests.kit.wall_clock import WallClock

PLACES: dict[Position, Place] = {
    (0, 0): "row",
    (0, 1): "row",
    (0, 2): "dead letter",
    (1, 0): "either",
}


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.skipif(bool(WallClock.missing()), reason=str(WallClock.missing()))
@pytest.mark.parametrize("seed", [18918])
def test_nothing_is_lost_or_there_twice_whatever_is_killed(
    seed: int, servers_folder: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """Twelve strikes under load, with a model that changes its mind; each message in one place."""
    kafka = pytestconfig.getoption("--kafka")
    plan = draw(seed, strikes=12, apache=kafka == "apache")
    print(outline(plan))  # noqa: T201 - to understand what failed
    with World(servers_folder / "chaos", kafka) as world:
        result = run(world, plan, tmp_path)
    print(line(result))  # noqa: T201 - to repeat it
    assert result.problems == [], f"see {tmp_path}; again: python -m tests.chaos --seed {seed}"
    assert len(result.hits) == 12
    assert {Kind.CLOCK, Kind.RESIZE} <= {hit.strike.kind for hit in result.hits}
    assert plan.fickle > 0
    assert result.messages > 1_000
    assert sum(replays.rows for replays in result.replays) > 0, "no strike hit anything"


def test_a_seed_makes_the_same_plan_again() -> None:
    """Two episodes of one seed differ in timing alone."""
    one, again, other = (draw(seed, strikes=30, apache=True) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_a_row_of_strikes_has_every_kind() -> None:
    """None is left to luck for long; a broker that would lose everything is not killed."""
    kinds = {strike.kind for strike in draw(3, strikes=39, apache=True).strikes}
    assert kinds == set(Kind)
    strikes = draw(3, strikes=100, apache=False).strikes
    assert Kind.KILL_BROKER not in {strike.kind for strike in strikes}


def test_clocks_stay_within_what_the_stream_allows() -> None:
    """From far behind to far ahead is still less than five minutes."""
    moves = [
        strike.ahead for seed in range(50) for strike in draw(seed, strikes=9, apache=True).strikes
    ]
    assert min(moves) < -120
    assert max(moves) > 120
    assert max(moves) - min(moves) < 5 * 60


def test_strikes_may_be_of_some_kinds_only() -> None:
    """To look into one of them."""
    strikes = draw(3, strikes=20, apache=True, only=[Kind.FREEZE, Kind.LOSE]).strikes
    assert {strike.kind for strike in strikes} == {Kind.FREEZE, Kind.LOSE}


def test_episodes_differ_in_every_way() -> None:
    """A fickle model, two groups, transactions; what the embedded broker cannot do is left out."""
    plans = [draw(seed, strikes=9, apache=True) for seed in range(50)]
    for ways in (
        {plan.transactional for plan in plans},
        {plan.gives_up for plan in plans},
        {plan.strict for plan in plans},
        {plan.fickle > 0 for plan in plans},
    ):
        assert ways == {True, False}
    assert {plan.streams for plan in plans} == set(range(1, MOST_STREAMS + 1))
    assert {plan.shape for plan in plans} == set(SHAPES)
    assert not any(draw(seed, strikes=9, apache=False).transactional for seed in range(50))


def test_a_fickle_message_may_end_in_either_place() -> None:
    """So may any good one if an outage makes dead letters; a bad one may never be stored."""
    plan = replace(draw(3, strikes=0, apache=True), fickle=0.1, gives_up=False)
    for gives_up in (False, True):
        messages = Messages(replace(plan, gives_up=gives_up))
        places: dict[bool, Counter[Place | None]] = {True: Counter(), False: Counter()}
        for value in islice(messages, 2_000):
            places[b"fickle" in value][messages.place(value)] += 1
        assert places[True].keys() == {"either"}
        assert places[False]["dead letter"] > 0
        assert (places[False]["row"] > 0) is not gives_up


def test_snapshots_are_lost_together_with_other_strikes() -> None:
    """In an outage, and when the number of processes changes; the outline tells of it."""
    strikes = [
        strike for seed in range(50) for strike in draw(seed, strikes=9, apache=True).strikes
    ]
    losing = {strike.kind for strike in strikes if strike.loses}
    assert {Kind.LOSE, Kind.RESIZE, Kind.KILL_DATABASE, Kind.SICKEN_MODEL} <= losing
    assert not losing & {Kind.KILL, Kind.FREEZE, Kind.CLOCK}
    told = {str(strike) for strike in strikes}
    assert {"lose the snapshots", "kill the model + lose the snapshots"} <= told


def _compare(rows: list[Position], letters: list[Position]) -> list[str]:
    sent = compare(PLACES, map(Entry, rows), map(Entry, letters), PLACES)
    return sent.problems()


def test_all_in_their_places_is_no_finding() -> None:
    """Of a pair in conflict either may be stored."""
    assert _compare([(0, 0), (0, 1)], [(0, 2), (1, 0)]) == []


@pytest.mark.parametrize(
    ("rows", "letters", "problem"),
    [
        ([(0, 0)], [(0, 2), (1, 0)], "1 missing"),
        ([(0, 0), (0, 1), (1, 0), (0, 1)], [(0, 2)], "1 in two places"),
        ([(0, 0), (0, 1), (1, 0)], [(0, 2), (1, 0)], "1 in two places"),
        ([(0, 0), (1, 0), (0, 1)], [(0, 2), (0, 2)], "1 doubled dead letters"),
        ([(0, 0), (1, 0)], [(0, 1), (0, 2)], "1 misplaced"),
        ([(0, 0), (0, 1), (0, 2), (1, 0)], [], "1 misplaced"),
        ([(0, 0), (0, 1), (1, 0), (1, 1)], [(0, 2)], "1 never there"),
    ],
)
def test_each_way_to_be_wrong_is_found(
    rows: list[Position], letters: list[Position], problem: str
) -> None:
    """A proof that cannot fail proves nothing."""
    assert _compare(rows, letters) == [problem]


def test_what_the_broker_lost_is_not_blamed_on_the_stream() -> None:
    """Acknowledged and not in the topic: told apart from what is missing."""
    rows, letters = map(Entry, [(0, 0), (0, 1), (1, 0)]), [Entry((0, 2), 0.0, "3:7")]
    findings = compare(PLACES, rows, letters, [*PLACES, (1, 1)])
    assert findings == Findings(messages=4, vanished=[(1, 1)])


def test_only_the_groups_own_dead_letters_count(broker: KafkaServer, topics: Topics) -> None:
    """Another's on the same error topic are not doubled ones; one without a name is anybody's."""
    for offset, group in enumerate([topics.group.encode(), b"another", None]):
        headers = [("dlq.partition", b"0"), ("dlq.offset", b"%d" % offset)]
        headers += [("dlq.group", group)] if group else []
        produce(broker, topics.failed, [Outgoing(b"{}", headers=headers)])
    assert {letter.at for letter in letters_of(broker, topics)} == {(0, 0), (0, 2)}


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
