"""The source of a worker, called as Bytewax calls it, against a broker."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from bytewax.inputs import StatefulSourcePartition
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from lab.servers import KafkaServer, wait_until
from operators.engine.loop import WorkerLocal
from operators.engine.positions import finish
from operators.engine.shutdown import Stop
from operators.errors import StreamError
from operators.kafka.metadata import CommitMetadata, ResumePoint, State
from operators.records import Message, partition_key
from operators.source import TransactionSource
from operators.workers import Worker
from settings import Settings
from telemetry import Progress
from tests.kit.environment import environment, settings_of
from tests.kit.kafka import Outgoing, Topics, committed, produce

__all__ = ["LONG", "Reading", "Run", "offsets", "state"]

LONG: Final = timedelta(seconds=30)
"""For what takes a moment where nothing else runs."""

NO_DATABASE: Final = "postgresql://unused"
NO_MODEL: Final = "http://unused"


def offsets(messages: list[Message]) -> list[int]:
    """Take out the offsets."""
    return [message.offset for message in messages]


def state(offset: int, *, keeps_metadata: bool = True, **metadata: Any) -> State:
    """Make a snapshot.

    :arg offset: Up to which everything is durable.

    :arg keeps_metadata: Whether the broker was known to keep what commits carry.

    :arg metadata: See `CommitMetadata`.

    """
    known = CommitMetadata(**{"topic_id": "", **metadata})
    return ResumePoint(offset, known).state(keeps_metadata=keeps_metadata)


class Run:
    """A worker that reads and has no sinks.

    :arg settings: Of the stream.

    :arg states: By partition, its snapshot if there is one.

    :arg stores_rows: Whether its rows go to PostgreSQL: then it takes locks.

    :arg sends_failures: Whether failures go to the error topic: then it fences and reads back.

    :arg stop_limit: See `Stop`; with 0 it waits for nothing that is in hand.

    """

    def __init__(
        self,
        settings: Settings,
        states: Mapping[int, State | None],
        *,
        stores_rows: bool = False,
        sends_failures: bool = False,
        stop_limit: timedelta = timedelta(0),
    ) -> None:
        self.stop = Stop(stop_limit)
        self.progress = Progress()
        self.workers = WorkerLocal(
            partial(
                Worker,
                settings,
                stop=self.stop,
                progress=self.progress,
                stores_rows=stores_rows,
                sends_failures=sends_failures,
            )
        )
        self.worker = self.workers()
        self.source = TransactionSource(settings, self.workers)
        self.found: list[Message] = []
        """All that was read."""
        self.is_over = False
        """Whether it is released."""
        self._topic = settings.kafka_topic
        self._states = states
        self.parts: dict[int, StatefulSourcePartition[Message, State]] = {}

    def build(self) -> None:
        """List and build the partitions, as Bytewax does before anything is read."""
        self.source.list_parts()
        for number, known in self._states.items():
            key = partition_key(self._topic, number)
            self.parts[number] = self.source.build_part("transactions", key, known)

    @property
    def part(self) -> StatefulSourcePartition[Message, State]:
        """The first partition, which reads for all."""
        return next(iter(self.parts.values()))

    def turn(self) -> list[Message]:
        """Call the source once."""
        try:
            came = list(self.part.next_batch())
        except StopIteration:
            self.is_over = True
            raise
        self.found += came
        return came

    def pause(self) -> timedelta | None:
        """In how long the source wants to be called again; None for at once."""
        awake = self.part.next_awake()
        return None if awake is None else awake - datetime.now(UTC)

    def read(self, count: int) -> list[Message]:
        """Read until there are so many more."""
        came: list[Message] = []

        def enough() -> bool:
            came.extend(self.turn())
            return len(came) >= count

        wait_until(enough, LONG, what=f"{count} messages")
        return came

    def until(self, condition: Callable[[], object], *, what: str = "the condition") -> None:
        """Call the source again and again until something is so."""

        def is_so() -> object:
            self.turn()
            return condition()

        wait_until(is_so, LONG, what=what)

    def idle(self, turns: int = 50) -> None:
        """Call the source as often as it would take to do what must not be done."""
        for _ in range(turns):
            assert self.turn() == []
            self.worker.loop.rest(0.01)

    def finish(self, *messages: Message) -> None:
        """Note that messages are durable."""
        finish(messages)

    def finish_all(self) -> None:
        """Note that all that was read is durable."""
        finish([each for each in self.found if each.fetch is not None and each.fetch.pending])

    def snapshot(self, number: int = 0) -> State:
        """Take the snapshot of a partition, as at the end of an epoch."""
        return self.parts[number].snapshot()

    def release(self) -> None:
        """End it."""
        self.stop.request()

        def is_over() -> bool:
            with suppress(StopIteration):
                self.turn()
            return self.is_over

        if not self.is_over:
            wait_until(is_over, LONG, what="the release")


class Reading:
    """Makes runs over topics of a test's own, and does what other clients do.

    :arg broker: Where the topics are.

    :arg topics: The test's own.

    :arg database_url: Where one is needed.

    """

    def __init__(
        self, broker: KafkaServer, topics: Topics, *, database_url: str = NO_DATABASE
    ) -> None:
        self.broker, self.topics = broker, topics
        self._database_url = database_url

    def settings(self, **variables: str) -> Settings:
        """Make settings: variables over those of the test."""
        given = environment(
            self.broker,
            self.topics,
            database_url=self._database_url,
            model_url=NO_MODEL,
            **variables,
        )
        return settings_of(given)

    @contextmanager
    def run(
        self,
        states: State | Mapping[int, State | None] | None = None,
        *,
        stores_rows: bool = False,
        sends_failures: bool = False,
        stop_limit: timedelta = timedelta(0),
        **variables: str,
    ) -> Iterator[Run]:
        """Build partitions, and release them in the end.

        :arg states: The snapshot of partition 0, or those of several partitions.

        """
        several = isinstance(states, dict) and not states.keys() & {"version"}
        run = Run(
            self.settings(**variables),
            states if several else {0: states},  # type: ignore[arg-type,dict-item]
            stores_rows=stores_rows,
            sends_failures=sends_failures,
            stop_limit=stop_limit,
        )
        run.build()
        try:
            yield run
        finally:
            with suppress(StreamError):  # the test has seen it
                run.release()
            if stores_rows:
                run.worker.session.close()

    def send(self, *values: bytes, at: datetime | None = None, partition: int = 0) -> None:
        """Send messages one by one: in one batch the embedded broker would count them as one."""
        milliseconds = 0 if at is None else int(at.timestamp() * 1000)
        for value in values:
            message = Outgoing(value, partition=partition, timestamp=milliseconds)
            produce(self.broker, self.topics.transactions, [message])

    def send_many(self, count: int, *, size: int = 10, partition: int = 0) -> None:
        """Send messages in batches."""
        values = (b"%d" % number for number in range(count))
        produce(
            self.broker,
            self.topics.transactions,
            [Outgoing(value.rjust(size), partition=partition) for value in values],
        )

    def commit(
        self, offset: int, partition: int = 0, metadata: CommitMetadata | None = None
    ) -> None:
        """Commit an offset to the group, as another client, or as a run of ours with metadata."""
        at = TopicPartition(self.topics.transactions, partition, offset)
        if metadata is not None:
            at = ResumePoint(offset, metadata).commit(self.topics.transactions, partition)
        consumer = Consumer({**self.broker.client_settings, "group.id": self.topics.group})
        try:
            wait_until(lambda: _commits(consumer, at), LONG, what="the group's coordinator")
        finally:
            consumer.close()

    def committed(self, partition: int = 0) -> int | None:
        """The offset that the group has committed."""
        return committed(self.broker, self.topics).get(partition)

    def recreate_topic(self) -> None:
        """Delete the topic and create it again."""
        self.delete_topic()
        self.broker.create_topic(self.topics.transactions, 4)

    def delete_topic(self) -> None:
        """Delete the topic, and wait until it is gone."""
        topic = self.topics.transactions
        admin = AdminClient(self.broker.client_settings)
        admin.delete_topics([topic])[topic].result(10)
        wait_until(lambda: topic not in admin.list_topics(timeout=10).topics, LONG, what="its end")

    def delete_before(self, offset: int, partition: int = 0) -> None:
        """Remove messages, as retention does."""
        at = TopicPartition(self.topics.transactions, partition, offset)
        admin = AdminClient(self.broker.client_settings)
        for answer in admin.delete_records([at]).values():
            answer.result(10)


def _commits(consumer: Consumer, at: TopicPartition) -> bool:
    results = consumer.commit(offsets=[at], asynchronous=False)
    return bool(results) and results[0].error is None
