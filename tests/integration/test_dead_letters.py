"""Dead letters against a broker: what is in the topic, and that delivered means acknowledged."""

import asyncio
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Event, Timer
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from lab.servers import ApacheKafka, KafkaServer
from operators.dead_letters.already_written import ReadBack
from operators.dead_letters.envelope import Record, original
from operators.dead_letters.producer import FencedProducer, Letter
from operators.dead_letters.writer import DeadLetterSink, DeadLetterWriter, check
from operators.engine.loop import Loop
from operators.engine.shutdown import Stop
from operators.errors import DeliveryError, DependencyError
from operators.records import Failure, Message
from settings import Settings
from telemetry import Progress
from tests.support import Topics, environment, header, read_all, settings_of, wait_until

SEED = 20260301


class Writing:
    """A writer and what it is told."""

    def __init__(self, broker: KafkaServer, topics: Topics) -> None:
        self.broker, self.topics = broker, topics
        self.stop = Stop(timedelta(seconds=0.5))
        self.progress = Progress()
        self.loop = Loop()
        self.writer = self.another()
        self.writer.open(self.failure().message.partition_key)

    def settings(self, **variables: str) -> Settings:
        """Make settings, with the same environment or more of it."""
        return settings_of(
            environment(
                self.broker,
                self.topics,
                database_url="postgresql://unused",
                model_url="http://unused",
                **variables,
            )
        )

    def another(self, **variables: str) -> DeadLetterWriter:
        """Make another writer, with the same environment or more of it."""
        settings = self.settings(**variables)
        return DeadLetterWriter(
            settings,
            loop=self.loop,
            read_back=ReadBack(settings),
            progress=self.progress,
            stop=self.stop,
        )

    def failure(self, value: bytes | None = b"{}", offset: int = 0, **fields: Any) -> Failure:
        """Make a failure of a message of the test's own topic."""
        message = Message(
            key=fields.pop("key", None),
            value=value,
            headers=fields.pop("headers", []),
            topic=self.topics.transactions,
            partition=fields.pop("partition", 1),
            offset=offset,
            timestamp=1_770_000_000_123,
        )
        given = {
            "stage": "validate",
            "disposition": "poison",
            "code": "amount.missing",
            "error": "amount: Field required",
        }
        return Failure(message, **{**given, **fields})

    def deliver(self, *failures: Failure) -> list[KafkaMessage]:
        """Write and flush failures, and read the topic."""
        self.writer.write(failures)
        self.writer.flush()
        return read_all(self.broker, self.topics.failed, at_least=len(failures))


@pytest.fixture
def writing(broker: KafkaServer, topics: Topics) -> Writing:
    """A writer to the test's own error topic."""
    return Writing(broker, topics)


def record_of(message: KafkaMessage) -> Record:
    """What was read, as `original` wants it."""
    value, headers = message.value(), message.headers()
    assert value is not None
    assert isinstance(headers, list)
    return Record(
        message.key(),
        value,
        [(name, text.encode() if isinstance(text, str) else text) for name, text in headers],
    )


def noise(length: int) -> bytes:
    """Text that does not compress, the same at every run."""
    print("seed", SEED)  # noqa: T201 - to repeat it
    rng = random.Random(SEED)  # noqa: S311 - chance that can be repeated
    return (
        bytes(rng.randrange(33, 127) for _ in range(length))
        .replace(b'"', b"'")
        .replace(b"\\", b"/")
    )


def test_the_record_is_as_documented(writing: Writing) -> None:
    """Value, key and headers, the original's headers first."""
    failure = writing.failure(
        b'{"id": 7}', offset=12, key=b"k\xff", headers=[("trace", b"\x00\xff")], attempts=4
    )
    before = datetime.now(UTC)
    [found] = writing.deliver(failure)
    record = record_of(found)
    content = json.loads(record.value)
    assert list(content) == ["transaction", "error", "timestamp"]
    assert content["transaction"] == {"id": 7}
    assert content["error"] == "amount: Field required"
    assert before <= datetime.fromisoformat(content["timestamp"]) <= datetime.now(UTC)
    assert record.key == b"k\xff"
    topic = writing.topics.transactions
    assert record.headers == [
        ("trace", b"\x00\xff"),
        ("dlq.id", f"{topic}-1-12".encode()),
        ("dlq.topic", topic.encode()),
        ("dlq.partition", b"1"),
        ("dlq.offset", b"12"),
        ("dlq.timestamp", b"1770000000123"),
        ("dlq.stage", b"validate"),
        ("dlq.disposition", b"poison"),
        ("dlq.code", b"amount.missing"),
        ("dlq.attempts", b"4"),
        ("dlq.replays", b"0"),
        ("dlq.encoding", b"json"),
        ("dlq.length", b"9"),
    ]


def test_the_original_can_be_restored_from_the_topic(writing: Writing) -> None:
    """To the byte, whatever it was, with its key, headers and position."""
    values: list[bytes | None] = [
        None,
        b"",
        b"null",
        b' {"a" : 1.50, "b": "\\u00e9"} ',
        b"[1, 2",
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b'{"half": "\\ud83d"}',
        'plain \U0001f4b3 text with " and \\ and \x00 and \u2028'.encode(),
        b"\xff\xfe\x00{",
        b'{"latin": "\xe9"}',
        b"[" * 5_000 + b"]" * 5_000,
    ]
    failures = [
        writing.failure(value, offset=number, key=b"\x00", headers=[("h", None), ("h", b"\xff")])
        for number, value in enumerate(values)
    ]
    records = [record_of(found) for found in writing.deliver(*failures)]
    for record in records:
        json.loads(record.value)
    restored = {found.offset: found for record in records if (found := original(record))}
    assert [restored[number] for number in range(len(values))] == [
        failure.message for failure in failures
    ]


def test_everything_is_acknowledged_when_flush_returns(writing: Writing) -> None:
    """Counted when acknowledged, and then in the topic, once each."""
    failures = [writing.failure(b"%d" % number, offset=number) for number in range(500)]
    writing.writer.write(failures)
    writing.writer.flush()
    assert writing.progress.totals()["failed"] == 500
    found = read_all(writing.broker, writing.topics.failed)
    assert sorted(int(header(each, "dlq.offset") or -1) for each in found) == list(range(500))


def test_what_the_producer_refuses_as_too_large_is_cut(writing: Writing) -> None:
    """With a mark that says what is missing; position and beginning of the value are kept."""
    cases: list[tuple[dict[str, Any], str]] = [
        ({"value": b"v" * 1_100_000}, "value"),
        ({"value": b"\xff" * 900_000}, "value"),
        ({"key": b"k" * 1_100_000}, "value,key"),
        ({"headers": [("h", b"h" * 600_000), ("i", b"i" * 600_000)]}, "value,headers"),
        ({"key": b"k" * 600_000, "headers": [("h", b"h" * 600_000)]}, "value,headers,key"),
    ]
    failures = [
        writing.failure(**{"value": b"short", "offset": number, **fields})
        for number, (fields, _) in enumerate(cases)
    ]
    found = {header(each, "dlq.offset"): each for each in writing.deliver(*failures)}
    for number, failure in enumerate(failures):
        record = record_of(found[str(number)])
        value = failure.message.value or b""
        assert header(found[str(number)], "dlq.cut") == cases[number][1]
        assert header(found[str(number)], "dlq.length") == str(len(value))
        assert json.loads(record.value)["transaction"] == value.decode(errors="replace")[:10_000]
        assert len(record.value) + len(record.key or b"") < 40_000
        assert original(record) is None


def test_a_message_of_the_producers_limit_does_not_stop_its_neighbours(writing: Writing) -> None:
    """What fits is whole, what does not is cut, in one call."""
    sizes = [10, 1_000_000, 1_100_000, 10]
    found = writing.deliver(
        *(writing.failure(b"x" * size, offset=number) for number, size in enumerate(sizes))
    )
    cuts = {header(each, "dlq.offset"): header(each, "dlq.cut") for each in found}
    assert cuts["0"] is cuts["3"] is None
    assert cuts["2"] == "value"
    assert len(found) == 4


def limited(broker: KafkaServer, topics: Topics, size: int) -> Topics:
    """Make an error topic that takes no more than so many bytes."""
    name = f"{topics.failed}-limited"
    broker.create_topic(name, 1, config={"max.message.bytes": str(size)})
    return Topics(topics.transactions, name, topics.group)


@pytest.mark.apache_kafka
@pytest.mark.parametrize("what", ["value", "key", "headers"])
def test_what_the_topic_refuses_as_too_large_is_cut(
    apache_kafka: ApacheKafka, topics: Topics, what: str
) -> None:
    """Its limit may be below the producer's, and is known only from its refusal."""
    writing = Writing(apache_kafka, limited(apache_kafka, topics, 50_000))
    large = noise(200_000)
    fields: dict[str, Any] = {what: [("h", large)] if what == "headers" else large}
    [found] = writing.deliver(writing.failure(**{"offset": 5, **fields}))
    assert what in (header(found, "dlq.cut") or "")
    assert header(found, "dlq.offset") == "5"


@pytest.mark.apache_kafka
def test_small_ones_are_whole_beside_one_that_the_topic_refuses(
    apache_kafka: ApacheKafka, topics: Topics
) -> None:
    """The topic's limit holds for a batch of records; what alone fits must not be cut."""
    writing = Writing(apache_kafka, limited(apache_kafka, topics, 50_000))
    text = noise(200_000)
    sizes = [20_000] * 20 + [100_000] + [20_000] * 20
    found = writing.deliver(
        *(writing.failure(text[:size], offset=number) for number, size in enumerate(sizes))
    )
    cuts = {int(header(each, "dlq.offset") or -1): header(each, "dlq.cut") for each in found}
    assert len(found) == len(sizes)
    assert cuts == {n: "value" if size > 50_000 else None for n, size in enumerate(sizes)}


@pytest.mark.apache_kafka
def test_a_topic_that_takes_not_even_what_was_cut_stops_the_stream(
    apache_kafka: ApacheKafka, topics: Topics
) -> None:
    """Rather than lose it, and without trying for good."""
    writing = Writing(apache_kafka, limited(apache_kafka, topics, 1_000))
    with pytest.raises(DeliveryError, match=r"^KAFKA_ERROR_TOPIC: cannot write to .*-limited: "):
        writing.deliver(writing.failure(noise(100_000)))


def test_flush_waits_for_a_broker_that_hangs(writing: Writing) -> None:
    """It returns after the broker goes on, and everything is there."""
    writing.deliver(writing.failure(offset=0))
    writing.broker.pause()
    Timer(0.5, writing.broker.resume).start()
    writing.writer.write([writing.failure(offset=1)])
    assert writing.progress.totals()["failed"] == 1
    writing.writer.flush()
    assert writing.progress.totals()["failed"] == 2
    assert len(read_all(writing.broker, writing.topics.failed, at_least=2)) == 2


def test_a_stop_ends_the_waiting_for_a_broker_that_is_gone(writing: Writing) -> None:
    """When the stop is overdue flush fails; the failures are not taken for delivered."""
    writing.deliver(writing.failure(offset=0))
    writing.broker.kill()
    writing.writer.write([writing.failure(offset=1)])
    writing.stop.request()
    expected = rf"^KAFKA_ERROR_TOPIC: cannot write to {writing.topics.failed}: no acknowledgement"
    with pytest.raises(DeliveryError, match=expected):
        writing.writer.flush()
    assert writing.progress.totals()["failed"] == 1


@pytest.mark.apache_kafka
def test_a_failure_that_is_refused_by_the_broker_is_told_at_the_next_call(
    writing: Writing,
) -> None:
    """A topic that is not there is not worth waiting for."""
    properties = '{"topic.metadata.propagation.max.ms": 100}'
    writer = writing.another(KAFKA_ERROR_TOPIC="nowhere-at-all", KAFKA_PROPERTIES=properties)
    writer.write([writing.failure()])
    with pytest.raises(DeliveryError, match=r"^KAFKA_ERROR_TOPIC: cannot write to nowhere"):
        writer.flush()
    with pytest.raises(DeliveryError, match=r"^KAFKA_ERROR_TOPIC: cannot write to nowhere"):
        writer.write([])


def test_a_zombie_writes_nothing_once_it_has_a_successor(writing: Writing) -> None:
    """What waits in a process that was frozen does not follow what its successor wrote."""
    zombie, successor = writing.writer, writing.another()
    failures = [writing.failure(offset=number) for number in range(3)]
    zombie.write(failures[:2])
    successor.open(failures[0].message.partition_key)
    successor.write(failures)
    successor.flush()
    expected = f"cannot write to {writing.topics.failed}: another process has taken 1-"
    with pytest.raises(DeliveryError, match=expected):
        zombie.flush()
    with pytest.raises(DeliveryError, match=expected):
        zombie.write([writing.failure(offset=3)])
    found = read_all(writing.broker, writing.topics.failed)
    assert sorted(header(each, "dlq.offset") or "" for each in found) == ["0", "1", "2"]


@pytest.mark.apache_kafka
def test_what_a_zombie_has_sent_and_not_committed_is_aborted(
    writing: Writing, apache_kafka: ApacheKafka
) -> None:
    """Its records are in the topic, and are never seen by who reads committed ones."""
    settings = writing.settings()
    key = writing.failure().message.partition_key
    zombie = FencedProducer(settings, key)
    zombie.open(timedelta(seconds=10))
    commit, frozen = zombie._finish, Event()  # noqa: SLF001 - to hold it before its last step

    async def held(call: Callable[[float], Any]) -> None:
        await zombie._deliver()  # noqa: SLF001 - the records, to the topic
        await asyncio.to_thread(frozen.wait)
        await commit(call)

    zombie._finish = held  # type: ignore[method-assign]  # noqa: SLF001
    loop = Loop()
    task = loop.spawn(zombie.send([Letter(writing.failure(offset=0))]))

    def arrived() -> bool:
        loop.wait_any([task], 0.1)
        return ends(apache_kafka, writing.topics.failed) > 0

    wait_until(arrived, what="the record")
    successor = writing.another()
    successor.open(key)
    successor.write([writing.failure(offset=0)])
    successor.flush()
    frozen.set()
    with pytest.raises(KafkaException, match="fenced"):
        loop.run(asyncio.wait_for(task, 10))
    found = read_all(apache_kafka, writing.topics.failed)
    assert [header(each, "dlq.offset") for each in found] == ["0"]


def ends(broker: KafkaServer, topic: str) -> int:
    """Count what was written to a topic, committed or not."""
    isolation = {"group.id": "ends", "isolation.level": "read_uncommitted"}
    consumer = Consumer({**broker.client_settings, **isolation})
    try:
        marks = [
            consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)
            for number in range(4)
        ]
    finally:
        consumer.close()
    return sum(high for _, high in marks)


def test_few_failures_are_written_within_a_second_or_so(writing: Writing) -> None:
    """Without an end of an epoch, while the worker's loop is pumped."""
    writing.writer.write([writing.failure()])

    def written() -> bool:
        writing.loop.pump()
        return bool(writing.progress.totals()["failed"])

    wait_until(written, timedelta(seconds=5), what="the record")


@pytest.mark.apache_kafka
def test_after_the_brokers_restart_everything_is_there_once(
    writing: Writing, apache_kafka: ApacheKafka
) -> None:
    """What was not acknowledged when it was killed is sent again."""
    failures = [writing.failure(noise(2_000), offset=number) for number in range(2_000)]
    writing.deliver(failures[0])
    writing.writer.write(failures[1:])
    apache_kafka.kill()
    apache_kafka.start()
    writing.writer.flush()
    found = read_all(apache_kafka, writing.topics.failed, at_least=2_000)
    assert sorted(int(header(each, "dlq.offset") or -1) for each in found) == list(range(2_000))


@pytest.mark.apache_kafka
def test_what_is_sent_again_is_no_second_copy(writing: Writing) -> None:
    """A broker that hangs past the time limit of a request has both in the end, and keeps one."""
    limits = '{"socket.timeout.ms": 500, "request.timeout.ms": 500, "retry.backoff.ms": 50}'
    writer = writing.another(KAFKA_PROPERTIES=limits)
    writer.write([writing.failure(offset=0)])
    writer.flush()
    writing.broker.pause()
    Timer(2, writing.broker.resume).start()
    writer.write(writing.failure(offset=number) for number in range(1, 50))
    writer.flush()
    found = read_all(writing.broker, writing.topics.failed, at_least=50)
    assert sorted(int(header(each, "dlq.offset") or -1) for each in found) == list(range(50))


def test_a_full_queue_makes_write_wait(writing: Writing) -> None:
    """The producer's queue is the bound; nothing is dropped when it is full."""
    writer = writing.another(KAFKA_PROPERTIES='{"queue.buffering.max.messages": 10}')
    writer.write(writing.failure(offset=number) for number in range(200))
    writer.flush()
    assert writing.progress.totals()["failed"] == 200


@pytest.mark.apache_kafka
def test_a_broker_that_refuses_transactions_is_found_at_start(writing: Writing) -> None:
    """By the check, and where a partition is taken over: with the name that needs the right."""
    settings = writing.settings(KAFKA_PROPERTIES='{"transaction.timeout.ms": 2000000000}')
    expected = f"^KAFKA_ERROR_TOPIC: no producer with .* such as {writing.topics.group}:…: .*time"
    with pytest.raises(DependencyError, match=expected):
        check(settings)
    with pytest.raises(DeliveryError, match=expected):
        writing.another(KAFKA_PROPERTIES='{"transaction.timeout.ms": 2000000000}').open("0-any")


def test_the_sink_has_the_sources_partitions(writing: Writing) -> None:
    """Under the same keys, so that each stays on the worker of its source partition."""
    settings = writing.settings()
    sink = DeadLetterSink(settings, writers=lambda: writing.writer, claim=lambda _key: None)
    keys = sink.list_parts()
    assert keys == [f"{number}-{writing.topics.transactions}" for number in range(4)]
    assert [sorted(keys)[sink.part_fn(key)] for key in keys] == keys


def test_a_snapshot_of_the_sink_waits_for_the_acknowledgement(writing: Writing) -> None:
    """The epoch may end only then."""
    settings = writing.settings()
    claimed: list[str] = []
    sink = DeadLetterSink(settings, writers=lambda: writing.writer, claim=claimed.append)
    part = sink.build_part("failed", "0-transactions", None)
    part.write_batch([writing.failure()])
    part.snapshot()
    assert claimed == ["0-transactions"]
    assert writing.progress.totals()["failed"] == 1
