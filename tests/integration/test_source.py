"""The source against a broker: where it starts, what it reads, what it commits, how it ends."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bytewax.inputs import StatefulSourcePartition
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions
from structlog.testing import capture_logs

from lab.servers import ApacheKafka, KafkaServer
from operators.dead_letters.already_written import ReadBack
from operators.engine.loop import Loop, PerWorker
from operators.engine.positions import Unfinished
from operators.engine.shutdown import Stop
from operators.errors import DependencyError, SourceError
from operators.kafka.commits import Mark
from operators.kafka.partition import BUSY, SOON
from operators.records import Message, partition_key
from operators.source import TransactionSource
from settings import Settings
from telemetry import Progress
from tests.factories import message
from tests.support import (
    Outgoing,
    Topics,
    committed,
    environment,
    produce,
    settings_of,
    wait_until,
)

State = dict[str, Any]
LIMIT = 30.0  # seconds
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Partition:
    """A partition of the source, called as Bytewax calls it."""

    def __init__(self, part: StatefulSourcePartition[Message, State]) -> None:
        self.part = part

    def read(self, count: int) -> list[Message]:
        """Read until there are so many."""
        found: list[Message] = []

        def enough() -> bool:
            found.extend(self.part.next_batch())
            return len(found) >= count

        wait_until(enough, what=f"{count} messages")
        return found

    def read_nothing(self) -> None:
        """Read as often as it takes to see that nothing comes: past several fetches."""
        end = datetime.now(UTC) + timedelta(seconds=0.5)
        wait_until(lambda: self.part.next_batch() or datetime.now(UTC) > end)

    def read_nothing_once(self) -> timedelta:
        """Look once: in how long it wants to be asked again."""
        assert self.part.next_batch() == []
        awake = self.part.next_awake()
        assert awake is not None
        return awake - datetime.now(UTC)

    def end_epoch(self) -> State:
        """Take the snapshot, as at the end of an epoch."""
        return self.part.snapshot()


def _state(offset: int, **fields: Any) -> State:
    """Make a snapshot."""
    plain = {"version": 1, "taken": 0, "topic_id": "", "keeps_marks": False}
    return {**plain, "offset": offset, **fields}


class Resumed(ReadBack):
    """Notes since when the error topic is to be read."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.since: list[tuple[str, int]] = []

    def resume(self, key: str, since: int) -> None:
        """Note it."""
        self.since.append((key, since))


class Reading:
    """Makes partitions of a source, and has what they share."""

    def __init__(self, broker: KafkaServer, topics: Topics) -> None:
        self.broker, self.topics = broker, topics
        self.stop = Stop(timedelta(seconds=5))
        self.progress = Progress()
        self.unfinished = Unfinished()
        self.claimed: list[str] = []
        self.resumed: Resumed | None = None
        self.loops = PerWorker(Loop)

    def source(self, **variables: str) -> TransactionSource:
        """Make a source."""
        settings = settings_of(
            environment(
                self.broker,
                self.topics,
                database_url="postgresql://unused",
                model_url="http://unused",
                **variables,
            )
        )
        resumed = self.resumed = Resumed(settings)
        return TransactionSource(
            settings,
            loops=self.loops,
            read_backs=lambda: resumed,
            claim=self.claimed.append,
            progress=self.progress,
            unfinished=self.unfinished,
            stop=self.stop,
        )

    @contextmanager
    def partition(
        self, number: int = 0, state: State | None = None, **variables: str
    ) -> Iterator[Partition]:
        """Build a partition and close it in the end."""
        key = partition_key(self.topics.transactions, number)
        source = self.source(**variables)
        source.list_parts()
        part = source.build_part("transactions", key, state)
        try:
            yield Partition(part)
        finally:
            part.close()

    def reads_again(self, offset: int) -> bool:
        """Whether the sinks leave out a message of partition 0 that was restored."""
        assert self.resumed is not None
        restored = message(topic=self.topics.transactions, offset=offset, restored=True)
        return self.resumed.reads_again(restored)

    def resumed_since(self, state: State | None = None) -> int:
        """Build a partition, and see since when it wants the error topic to be read."""
        with self.partition(state=state):
            assert self.resumed is not None
            [(key, since)] = self.resumed.since
        assert key == partition_key(self.topics.transactions, 0)
        return since

    def send(self, *values: bytes, at: datetime | None = None, partition: int = 0) -> None:
        """Send messages one by one: in one batch the embedded broker would count them as one."""
        milliseconds = 0 if at is None else int(at.timestamp() * 1000)
        for value in values:
            message = Outgoing(value, partition=partition, timestamp=milliseconds)
            produce(self.broker, self.topics.transactions, [message])

    def commit(self, offset: int, partition: int = 0, mark: Mark | None = None) -> None:
        """Commit an offset to the group, as another client."""
        consumer = Consumer({**self.broker.client_settings, "group.id": self.topics.group})
        at = TopicPartition(self.topics.transactions, partition, offset)
        if mark is not None:
            at = mark.at(at.topic, partition, offset)
        try:
            wait_until(lambda: _commits(consumer, at), what="the group's coordinator")
        finally:
            consumer.close()

    def committed(self, partition: int = 0) -> int | None:
        """The offset that the group has committed."""
        return committed(self.broker, self.topics).get(partition)


def _commits(consumer: Consumer, at: TopicPartition) -> bool:
    results = consumer.commit(offsets=[at], asynchronous=False)
    return bool(results) and results[0].error is None


@pytest.fixture
def reading(broker: KafkaServer, topics: Topics) -> Reading:
    """A source of the test's own topic."""
    return Reading(broker, topics)


def offsets(messages: list[Message]) -> list[int]:
    """Take out the offsets."""
    return [message.offset for message in messages]


def test_a_partition_that_is_quiet_is_looked_at_less_often(reading: Reading) -> None:
    """The longer nothing came, and as often as before once there was a message."""
    reading.loops().idle.came("another")
    with reading.partition() as partition:
        wait_until(lambda: partition.read_nothing_once() > timedelta(milliseconds=30))
        reading.send(b"{}")
        partition.read(1)
        assert partition.read_nothing_once() <= timedelta(milliseconds=10)


def test_every_partition_of_the_topic_is_an_input_partition(reading: Reading) -> None:
    """The keys are Bytewax's own, in the order of the partitions' numbers."""
    topic = reading.topics.transactions
    assert reading.source().list_parts() == [f"{number}-{topic}" for number in range(4)]


def test_a_topic_that_is_not_there_is_named(reading: Reading) -> None:
    """The error names the setting, and nothing creates the topic."""
    with pytest.raises(DependencyError, match=r"^KAFKA_TOPIC: there is no topic nowhere at 127"):
        reading.source(KAFKA_TOPIC="nowhere").list_parts()
    with pytest.raises(DependencyError, match=r"^KAFKA_TOPIC: there is no topic nowhere at 127"):
        reading.source(KAFKA_TOPIC="nowhere").list_parts()


@pytest.mark.parametrize(
    ("start_at", "expected"),
    [
        ("earliest", [0, 1, 2]),
        ("latest", []),
        # The embedded broker finds no offsets by time.
        pytest.param(NOON.isoformat(), [1, 2], marks=pytest.mark.apache_kafka),
        pytest.param(NOON.replace(tzinfo=None).isoformat(), [1, 2], marks=pytest.mark.apache_kafka),
        ((NOON - timedelta(days=9)).isoformat(), [0, 1, 2]),
        pytest.param((NOON + timedelta(days=9)).isoformat(), [], marks=pytest.mark.apache_kafka),
    ],
)
def test_a_group_without_offsets_starts_where_it_is_told(
    reading: Reading, start_at: str, expected: list[int]
) -> None:
    """From the first, after the last, or from the first message of a time on (UTC)."""
    for hours in (-1, 0, 1):
        reading.send(b"{}", at=NOON + timedelta(hours=hours))
    with reading.partition(KAFKA_START_AT=start_at) as partition:
        reading.send(b"new")
        assert offsets(partition.read(len(expected) + 1)) == [*expected, 3]


def test_the_groups_offset_goes_before_the_setting(reading: Reading) -> None:
    """`KAFKA_START_AT` is for groups without offsets."""
    reading.send(b"a", b"b", b"c")
    reading.commit(2)
    with reading.partition(KAFKA_START_AT="earliest") as partition:
        assert offsets(partition.read(1)) == [2]


def test_the_snapshot_goes_before_the_groups_offset(reading: Reading) -> None:
    """It belongs to the state of the other steps, the group's offset may lag behind."""
    reading.send(b"a", b"b", b"c")
    reading.commit(2)
    with reading.partition(state=_state(1)) as partition:
        assert offsets(partition.read(2)) == [1, 2]


def test_a_snapshot_resumes_behind_what_was_read(reading: Reading) -> None:
    """The next message after a restart is the first that no epoch had."""
    reading.send(b"a", b"b")
    with reading.partition() as partition:
        partition.read(2)
        state = partition.end_epoch()
    reading.send(b"c")
    with reading.partition(state=state) as partition:
        assert offsets(partition.read(1)) == [2]


def test_offsets_are_committed_when_their_epoch_is_over(reading: Reading) -> None:
    """Not when they are read, and not at the snapshot, but at the first call after it."""
    reading.send(b"a", b"b")
    with reading.partition() as partition:
        partition.read(2)
        partition.read_nothing()
        assert reading.committed() == 0
        partition.end_epoch()
        assert reading.committed() == 0
        partition.part.next_batch()
        wait_until(lambda: reading.committed() == 2, what="the commit")


def test_what_is_read_after_the_epoch_is_not_committed_with_it(reading: Reading) -> None:
    """An epoch's commit covers that epoch alone."""
    reading.send(b"a")
    with reading.partition() as partition:
        partition.read(1)
        partition.end_epoch()
        reading.send(b"b", b"c")
        partition.read(2)
        wait_until(lambda: reading.committed() == 1, what="the commit")
        partition.read_nothing()
        assert reading.committed() == 1


def test_commits_stop_short_of_what_scoring_has_in_hand(reading: Reading) -> None:
    """The lowest offset in flight is what the group has to read again."""
    reading.send(b"a", b"b", b"c", b"d")
    key = partition_key(reading.topics.transactions, 0)
    with reading.partition() as partition:
        partition.read(4)
        reading.unfinished.replace("0", {key: 2})
        reading.unfinished.replace("1", {key: 1, "another": 0})
        partition.end_epoch()
        partition.part.next_batch()
        wait_until(lambda: reading.committed() == 1, what="the commit of the held position")
        reading.unfinished.replace("0", {})
        reading.unfinished.replace("1", {})
        partition.end_epoch()
        partition.part.next_batch()
        wait_until(lambda: reading.committed() == 4, what="the commit of everything")


def test_a_group_resumes_behind_the_last_commit(reading: Reading) -> None:
    """Without a snapshot the group alone is enough, and nothing is skipped."""
    reading.send(b"a", b"b", b"c")
    key = partition_key(reading.topics.transactions, 0)
    with reading.partition() as partition:
        partition.read(3)
        reading.unfinished.replace("0", {key: 1})
        partition.end_epoch()
        partition.part.next_batch()
        wait_until(lambda: reading.committed() == 1, what="the commit")
    with reading.partition() as partition:
        assert offsets(partition.read(2)) == [1, 2]


def test_messages_arrive_as_they_are(reading: Reading) -> None:
    """Key, value and headers to the byte, null and empty ones apart; time and position too."""
    milliseconds = int(NOON.timestamp() * 1000)
    given = [
        Outgoing(b'{"id": 1}', key=b"k\xff\x00", headers=[("a", b"1"), ("a", b"\xff"), ("b", b"")]),
        Outgoing(None, key=b""),
        Outgoing(b"", key=None),
    ]
    sent = [
        Outgoing(each.value, each.key, each.headers, partition=3, timestamp=milliseconds + number)
        for number, each in enumerate(given)
    ]
    produce(reading.broker, reading.topics.transactions, sent)
    with reading.partition(3) as partition:
        found = partition.read(3)
    assert found == [
        Message(
            message.key,
            message.value,
            list(message.headers),
            reading.topics.transactions,
            3,
            number,
            milliseconds + number,
        )
        for number, message in enumerate(sent)
    ]


def test_a_batch_is_bounded(reading: Reading) -> None:
    """However much is waiting, one call gives four requests' worth."""
    produce(
        reading.broker,
        reading.topics.transactions,
        [Outgoing(b"%d" % number, partition=0) for number in range(200)],
    )
    sizes: list[int] = []

    def all_read() -> bool:
        sizes.append(len(list(partition.part.next_batch())))
        return sum(sizes) == 200

    with reading.partition(BATCH_SIZE="10") as partition:
        wait_until(all_read, what="all messages")
    assert max(sizes) == 40


def test_an_idle_partition_is_asked_again_soon_and_not_at_once(reading: Reading) -> None:
    """A partition that has messages is not to wait, one that has none is not to spin."""
    with reading.partition() as partition:
        partition.read_nothing()
        awake = partition.part.next_awake()
        assert awake is not None
        assert timedelta(0) < awake - datetime.now(UTC) < timedelta(milliseconds=50)
        reading.send(b"a")
        partition.read(1)
        assert partition.part.next_awake() is None


@pytest.fixture
def sleepy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a worker without work sleep at once, and until there is a message."""
    monkeypatch.setattr("operators.engine.idle.QUIET_AFTER", 0)
    monkeypatch.setattr("operators.engine.idle.patience", lambda _: LIMIT)
    monkeypatch.setattr("operators.engine.epochs.Pace.left", lambda _: 2 * LIMIT)


@pytest.mark.usefixtures("sleepy")
def test_a_worker_without_work_waits_for_a_message_in_the_source(reading: Reading) -> None:
    """And wakes up when it comes: nobody else lets it sleep."""
    with reading.partition() as partition:
        sending = threading.Timer(0.2, reading.send, [b"a"])
        sending.start()
        [found] = partition.part.next_batch()
        sending.join()
    assert found.value == b"a"


@pytest.mark.usefixtures("sleepy")
def test_a_worker_with_work_in_hand_does_not_wait_in_the_source(reading: Reading) -> None:
    """Answers and writes go on only while it looks after them."""
    working = reading.loops().spawn(asyncio.sleep(LIMIT))
    with reading.partition() as partition:
        assert partition.read_nothing_once() <= BUSY
    working.cancel()
    reading.loops().pump()


def test_a_worker_that_must_not_sleep_looks_often_at_one_partition(reading: Reading) -> None:
    """Its epoch ends when it looks, and others wait for that; another one is looked at less."""
    with reading.partition(0) as first, reading.partition(1) as second:
        first.read_nothing_once()
        wait_until(lambda: second.read_nothing_once() > SOON)
        assert first.read_nothing_once() <= SOON


def test_a_stop_ends_the_partition(reading: Reading) -> None:
    """Even if messages are waiting: they are for the next run."""
    reading.send(b"a")
    with reading.partition() as partition:
        reading.stop.request()
        with pytest.raises(StopIteration):
            partition.part.next_batch()
        assert partition.end_epoch()["offset"] == 0


def test_lag_is_what_is_still_to_be_read(reading: Reading) -> None:
    """Of all partitions together, and nothing once all is read."""
    reading.send(*[b"x"] * 9)
    reading.send(*[b"x"] * 2, partition=1)
    with reading.partition(0, BATCH_SIZE="1") as first, reading.partition(1) as second:
        read = len(first.read(1))
        second.read(2)
        assert 1 <= read <= 4
        assert reading.progress.totals()["lag"] == 9 - read
        first.read(9 - read)
        assert reading.progress.totals()["lag"] == 0


@pytest.mark.apache_kafka
def test_an_offset_that_retention_removed_stops_the_source(
    reading: Reading, apache_kafka: ApacheKafka
) -> None:
    """It says how many messages are gone and how to go on; nothing is skipped in silence."""
    reading.send(*[b"x"] * 7)
    _delete_before(apache_kafka, TopicPartition(reading.topics.transactions, 0, 5))
    with reading.partition(state=_state(2)) as partition:
        expected = (
            rf"^0-{reading.topics.transactions}: offset 2 is not in the topic any more, which "
            r"holds 5 to 7: 3 messages are gone\. .*KAFKA_ON_MISSING=skip"
        )
        with pytest.raises(SourceError, match=expected):
            partition.read(1)


@pytest.mark.apache_kafka
def test_missing_messages_are_skipped_if_that_is_wanted(
    reading: Reading, apache_kafka: ApacheKafka
) -> None:
    """With KAFKA_ON_MISSING=skip it goes on with what is left, and counts what is gone."""
    reading.send(*[b"x"] * 7)
    _delete_before(apache_kafka, TopicPartition(reading.topics.transactions, 0, 5))
    with reading.partition(state=_state(2), KAFKA_ON_MISSING="skip") as partition:
        assert [reading.reads_again(offset) for offset in (1, 2, 4)] == [False, True, True]
        assert offsets(partition.read(2)) == [5, 6]
    assert reading.progress.totals()["skipped"] == 3


@pytest.mark.apache_kafka
def test_what_is_skipped_is_told(reading: Reading, apache_kafka: ApacheKafka) -> None:
    """From which offset on, and how many: a warning, for it is a loss."""
    reading.send(*[b"x"] * 7)
    _delete_before(apache_kafka, TopicPartition(reading.topics.transactions, 0, 5))
    with (
        capture_logs() as lines,
        reading.partition(state=_state(2), KAFKA_ON_MISSING="skip") as partition,
    ):
        partition.read(2)
    [line] = [line for line in lines if line["event"] == "source.skipped"]
    told = {"event": "source.skipped", "log_level": "warning"}
    assert line == {**told, "partition": 0, "offset": 2, "gone": 3}


@pytest.mark.apache_kafka
def test_an_offset_that_was_set_by_hand_goes_before_the_snapshot(
    reading: Reading, apache_kafka: ApacheKafka
) -> None:
    """`kafka-consumer-groups --reset-offsets` is honoured at the next start."""
    reading.send(b"a", b"b", b"c")
    with reading.partition() as partition:
        partition.read(3)
        partition.end_epoch()
        partition.part.next_batch()
        wait_until(lambda: reading.committed() == 3, what="the commit")

        def is_known() -> bool:
            partition.part.next_batch()
            return bool(partition.end_epoch()["keeps_marks"])

        wait_until(is_known, what="the mark")
        state = partition.end_epoch()
    with reading.partition(state=state) as partition:
        partition.read_nothing()
    apache_kafka.group_tool(
        *("--reset-offsets", "--group", reading.topics.group, "--execute"),
        *("--topic", reading.topics.transactions, "--to-offset", "1"),
    )
    with reading.partition(state=state) as partition:
        assert offsets(partition.read(2)) == [1, 2]


def test_an_offset_that_was_set_by_hand_is_told(reading: Reading) -> None:
    """What is read twice or left out by it was somebody's wish: a warning with both offsets."""
    reading.send(b"a", b"b", b"c")
    reading.commit(1)
    with capture_logs() as lines, reading.partition(state=_state(2, keeps_marks=True)):
        pass
    [line] = [line for line in lines if line["event"] == "source.moved"]
    assert line["log_level"] == "warning"
    assert (line["partition"], line["snapshot"], line["offset"]) == (0, 2, 1)


def test_after_a_snapshot_the_error_topic_counts_from_its_time(reading: Reading) -> None:
    """What was written since is of messages that come again."""
    reading.send(b"a", b"b")
    assert reading.resumed_since(_state(1, taken=1_770_000_000_123)) == 1_770_000_000_123


def test_after_an_offset_without_a_mark_the_whole_error_topic_counts(reading: Reading) -> None:
    """It may be far back, set by hand or by another client: with a snapshot or without."""
    reading.send(b"a", b"b", b"c")
    reading.commit(1)
    assert reading.resumed_since() == 0
    assert reading.resumed_since(_state(2, taken=1_770_000_000_123, keeps_marks=True)) == 0


@pytest.mark.apache_kafka
def test_after_an_offset_with_a_mark_the_error_topic_counts_from_its_time(reading: Reading) -> None:
    """The recovery directory is lost: the mark says when the position was taken."""
    reading.send(b"a", b"b")
    reading.commit(1, mark=Mark("", 1_770_000_000_123))
    assert reading.resumed_since() == 1_770_000_000_123


def test_a_group_that_begins_has_an_offset_at_once(reading: Reading) -> None:
    """A run that is killed in its first epoch is followed by one that resumes, not begins."""
    reading.send(b"a", b"b")
    before = time.time() * 1000
    since = reading.resumed_since()
    assert reading.committed() == 0
    # What a transaction that was given up has left in the first epoch counts.
    assert before - 1 <= since <= time.time() * 1000 + 1


def test_a_broker_that_keeps_no_marks_is_no_operator(reading: Reading) -> None:
    """An offset without a mark goes before the snapshot only where marks are known to be kept."""
    reading.send(b"a", b"b", b"c")
    reading.commit(1)
    with reading.partition(state=_state(2)) as partition:
        assert offsets(partition.read(1)) == [2]


@pytest.mark.parametrize("by", ["snapshot", "group"])
@pytest.mark.apache_kafka
def test_a_topic_that_was_made_anew_is_recognised(
    reading: Reading, apache_kafka: ApacheKafka, by: str
) -> None:
    """Its offsets may all be there again, but they mean other messages."""
    topic = reading.topics.transactions
    reading.send(b"a", b"b")
    with reading.partition() as partition:
        partition.read(2)
        state = partition.end_epoch()
        partition.part.next_batch()
        wait_until(lambda: reading.committed() == 2, what="the commit")
    admin = AdminClient(apache_kafka.client_settings)
    admin.delete_topics([topic])[topic].result(10)
    wait_until(lambda: topic not in admin.list_topics(timeout=10).topics, what="its end")
    apache_kafka.create_topic(topic, 4)
    reading.send(b"c", b"d", b"e")
    if by == "group":
        # Kafka forgets the group's offsets with the topic; a group that was restored has them.
        mark = Mark(state["topic_id"], 0).write()
        consumer = Consumer({**apache_kafka.client_settings, "group.id": reading.topics.group})
        consumer.commit(offsets=[TopicPartition(topic, 0, 2, mark)], asynchronous=False)
        consumer.close()
    expected = pytest.raises(SourceError, match="deleted and made anew")
    with expected, reading.partition(state=state if by == "snapshot" else None):
        pass


def test_a_partition_is_claimed_before_it_is_read(reading: Reading) -> None:
    """So that a second instance of the stream ends before it does anything."""
    reading.send(b"a")
    with reading.partition(2):
        assert reading.claimed == [f"2-{reading.topics.transactions}"]


def test_the_last_positions_are_committed_at_the_end(reading: Reading) -> None:
    """After an end in good order the group shows no lag, also of the last epoch."""
    reading.send(b"a", b"b", b"c")
    source = reading.source()
    [key, *_] = source.list_parts()
    part = source.build_part("transactions", key, None)
    Partition(part).read(3)
    reading.unfinished.replace("0", {key: 2})
    reading.stop.request()
    with pytest.raises(StopIteration):
        part.next_batch()
    part.close()
    source.commit_ends()
    assert reading.committed() == 2


@pytest.mark.apache_kafka
def test_an_offset_beyond_the_end_stops_the_source(reading: Reading) -> None:
    """Only a topic that was made anew does not have it: its positions mean other messages."""
    reading.send(b"a", b"b")
    expected = pytest.raises(SourceError, match="deleted and made anew")
    with reading.partition(state=_state(50)) as partition, expected:
        partition.read(1)


@pytest.mark.apache_kafka
def test_a_topic_that_vanishes_stops_the_source(
    reading: Reading, apache_kafka: ApacheKafka
) -> None:
    """The message names partition and offset; the stream does not wait for good."""
    reading.send(b"a")
    quick = '{"topic.metadata.propagation.max.ms": 500, "topic.metadata.refresh.interval.ms": 200}'
    with reading.partition(KAFKA_PROPERTIES=quick) as partition:
        partition.read(1)
        admin = AdminClient(apache_kafka.client_settings)
        admin.delete_topics([reading.topics.transactions])[reading.topics.transactions].result(10)
        expected = "cannot read on from offset 1: the topic or this partition of it is gone"
        with pytest.raises(SourceError, match=expected):
            partition.read(1)


@pytest.mark.apache_kafka
def test_a_partition_that_is_added_is_listed_at_the_next_start(
    reading: Reading, apache_kafka: ApacheKafka
) -> None:
    """Partitions may grow in number while the stream is down."""
    topic = reading.topics.transactions
    admin = AdminClient(apache_kafka.client_settings)
    admin.create_partitions([NewPartitions(topic, 5)])[topic].result(10)
    wait_until(lambda: reading.source().list_parts()[4:] == [f"4-{topic}"], what="the new one")


@pytest.mark.apache_kafka
def test_what_it_commits_is_seen_by_the_groups_tool(
    reading: Reading, apache_kafka: ApacheKafka
) -> None:
    """`kafka-consumer-groups` shows offset and lag, though the group has no members."""
    reading.send(b"a", b"b", b"c")
    with reading.partition() as partition:
        partition.read(3)
        partition.end_epoch()
        partition.part.next_batch()
        wait_until(lambda: reading.committed() == 3, what="the commit")
    reading.send(b"d")
    shown = apache_kafka.group_tool("--describe", "--group", reading.topics.group)
    [row] = [line.split() for line in shown.splitlines() if reading.topics.transactions in line]
    assert row[2:6] == ["0", "3", "4", "1"]


def _delete_before(broker: KafkaServer, at: TopicPartition) -> None:
    admin = AdminClient(broker.client_settings)
    for answer in admin.delete_records([at]).values():
        answer.result(10)


def test_a_snapshot_is_taken_only_while_the_lock_is_held(reading: Reading) -> None:
    """A process that was frozen ends here if another has its lock, before the epoch is complete."""
    with reading.partition() as partition:
        reading.claimed.clear()
        partition.end_epoch()
    assert reading.claimed == [partition_key(reading.topics.transactions, 0)]
