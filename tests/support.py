"""What tests do to the servers: produce, read everything, wait; and to the stream: run it."""

import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from signal import SIGKILL, Signals
from typing import Any, ClassVar

import psycopg
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import cluster_main
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from lab.servers import KafkaServer, Server, ServerError, free_port, wait_until
from operators.records import Message as Received
from settings import Settings

__all__ = [
    "CHECKOUT",
    "Account",
    "Flow",
    "GivenSource",
    "Outgoing",
    "Position",
    "Topics",
    "account",
    "cluster",
    "committed",
    "environment",
    "header",
    "installed",
    "leave_state",
    "make_recovery",
    "positions",
    "produce",
    "query",
    "read_all",
    "recovery_options",
    "run_in_process",
    "run_script",
    "settings_of",
    "wait_until",
]

CHECKOUT = Path(__file__).resolve().parents[1]

Position = tuple[int, int]
"""Partition and offset of a message in the topic that is read."""


@dataclass(frozen=True)
class Topics:
    """Names of one test's own."""

    transactions: str
    """What the flow reads."""

    failed: str
    """What it sends dead letters to."""

    group: str
    """The consumer group it commits to."""


@dataclass(frozen=True)
class Outgoing:
    """A message to be sent, where its value alone does not say enough."""

    value: bytes | None
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()
    partition: int = -1
    """-1 leaves it to the client: by key, or anywhere."""
    timestamp: int = 0
    """Milliseconds; 0 is now."""


def produce(broker: KafkaServer, topic: str, messages: Iterable[bytes | Outgoing]) -> list[Message]:
    """Send messages and see to it that the broker has every one.

    :arg broker: Where to.

    :arg topic: Exists already.

    :arg messages: Values, or more.

    :returns: Them as acknowledged, with partition and offset, in the order given.

    :raises KafkaException: One of them was not delivered.

    """
    # Without retries, so that none is there twice; an idempotent producer would take half a
    # second longer to begin.
    settings = {"acks": "all", "retries": 0, "linger.ms": 5, "delivery.timeout.ms": 30_000}
    producer = Producer({**broker.client_settings, **settings})
    delivered: dict[int, Message] = {}
    failures: list[KafkaError] = []
    count = 0

    for number, given in enumerate(messages):
        message = Outgoing(given) if isinstance(given, bytes) else given

        def on_delivery(error: KafkaError | None, sent: Message, number: int = number) -> None:
            if error is not None:
                failures.append(error)
            else:
                delivered[number] = sent

        while True:
            try:
                producer.produce(
                    topic,
                    value=message.value,
                    key=message.key,
                    headers=list(message.headers),
                    partition=message.partition,
                    timestamp=message.timestamp,
                    on_delivery=on_delivery,
                )
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
        count += 1

    producer.flush(60)
    if failures:
        raise KafkaException(failures[0])
    if len(delivered) < count:
        msg = f"{count - len(delivered)} of {count} messages for {topic} had no answer in 60 s"
        raise TimeoutError(msg)
    return [delivered[number] for number in range(count)]


def read_all(
    broker: KafkaServer,
    topic: str,
    *,
    at_least: int = 0,
    limit: timedelta = timedelta(seconds=20),
) -> list[Message]:
    """Read a topic from its beginning to its end, outside any group.

    The end is where a fetch finds nothing more, but not before what the topic held at first: of a
    transaction that is committed a reader learns a moment later. It is not taken from the
    watermarks alone: those of the embedded broker are too low by what its last batch holds, less
    one.

    :arg broker: Where from.

    :arg topic: All its partitions are read.

    :arg at_least: How many messages to wait for, if they are still on their way.

    :arg limit: How long to try.

    :returns: Them partition by partition, in the order of their offsets.

    :raises TimeoutError: There were fewer, or no end was seen.

    """
    settings = {
        "group.id": f"reader-of-{topic}",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "error",
        "fetch.wait.max.ms": 5,
        "isolation.level": broker.isolation_level,
    }
    ends = broker.ends(topic)
    consumer = Consumer({**broker.client_settings, **settings})
    try:
        consumer.assign([TopicPartition(topic, part, OFFSET_BEGINNING) for part in sorted(ends)])
        found = _until_end(consumer, topic, ends, at_least, limit)
    finally:
        consumer.close()
    return sorted(found, key=lambda message: (message.partition(), message.offset()))


def _until_end(
    consumer: Consumer, topic: str, ends: dict[int, int], at_least: int, limit: timedelta
) -> list[Message]:
    found: list[Message] = []
    ended: set[int] = set()
    end = time.monotonic() + limit.total_seconds()
    while ended != ends.keys() or len(found) < at_least:
        if time.monotonic() >= end:
            seen = f"{len(found)} messages, the end of {len(ended)} of {len(ends)} partitions"
            msg = f"{topic}: {seen} in {limit.total_seconds():g} s; expected at least {at_least}"
            raise TimeoutError(msg)
        # One at a time: a batch would wait for its full size or its timeout.
        message = consumer.poll(0.1)
        if message is None:
            continue
        partition = message.partition()
        assert partition is not None
        error = message.error()
        if error is None:
            found.append(message)
            ended.discard(partition)
        elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  # its public name
            if (message.offset() or 0) >= ends[partition]:
                ended.add(partition)
        elif not error.retriable():
            raise KafkaException(error)
    return found


def committed(broker: KafkaServer, topics: Topics) -> dict[int, int]:
    """Ask for the offsets that the stream's consumer group has committed.

    :arg broker: Where.

    :arg topics: Group and topic.

    :returns: Offset by partition; a partition without one is left out.

    """
    consumer = Consumer({**broker.client_settings, "group.id": topics.group})
    try:
        partitions = consumer.list_topics(timeout=10).topics[topics.transactions].partitions
        wanted = [TopicPartition(topics.transactions, number) for number in partitions]
        found = consumer.committed(wanted, timeout=10)
    finally:
        consumer.close()
    return {at.partition: at.offset for at in found if at.offset >= 0}


def header(message: Message, name: str) -> str | None:
    """Take one header out of a message.

    :arg message: As read.

    :arg name: Of the header.

    :returns: Its text; None if there is none of this name.

    """
    found = dict(message.headers() or []).get(name)
    return found.decode() if isinstance(found, bytes) else found


def query(database_url: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Run one statement on a connection of its own.

    :arg database_url: Where.

    :arg statement: Committed at once.

    :arg values: Of its parameters.

    :returns: The rows, none if it gives none.

    """
    with psycopg.connect(database_url, autocommit=True, connect_timeout=10) as connection:
        # A test's own text.
        cursor = connection.execute(statement, values)
        return list(cursor.fetchall()) if cursor.description else []


def positions(database_url: str, table: str) -> set[Position]:
    """Read which messages left a row in a table.

    :arg database_url: Where.

    :arg table: `transactions` or `duplicates`.

    :returns: Their positions, of which the database holds each once.

    """
    statement = f"SELECT source_partition, source_offset FROM {table}"  # noqa: S608 - see above
    return {(partition, offset) for partition, offset in query(database_url, statement)}


@dataclass(frozen=True)
class Account:
    """Where messages ended, by their position in the topic that is read."""

    stored: set[Position]
    duplicates: set[Position]
    failed: Counter[Position]
    """How many records the error topic holds of each."""

    def expect_each_once(self, sent: Iterable[Message]) -> None:
        """See that every message is in exactly one place.

        A dead letter may be there twice after a crash: it is delivered at least once.

        :arg sent: All that was produced.

        :raises AssertionError: One is in no place, or in two.

        """
        everything = {_position(message) for message in sent}
        places = (self.stored, self.duplicates, set(self.failed))
        found = Counter(position for place in places for position in place)
        assert everything - found.keys() == set(), "lost"
        assert found.keys() - everything == set(), "never sent"
        assert {position for position, number in found.items() if number > 1} == set(), "in two"


def account(broker: KafkaServer, topics: Topics, database_url: str) -> Account:
    """Find out where the messages of a test ended.

    :arg broker: With the error topic.

    :arg topics: The test's.

    :arg database_url: The test's.

    :returns: What became of them.

    """
    failed = Counter(
        (int(header(record, "dlq.partition") or -1), int(header(record, "dlq.offset") or -1))
        for record in read_all(broker, topics.failed)
    )
    stored, duplicates = (positions(database_url, name) for name in ("transactions", "duplicates"))
    return Account(stored, duplicates, failed)


def _position(message: Message) -> Position:
    partition, offset = message.partition(), message.offset()
    assert partition is not None
    assert offset is not None
    return partition, offset


def environment(
    broker: KafkaServer, topics: Topics, *, database_url: str, model_url: str, **more: str
) -> dict[str, str]:
    """Put the stream's settings together, as environment variables.

    :arg broker: Its address.

    :arg topics: Topics and group.

    :arg database_url: Of the test's own database.

    :arg model_url: Of the stand-in.

    :arg more: Variables over these, or more of them.

    :returns: All that the stream needs, and limits that suit a test.

    """
    return {
        "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "KAFKA_CONSUMER_GROUP": topics.group,
        "KAFKA_TOPIC": topics.transactions,
        "KAFKA_ERROR_TOPIC": topics.failed,
        "DATABASE_URL": database_url,
        "ML_API_URL": model_url,
        "DATABASE_TIMEOUT": "5",
        "START_TIMEOUT": "10",
        "HTTP_PORT": "0",
        **more,
    }


def settings_of(variables: Mapping[str, str]) -> Settings:
    """Make settings of variables, for a stream in this process."""
    fields: dict[str, Any] = {name.lower(): value for name, value in variables.items()}
    return Settings(**fields)


def make_recovery(folder: Path) -> Path:
    """Make a recovery directory.

    :arg folder: Where; the directory is in it.

    :returns: The directory, with two recovery partitions.

    """
    directory = folder / "recovery"
    directory.mkdir(parents=True)
    init_db_dir(directory, 2)  # type: ignore[no-untyped-call]  # as it ships
    return directory


def leave_state(part: Path, key: str, epoch: int, state: bytes) -> None:
    """Put a state of the scoring step into recovery, as a run that was killed can leave it.

    :arg part: File of a recovery partition.

    :arg key: Of the state.

    :arg epoch: In which it was taken.

    :arg state: Pickled.

    """
    with closing(sqlite3.connect(part)) as database, database:
        database.execute(
            "INSERT INTO snaps (step_id, state_key, snap_epoch, ser_change) VALUES (?, ?, ?, ?)",
            ("fraud.score.api", key, epoch, state),
        )


def installed(program: str) -> str:
    """Find a program that a test needs and that no Python package has.

    :arg program: Its name, which is that of Debian's package.

    :returns: Its path.

    :raises ServerError: It is missing.

    """
    path = shutil.which(program)
    if path is None:
        msg = f"{program} is missing; Debian's package {program} has it"
        raise ServerError(msg)
    return path


def recovery_options(directory: Path) -> list[str]:
    """Tell `bytewax.run` to keep snapshots there, one a second."""
    return ["-r", str(directory), "-s", "1", "-b", "0"]


class _GivenPartition(StatefulSourcePartition[Received, int]):
    def __init__(self, messages: Sequence[Received], at: int, at_end: Callable[[], None]) -> None:
        self._messages, self._at, self._at_end = messages, at, at_end

    def next_batch(self) -> Sequence[Received]:
        if self._at >= len(self._messages):
            self._at_end()
            raise StopIteration
        batch = self._messages[self._at : self._at + 10]
        self._at += len(batch)
        return batch

    def snapshot(self) -> int:
        return self._at


class GivenSource(FixedPartitionedSource[Received, int]):
    """Given messages as a source with their own partitions, for a stream in this process.

    Unlike Bytewax's `TestingSource` it feeds several workers. The next run with the same messages
    and more goes on behind the last.

    :arg messages: The offsets of each partition ascend.

    :arg at_end: Called when a partition has no more.

    """

    def __init__(
        self, messages: Iterable[Received], *, at_end: Callable[[], None] = lambda: None
    ) -> None:
        self._by_key: dict[str, list[Received]] = {}
        self._at_end = at_end
        for message in messages:
            self._by_key.setdefault(message.partition_key, []).append(message)

    def list_parts(self) -> list[str]:
        """All partitions that there are messages of."""
        return list(self._by_key)

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _GivenPartition:
        """See ABC docstring."""
        del step_id
        return _GivenPartition(self._by_key[for_part], resume_state or 0, self._at_end)


def run_script(script: str) -> str:
    """Run a text as Python, in a process of its own and in the checkout.

    :arg script: The text.

    :returns: What it prints, stripped.

    """
    found = subprocess.run(  # noqa: S603 - a test's own text
        [sys.executable, "-c", script],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    return found.stdout.strip()


def run_in_process(flow: Dataflow, *, workers: int = 1, recovery: Path | None = None) -> None:
    """Run a stream in this process until its end, with an epoch for each batch.

    :arg flow: The stream.

    :arg workers: Threads.

    :arg recovery: Its recovery directory.

    """
    config = recovery and RecoveryConfig(str(recovery), timedelta(0))  # type: ignore[no-untyped-call]  # as it ships
    cluster_main(  # type: ignore[no-untyped-call]  # as it ships
        flow,
        [],
        0,
        epoch_interval=timedelta(0),
        recovery_config=config,
        worker_count_per_proc=workers,
    )


class Flow(Server):
    """`python -m bytewax.run dataflow`, or another command, as a process of its own.

    It is killed when the block ends, and when the tests are.

    :arg folder: For its output.

    :arg variables: Its environment, all of it.

    :arg arguments: Behind `python -m bytewax.run dataflow`.

    :arg module: Instead of that: what to run, with its arguments.

    """

    stop_signal: ClassVar[Signals] = SIGKILL

    def __init__(
        self,
        folder: Path,
        variables: Mapping[str, str],
        arguments: Sequence[str] = (),
        *,
        module: Sequence[str] = ("bytewax.run", "dataflow"),
    ) -> None:
        super().__init__(folder)
        self.directory = CHECKOUT
        self._variables = dict(variables)
        self._command = [sys.executable, "-m", *module, *arguments]
        self._begin = 0

    def command(self) -> list[str]:
        """Run it."""
        return self._command

    def environment(self) -> Mapping[str, str]:
        """Hand over the settings and nothing of this process's own."""
        return self._variables

    def is_ready(self) -> bool:
        """Say yes: what it waits for is up to the test."""
        return True

    def start(self) -> "Flow":
        """Start it, or start it again; `output` begins anew."""
        self._begin = self.log.stat().st_size if self.log.exists() else 0
        super().start()
        return self

    def signal(self, number: Signals) -> None:
        """Send it a signal."""
        assert self._child is not None, "start it first"
        self._child.send_signal(number)

    def wait(self, limit: timedelta = timedelta(seconds=20)) -> int:
        """Wait for its end.

        :arg limit: How long.

        :returns: Its exit status, negative for a signal.

        :raises TimeoutError: It goes on; the message has its output.

        """
        assert self._child is not None, "start it first"
        try:
            return self._child.wait(limit.total_seconds())
        except subprocess.TimeoutExpired:
            msg = f"still running after {limit.total_seconds():g} s:\n{self.output()[-4000:]}"
            raise TimeoutError(msg) from None

    def run(self, limit: timedelta = timedelta(seconds=30)) -> int:
        """Start it and wait for its end.

        :arg limit: How long.

        :returns: Its exit status.

        """
        self.start()
        return self.wait(limit)

    def wait_for(self, text: str, limit: timedelta = timedelta(seconds=20)) -> None:
        """Wait until its output has a text.

        :arg text: What to wait for.

        :arg limit: How long.

        :raises AssertionError: It ended without.

        :raises TimeoutError: It goes on without.

        """

        def said() -> bool:
            running = self.running  # before the look, or its last words could be missed
            found = text in self.output()
            assert found or running, f"ended without {text!r}:\n{self.output()[-4000:]}"
            return found

        wait_until(said, limit, what=f"{text!r} in the output")

    def output(self) -> str:
        """What it wrote since it was started last, to both streams."""
        if not self.log.exists():
            return ""
        return self.log.read_bytes()[self._begin :].decode(errors="replace")

    def lines(self) -> list[str]:
        """The same in lines, those that are empty left out."""
        return [line for line in self.output().splitlines() if line.strip()]


@contextmanager
def cluster(
    folder: Path, variables: Mapping[str, str], arguments: Sequence[str], *, processes: int
) -> Iterator[list[Flow]]:
    """Run the stream as several processes that share the work.

    :arg folder: For their output.

    :arg variables: The environment of each.

    :arg arguments: Of each, `-i` and `-a` aside.

    :arg processes: How many.

    :returns: Them, started; they are killed when the block ends.

    """
    addresses = ";".join(f"127.0.0.1:{free_port()}" for _ in range(processes))
    with ExitStack() as running:
        yield [
            running.enter_context(
                Flow(
                    folder / str(number),
                    variables,
                    [*arguments, "-i", str(number), "-a", addresses],
                )
            )
            for number in range(processes)
        ]
