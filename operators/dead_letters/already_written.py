"""Read back from the error topic what a predecessor wrote, so that it is not written twice.

Messages after the last durable position are read again after a crash, and some of those that fail
then failed before. Their records are in the error topic already, written after the position was
taken: from that time on the topic is read, once, before the first failure is written. By then this
worker holds the locks of its partitions (`operators.postgres.session`) and has fenced their earlier
producers (`operators.dead_letters.producer`), so that nobody else writes.

One message can be under way twice in one run: the state of the scoring step restores it, and its
partition reads it again, for the state may be stale (see `operators.score`), or somebody has set
the group's offset back. What the topic holds does not tell them apart. The partition's copy counts,
and the sinks leave the restored one out.

Only what is committed counts, and a transaction that somebody left open hides what was committed
behind it, until it is aborted. So where to begin and where to end is asked for without regard to
transactions.
"""

import asyncio
import time
from datetime import timedelta
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from operators.errors import DeliveryError
from operators.kafka import client as topics
from operators.records import Message, partition_key
from settings import Settings
from telemetry import log

__all__ = ["ReadBack"]

SLACK: Final = timedelta(minutes=5)  # by which the clocks of brokers and workers may differ
LIMIT: Final = 60.0  # seconds without anything new
CALL_TIMEOUT: Final = 10.0


class ReadBack:
    """Failures of one worker's partitions that the error topic holds already.

    :arg settings: Brokers and topics.

    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._resumed: set[str] = set()
        self._begins: dict[str, int] = {}
        self._since: int | None = None
        self._known: set[tuple[int, int]] | None = None
        self._earlier: set[tuple[int, int]] = set()
        self._reading = asyncio.Lock()

    def resume(self, key: str, since: int) -> None:
        """Note that a partition goes on from a position, or that work in hand of it is restored.

        :arg key: Of the source partition.

        :arg since: When that was taken, in milliseconds since 1970; 0 if that is not known:
            then the whole topic is read.

        """
        self._resumed.add(key)
        self.again(since)

    def begin(self, key: str, offset: int) -> None:
        """Note where a partition begins to read.

        :arg key: Of the source partition.

        :arg offset: The first that is read.

        """
        self._begins[key] = offset

    def reads_again(self, message: Message) -> bool:
        """Whether a message was restored, and its partition reads it again.

        :arg message: On the worker of its partition.

        """
        if not message.restored:
            return False
        begin = self._begins.get(message.partition_key)
        return begin is not None and message.offset >= begin

    def again(self, since: int) -> None:
        """Let the topic be read again, which has to be done before the next look.

        :arg since: From when on, in milliseconds since 1970.

        """
        if self._known is not None:
            self._earlier, self._known, self._since = self._known, None, None
        self._since = since if self._since is None else min(self._since, since)

    @property
    def is_due(self) -> bool:
        """Whether the topic has to be read before the next failure is written."""
        return self._known is None

    async def read(self) -> None:
        """Read the topic if that is due, while the loop goes on: what is open there may be ours.

        :raises DeliveryError: It cannot be read.

        """
        async with self._reading:  # both sinks may ask at once, and one reading serves both
            if self._known is None:
                found = await asyncio.to_thread(self._read) if self._resumed else set()
                self._known = self._earlier | found

    def has(self, message: Message) -> bool:
        """Whether the failure of a message was in the error topic when that was read.

        :arg message: That failed.

        """
        return (message.partition, message.offset) in (self._known or ())

    def _read(self) -> set[tuple[int, int]]:
        started = time.monotonic()
        consumer = Consumer(
            topics.client(
                self._settings,
                {
                    "group.id": self._settings.kafka_consumer_group,  # not used: nothing commits
                    "enable.auto.commit": False,
                    "enable.partition.eof": True,
                    "auto.offset.reset": "earliest",
                },
            )
        )
        try:
            known = self._read_to_the_end(consumer)
        except KafkaException as error:
            msg = (
                f"KAFKA_ERROR_TOPIC: cannot read back {self._settings.kafka_error_topic}:"
                f" {error.args[0].str()}"
            )
            log.error("dead_letters.stopped", error=msg)
            raise DeliveryError(msg) from None
        finally:
            consumer.close()
        seconds = round(time.monotonic() - started, 2)
        log.info("dead_letters.read_back", known=len(known), seconds=seconds)
        return known

    def _read_to_the_end(self, consumer: Consumer) -> set[tuple[int, int]]:
        topic = self._settings.kafka_error_topic
        since = max(0, (self._since or 0) - round(SLACK.total_seconds() * 1000))
        spans = topics.spans(self._settings, topic, since, timeout=CALL_TIMEOUT)
        consumer.assign([TopicPartition(topic, at, start) for at, (start, _) in spans.items()])
        running = set(spans)
        known: set[tuple[int, int]] = set()
        limit = time.monotonic() + LIMIT
        while running:
            for record in consumer.consume(1_000, 0.1):
                error = record.error()
                if error is None:
                    known.update(self._positions(record))
                    limit = time.monotonic() + LIMIT
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                    number = record.partition() or 0
                    _, end = spans[number]
                    if (record.offset() or 0) >= end:
                        running.discard(number)
                elif not error.retriable():
                    raise KafkaException(error)
            if time.monotonic() > limit:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001
        return known

    def _positions(self, record: KafkaMessage) -> list[tuple[int, int]]:
        headers: Any = dict(record.headers() or [])
        try:
            topic = headers["dlq.topic"].decode()
            partition, offset = int(headers["dlq.partition"]), int(headers["dlq.offset"])
        except (AttributeError, KeyError, TypeError, ValueError):  # not the stream's
            return []
        return [(partition, offset)] if partition_key(topic, partition) in self._resumed else []
