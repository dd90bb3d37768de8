"""The servers that tests and demo start: ready when they say so, gone when they should be."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import httpx
import psutil
import psycopg
import pytest
from confluent_kafka import KafkaException, Message
from confluent_kafka.admin import AdminClient

from lab.servers import (
    ApacheKafka,
    KafkaServer,
    ModelApi,
    Postgres,
    Server,
    ServerError,
    free_port,
    wait_until,
)
from tests.kit.kafka import Outgoing, Topics, produce, read_all

CHECKOUT = Path(__file__).parents[2]

PARENT = """
import signal, sys, time
from pathlib import Path
from lab.servers import {name}

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
with {name}(Path(sys.argv[1])) as server:
    print(server.pid, flush=True)
    if {paused}:
        server.pause()
        print("paused", flush=True)
    time.sleep(60)
"""


class Failing(Server):
    """Says why and ends."""

    def command(self) -> list[str]:
        """Run it."""
        return [sys.executable, "-c", "import sys; sys.exit('no space left')"]

    def is_ready(self) -> bool:
        """Say whether it got that far."""
        return False


class Silent(Server):
    """Never answers."""

    ready_limit: ClassVar[timedelta] = timedelta(seconds=0.5)

    def command(self) -> list[str]:
        """Run it."""
        program = "import time; print('still thinking', flush=True); time.sleep(60)"
        return [sys.executable, "-c", program]

    def is_ready(self) -> bool:
        """Say whether it got that far."""
        return False


class Stubborn(Server):
    """Ignores SIGTERM, and has a child that does so too."""

    stop_limit: ClassVar[timedelta] = timedelta(seconds=0.2)

    def command(self) -> list[str]:
        """Run it."""
        program = "trap '' TERM; sleep 60 & echo ready; while true; do sleep 60; done"
        return ["sh", "-c", program]

    def is_ready(self) -> bool:
        """Say whether it got that far."""
        return "ready" in self.log_tail()


def alive(pid: int) -> bool:
    """Tell whether a process is there and has not ended; a stopped one has not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def values(messages: list[Message]) -> list[bytes]:
    """Take out the values, of which none is null here."""
    return [value for message in messages if (value := message.value()) is not None]


def test_what_is_produced_is_read(broker: KafkaServer, topics: Topics) -> None:
    """A message comes back with its key, headers, partition and offset."""
    sent = produce(
        broker, topics.transactions, [Outgoing(b"v", b"k", [("h", b"1"), ("h", b"2")], 2)]
    )

    [read] = read_all(broker, topics.transactions)

    assert (read.value(), read.key(), read.headers()) == (b"v", b"k", [("h", b"1"), ("h", b"2")])
    assert (read.partition(), read.offset()) == (2, 0) == (sent[0].partition(), sent[0].offset())


def test_all_of_a_topic_is_read(broker: KafkaServer, topics: Topics) -> None:
    """The end of a topic is its last message, not what the watermarks say."""
    expected = [str(number).encode() for number in range(5_000)]

    sent = produce(broker, topics.transactions, expected)

    assert values(sent) == expected
    assert sorted(values(read_all(broker, topics.transactions))) == sorted(expected)


def test_an_empty_topic_is_read_at_once(broker: KafkaServer, topics: Topics) -> None:
    """No message is an answer."""
    assert read_all(broker, topics.failed, limit=timedelta(seconds=5)) == []


def test_messages_that_do_not_come_are_missed(broker: KafkaServer, topics: Topics) -> None:
    """Fewer messages than asked for are an error that gives both numbers."""
    produce(broker, topics.failed, [b"only one"])

    with pytest.raises(TimeoutError, match=r"1 messages.* in 0\.8 s; expected at least 2"):
        read_all(broker, topics.failed, at_least=2, limit=timedelta(seconds=0.8))


def test_topics_have_their_partitions(
    broker: KafkaServer, make_topics: Callable[..., Topics]
) -> None:
    """A topic has the partitions asked for, and its name is taken."""
    topics = make_topics(partitions=7)
    every = [Outgoing(b"x", partition=number) for number in range(7)]

    produced = produce(broker, topics.transactions, every)
    assert [message.partition() for message in produced] == [*range(7)]
    with pytest.raises(KafkaException, match="already exists"):
        broker.create_topic(topics.transactions, 7)


def test_an_error_topic_has_the_partitions_that_its_broker_can_do(
    broker: KafkaServer, make_topics: Callable[..., Topics]
) -> None:
    """The embedded one cannot do transactions over several."""
    topics = make_topics(partitions=7)
    found = AdminClient(broker.client_settings).list_topics(timeout=10).topics[topics.failed]
    assert len(found.partitions) == (7 if broker.keeps_data else 1)


def test_a_killed_broker_starts_again(broker: KafkaServer, topics: Topics) -> None:
    """It comes back on its port; with its messages, if it is one that keeps them."""
    produce(broker, topics.transactions, [b"before"])
    address, first = broker.bootstrap_servers, broker.pid

    broker.kill()
    assert not broker.running
    assert not alive(first)
    broker.start()

    assert broker.bootstrap_servers == address
    assert broker.pid != first
    if not broker.keeps_data:
        broker.create_topic(topics.transactions, 4)
    produce(broker, topics.transactions, [b"after"])
    expected = [b"after", b"before"] if broker.keeps_data else [b"after"]
    assert sorted(values(read_all(broker, topics.transactions))) == expected


def test_a_fixture_brings_its_broker_back(broker: KafkaServer, topics: Topics) -> None:
    """After the test before this one and whatever it left, the broker answers."""
    assert values(produce(broker, topics.failed, [b"x"])) == [b"x"]


@pytest.mark.apache_kafka
def test_a_topic_is_made_once_its_broker_is_back_in_the_cluster(servers_folder: Path) -> None:
    """A broker whose session is over now and then, as on a machine that stalls, makes them all."""
    settings = {"broker.session.timeout.ms": "500", "broker.heartbeat.interval.ms": "1500"}
    with ApacheKafka(servers_folder / "away", settings=settings) as away:
        wait_until(lambda: not away.is_ready())
        for number in range(20):
            away.create_topic(f"topic-{number}", 2)


@pytest.mark.apache_kafka
def test_the_group_tool_answers(apache_kafka: ApacheKafka, topics: Topics) -> None:
    """`kafka-consumer-groups` runs, and its failure is an error with what it printed."""
    reset = ["--reset-offsets", "--to-earliest", "--execute", "--topic", topics.transactions]
    apache_kafka.group_tool("--group", topics.group, *reset)

    assert topics.group in apache_kafka.group_tool("--list").split()
    with pytest.raises(ServerError, match="nonsense"):
        apache_kafka.group_tool("--nonsense")


@pytest.mark.parametrize("durable", [True, False])
def test_postgres_keeps_what_it_committed(servers_folder: Path, *, durable: bool) -> None:
    """What is committed is there after a kill, on the same URL."""
    with Postgres(servers_folder / f"postgres-{durable}", durable=durable) as postgres:
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            connection.execute("CREATE TABLE kept (n int)")
            for number in range(100):
                connection.execute("INSERT INTO kept VALUES (%s)", [number])
            postgres.kill()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        postgres.start()

        with psycopg.connect(postgres.url()) as connection:
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (100,)


def test_postgres_asks_for_the_password(postgres: Postgres) -> None:
    """A wrong password is refused."""
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres.url(password="guessed"))  # noqa: S106  # a wrong one


def test_a_database_is_copied_and_dropped(postgres: Postgres) -> None:
    """A copy has its template's tables; dropping it ends the connections to it."""
    postgres.create_database("original")
    with psycopg.connect(postgres.url("original"), autocommit=True) as connection:
        connection.execute("CREATE TABLE t AS SELECT 42 AS n")
    postgres.create_database("copy", template="original")

    with psycopg.connect(postgres.url("copy"), autocommit=True) as connection:
        assert connection.execute("SELECT n FROM t").fetchone() == (42,)
        postgres.drop_database("copy")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    postgres.drop_database("copy")
    postgres.drop_database("original")


def test_a_database_has_all_migrations(database_url: str) -> None:
    """Each test's own database has the tables of the migrations."""
    with psycopg.connect(database_url) as connection:
        [tables] = connection.execute(
            "SELECT array_agg(tablename::text) FROM pg_tables WHERE schemaname = 'public'"
        ).fetchone() or [[]]
    assert {"transactions", "predictions"} <= set(tables)


def test_a_paused_database_hangs_and_goes_on(postgres: Postgres) -> None:
    """While paused it neither answers nor refuses; then it goes on with the same connection."""
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        postgres.pause()
        connection.pgconn.send_query(b"SELECT 1")
        connection.pgconn.flush()
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            psycopg.connect(postgres.url(), connect_timeout=2)
        assert connection.pgconn.is_busy()
        postgres.resume()
        assert connection.pgconn.get_result() is not None
        assert connection.pgconn.get_result() is None


def test_the_model_fails_on_command(model_api: ModelApi) -> None:
    """A fault acts until the reset, even one that closes the API's port."""

    def status() -> int:
        return httpx.post(f"{model_api.url}/predict", json=[], trust_env=False).status_code

    assert status() == 200
    model_api.control(name="status", code=429)
    assert status() == 429
    model_api.control(name="refuse")
    with pytest.raises(httpx.ConnectError):
        status()
    model_api.reset()
    assert status() == 200
    assert model_api.state()["requests"] == 1


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    """A start that fails gives the status and the end of the log."""
    server = Failing(tmp_path)

    with pytest.raises(ServerError, match=r"(?s)Failing ended with status 1.*no space left"):
        server.start()
    assert not server.running


def test_a_server_that_is_not_ready_in_time_is_killed(tmp_path: Path) -> None:
    """A start that takes too long gives the limit and the end of the log, and leaves nothing."""
    server = Silent(tmp_path)

    with pytest.raises(ServerError, match=r"(?s)Silent was not ready: .*0\.5 s.*still thinking"):
        server.start()
    assert not server.running


def test_a_server_that_does_not_leave_is_killed(tmp_path: Path) -> None:
    """What ignores SIGTERM is killed, its children too."""
    with Stubborn(tmp_path) as server:
        wait_until(lambda: len(psutil.Process(server.pid).children()) == 2)
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children()]

    assert not [process for process in family if alive(process.pid)]
    server.stop()  # once more changes nothing


def test_a_signal_at_the_birth_of_a_child_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception from a signal's handler cannot come before the child is known."""
    born: list[int] = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            if not born:  # the guardian is a child too
                born.append(self.pid)
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)

    with pytest.raises(KeyboardInterrupt):
        Silent(tmp_path).start()

    assert not alive(born[0])


def test_a_running_server_is_not_started_twice(broker: KafkaServer) -> None:
    """A second start is refused, since it would lose the first process."""
    with pytest.raises(ServerError, match="running already"):
        broker.start()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize(("name", "paused"), [("Broker", False), ("Postgres", True)])
def test_children_end_with_their_parent(
    servers_folder: Path, name: str, *, paused: bool, end: signal.Signals
) -> None:
    """No server survives its program, whatever ends that; a paused one does not either."""
    folder = servers_folder / f"{name}-{end.name}"
    program = PARENT.format(name=name, paused=paused)
    parent = subprocess.Popen(  # noqa: S603  # the program above
        [sys.executable, "-c", program, str(folder)],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with parent:
        try:
            assert parent.stdout is not None
            server = psutil.Process(int(parent.stdout.readline()))
            assert not paused or parent.stdout.readline() == "paused\n"
            # One that ended during the pause is still listed: its parent cannot take note.
            family = [server.pid, *filter(alive, (child.pid for child in server.children()))]
            assert alive(server.pid)
            assert len(family) > 1 or name == "Broker"
        finally:
            os.kill(parent.pid, end)

    wait_until(lambda: not any(map(alive, family)), what="the end of all servers")


def test_a_port_is_given_to_one_process_only() -> None:
    """Another run beside this one does not take it before its server listens."""
    mine = {free_port() for _ in range(200)}
    code = "from lab.servers import free_port; print(*(free_port() for _ in range(4_000)))"
    run = subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, "-c", code], cwd=CHECKOUT, check=True, stdout=subprocess.PIPE, text=True
    )
    others = set(map(int, run.stdout.split()))
    assert len(others) == 4_000
    assert not mine & others
