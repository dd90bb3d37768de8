"""What tests do to Kafka: produce, read everything, ask for commits."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from lab.servers import KafkaServer
from operators.dead_letters.check import VALUE

__all__ = ["Outgoing", "Topics", "committed", "header", "produce", "read_all"]


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
            if message.value() != VALUE:  # of a start's check, which the embedded broker shows
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
