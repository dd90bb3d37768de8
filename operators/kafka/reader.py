"""Read all partitions of a worker with one consumer.

Descriptors, threads and what librdkafka reads ahead then do not grow with the partitions, and to
wait for a message of any of them is one call. `assign()` is used, not `subscribe()`: the group
shows offsets and lag, and has no members.
"""

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from operators.engine.positions import InHand
from operators.errors import SourceError, bug, fatal
from operators.kafka.client import CALL_TIMEOUT, client, committer
from operators.kafka.contents import contents, position
from operators.kafka.hidden import HiddenMessages, Standing
from operators.kafka.identity import NEW_TOPIC
from operators.kafka.outage import Outage
from operators.kafka.partition import Partition
from operators.records import Message
from settings import Settings
from telemetry import Progress, log

__all__ = ["Reader"]

READ_BATCHES: Final = 4  # batches of the model's size that are read at once
OVERHEAD: Final = 200  # bytes that a message takes beside its own, in Kafka's and Python's objects
FULL_FOR: Final = 5.0  # seconds without room, after which partitions are paused
MISSING: Final = (
    "{key}: offset {offset} is not in the topic any more, which holds {low} to {high}: {gone}"
    " messages are gone. To go on with what is left, start with KAFKA_ON_MISSING=skip"
)


class Reader:
    """The consumer of one worker.

    :arg in_hand: Of the worker: nothing is read while it has no room.

    :arg on_commit: Called with the outcome of a commit.

    """

    def __init__(
        self,
        settings: Settings,
        *,
        in_hand: InHand,
        progress: Progress,
        on_commit: Callable[[KafkaError | None, list[TopicPartition]], None],
    ) -> None:
        self._topic = settings.kafka_topic
        self._in_hand, self._progress = in_hand, progress
        self._most = READ_BATCHES * settings.batch_size
        self._skips = settings.kafka_on_missing == "skip"
        self._partitions: dict[int, Partition] = {}
        self._mean_size = 1.0
        self._full_since: float | None = None
        self.in_use = threading.Lock()
        """Held by whoever asks the consumer something in another thread."""
        self._is_paused = False
        self.outage = Outage()
        """Told by whoever gets an answer of the broker."""
        self.consumer = Consumer(
            client(
                settings,
                {
                    **committer(settings),
                    "enable.auto.offset.store": False,
                    # librdkafka's default would jump to the end when an offset has expired.
                    "auto.offset.reset": "error",
                    "on_commit": on_commit,
                    "error_cb": self.outage.error,
                    # The default makes a pause of a second each time that the queue is full.
                    "fetch.queue.backoff.ms": 10,
                    # The broker answers as soon as there is something; half of the default's
                    # questions of a partition that is quiet.
                    "fetch.wait.max.ms": 1_000,
                    # What is read ahead, of all partitions together.
                    "queued.min.messages": 10_000,
                    "queued.max.messages.kbytes": 16_384,
                    "fetch.max.bytes": 16_777_216,
                },
            )
        )

        self._hidden = HiddenMessages(self._topic, self.consumer, self.in_use)

    def assign(self, partitions: Iterable[Partition]) -> None:
        """Begin to read partitions, each where its tracker is."""
        added = {partition.number: partition for partition in partitions}
        self._partitions |= added
        self.consumer.incremental_assign([self._at(each) for each in added.values()])

    def read(self, seconds: float) -> list[Message]:
        """Read what is there and has room.

        :arg seconds: How long to wait for the first message, if there is none.

        :returns: Messages, those of a partition in their order.

        :raises SourceError: A partition cannot be read on.

        """
        if not self._has_room():
            return []
        messages, size = self._in_hand.room
        most = max(1, min(self._most, messages, int(size / self._mean_size)))
        # It would wait until it has as many as it is asked for.
        records = self.consumer.consume(1 if seconds else most, seconds)
        return self._take(records) if records else []

    def look(self) -> None:
        """Follow the client's positions past what holds no message, and note the lag."""
        wanted = [self._at(each) for each in self._partitions.values()]
        standings = {}
        for at in self.consumer.position(wanted):
            tracker = self._partitions[at.partition].tracker
            tracker.skip_to(at.offset)
            _, high = self.consumer.get_watermark_offsets(at, cached=True)
            if high >= 0:
                self._progress.lag(at.partition, max(0, high - tracker.read))
                standings[at.partition] = Standing(tracker.read, high)
        self._hidden.look(standings)
        self._progress.report()

    def close(self) -> threading.Thread:
        """Close the consumer, and do not wait for that.

        librdkafka waits for a commit under way, and a broker that is frozen never answers.

        :returns: Who closes it.

        """
        closing = threading.Thread(target=self._close, name="closing", daemon=True)
        closing.start()
        return closing

    def _close(self) -> None:
        with self.in_use:
            self.consumer.close()

    def _has_room(self) -> bool:
        if self._in_hand.has_room:
            self._full_since = None
            if self._is_paused:
                self._is_paused = False
                self.consumer.resume([self._at(each) for each in self._partitions.values()])
            return True
        now = time.monotonic()
        self._full_since = self._full_since or now
        if now - self._full_since > FULL_FOR:
            if not self._is_paused:
                self._is_paused = True
                self.consumer.pause([self._at(each) for each in self._partitions.values()])
            # Gives no message, and lets the client tell of commits and errors.
            self._take(self.consumer.consume(1, 0))
        return False

    def _take(self, records: list[KafkaMessage]) -> list[Message]:
        batches: dict[int, list[KafkaMessage]] = {}
        errors = []
        for record in records:
            error = record.error()
            if error is None:
                batches.setdefault(record.partition(), []).append(record)  # type: ignore[arg-type]
            else:
                errors.append((record, error))
        messages: list[Message] = []
        for number, batch in batches.items():
            messages += self._messages(number, batch)
            self._progress.count("messages", len(batch), partition=number)
        for record, error in errors:  # they are of what is behind the messages
            self._refuse(record, error)
        return messages

    def _messages(self, number: int, batch: list[KafkaMessage]) -> list[Message]:
        """Make messages of what was read together from one partition."""
        partition = self._partitions[number]
        fetch = partition.tracker.add(len(batch), position(batch[-1])[1] + 1)
        size = OVERHEAD * len(batch)
        messages = []
        for record in batch:
            offset: Any = record.offset()  # which it has: the client's types say that it may not
            try:
                key, value, headers, timestamp, unreadable = contents(record)
                size += len(value or b"") + len(key or b"")
                if headers:
                    size += sum(len(name) + len(content or b"") for name, content in headers)
                at = (self._topic, number, offset, timestamp)
                messages.append(Message(key, value, headers, *at, fetch, unreadable))
            except Exception as error:  # noqa: BLE001 - it is told where, and raised
                raise fatal(bug(error, "reading", partition.key, offset)) from None
        fetch.weigh(size)
        self._mean_size = size / len(batch)
        return messages

    def _at(self, partition: Partition) -> TopicPartition:
        return TopicPartition(self._topic, partition.number, partition.tracker.read)

    def _refuse(self, record: KafkaMessage, error: KafkaError) -> None:
        partition = self._partitions.get(record.partition() or 0)
        if error.retriable() or partition is None:
            log.warning("source.retry", partition=record.partition(), error=error.str())
            return
        key, offset = partition.key, partition.tracker.read
        if error.code() not in {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}:  # noqa: SLF001
            msg = f"{key}: cannot read on from offset {offset}: {error.str()}"
            raise fatal(SourceError(msg))
        low, high = self._watermarks(partition)
        if offset > high:
            raise fatal(SourceError(NEW_TOPIC.format(key=key)))
        gone = max(0, low - offset)
        if not self._skips:
            msg = MISSING.format(key=key, offset=offset, low=low, high=high, gone=gone)
            raise fatal(SourceError(msg))
        log.warning("source.skipped", partition=partition.number, offset=offset, gone=gone)
        self._progress.count("skipped", gone, partition=partition.number)
        partition.tracker.skip_to(low)
        self.consumer.incremental_unassign([self._at(partition)])
        self.consumer.incremental_assign([self._at(partition)])

    def _watermarks(self, partition: Partition) -> tuple[int, int]:
        try:
            found: Any = self.consumer.get_watermark_offsets(
                self._at(partition), timeout=CALL_TIMEOUT
            )
        except KafkaException as error:
            msg = f"{partition.key}: cannot find what the topic holds: {error.args[0].str()}"
            raise fatal(SourceError(msg)) from None
        return found  # type: ignore[no-any-return]
