"""One partition of the Kafka topic: where it starts, what it reads, what it commits."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from bytewax.inputs import StatefulSourcePartition
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from operators.dead_letters.already_written import ReadBack
from operators.engine.idle import patience
from operators.engine.loop import Loop
from operators.engine.positions import Unfinished
from operators.engine.shutdown import Stop
from operators.errors import SourceError
from operators.kafka import client as topics
from operators.kafka.commits import Mark
from operators.records import Message, partition_key
from settings import Settings
from telemetry import Progress, log, metrics

__all__ = ["COMMIT_TIMEOUT", "NOT_YET", "Partition", "Shared", "State", "committer"]

State = dict[str, Any]
"""The position: version of this form, the offset to read next, when it was taken (milliseconds
since 1970), the topic's id, and whether the broker is known to keep marks."""

STATE_VERSION: Final = 1
READ_BATCHES: Final = 4  # batches of the model's size read at once, by a partition that is behind
SOON: Final = timedelta(milliseconds=10)  # nothing to read, but the epoch may be over soon
BUSY: Final = timedelta(milliseconds=2)  # nothing to read, but requests or writes are going on
CALL_TIMEOUT: Final = 10.0  # seconds that a question to a broker may take
COMMIT_TIMEOUT: Final = 2  # seconds that a commit may wait for a broker that is away
NEW_TOPIC: Final = (
    "{key}: the topic was deleted and made anew: its positions mean other messages now. To read"
    " it, start with an empty recovery directory and another KAFKA_CONSUMER_GROUP; rows of the old"
    " topic have to get another source_topic first"
)
MISSING: Final = (
    "{key}: offset {offset} is not in the topic any more, which holds {low} to {high}: {gone}"
    " messages are gone. To go on with what is left, start with KAFKA_ON_MISSING=skip"
)
NOT_YET: Final = {  # of a group's coordinator: a new cluster has none at once
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError._WAIT_COORD,  # noqa: SLF001 - librdkafka's own codes begin so
}
GONE: Final = {  # what librdkafka says of a partition that metadata does not have any more
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001 - librdkafka's own codes begin so
    KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
}


def committer(settings: Settings) -> dict[str, Any]:
    """Give the properties of a client that commits offsets and is no member of the group.

    :arg settings: The group.

    :returns: librdkafka's properties.

    """
    return {
        "group.id": settings.kafka_consumer_group,
        "enable.auto.commit": False,
        # There is no session. For so long librdkafka lets a commit wait for a coordinator that is
        # away, and with it a stop; its default is 45 s.
        "session.timeout.ms": COMMIT_TIMEOUT * 1_000,
        "heartbeat.interval.ms": 1_000,
    }


class Shared(NamedTuple):
    """What all partitions of a process use; what is called gives the worker's own."""

    loops: Callable[[], Loop]
    read_backs: Callable[[], ReadBack]
    claim: Callable[[str], None]
    progress: Progress
    unfinished: Unfinished
    stop: Stop
    ended: list[tuple[int, int, int]]
    """Partition, position and its time, of each that came to its end."""
    closing: list[threading.Thread]
    """That close consumers."""

    @property
    def read_back(self) -> ReadBack:
        """The calling worker's."""
        return self.read_backs()


class Partition(StatefulSourcePartition[Message, State]):
    """A partition of the topic.

    :arg settings: Brokers, topic, group and start.

    :arg partition: Its number.

    :arg resume_state: Its last snapshot.

    :arg topic_id: Kafka's id of the topic; empty if it tells none.

    :arg shared: What all partitions use.

    :raises SourceError: It cannot be known where to start.

    :raises StoreError: Another process writes what comes from this partition.

    """

    def __init__(
        self,
        settings: Settings,
        partition: int,
        resume_state: State | None,
        *,
        topic_id: str,
        shared: Shared,
    ) -> None:
        self._at = TopicPartition(settings.kafka_topic, partition)
        self._key = partition_key(settings.kafka_topic, partition)
        self._topic_id = topic_id
        self._shared = shared
        self._loop = shared.loops()
        self._size = READ_BATCHES * settings.batch_size
        self._skips = settings.kafka_on_missing == "skip"
        self._committed = False
        self._doubtful = False
        self._keeps_marks: bool | None = None
        self._durable: tuple[int, int] | None = None
        self._idle = False
        self._came = time.monotonic()
        self._lag: tuple[int, int] | None = None
        self._read_at: float | None = None
        self._consumer = Consumer(
            topics.client(
                settings,
                {
                    **committer(settings),
                    "enable.auto.offset.store": False,
                    # librdkafka's default would jump to the end when an offset has expired.
                    "auto.offset.reset": "error",
                    "on_commit": self._on_commit,
                    "error_cb": self._on_error,
                    # The default makes a pause of a second each time that the queue is full.
                    "fetch.queue.backoff.ms": 10,
                    # The broker answers as soon as there is something; half of the default's
                    # questions of a partition that is quiet.
                    "fetch.wait.max.ms": 1_000,
                    # Limits of librdkafka's own queue, which hold for each partition.
                    "queued.min.messages": 10_000,
                    "queued.max.messages.kbytes": 16_384,
                },
            )
        )
        shared.claim(self._key)
        self._offset = self._start(settings, resume_state)
        self._assign()
        shared.progress.assign(partition)
        log.info("source.start", partition=partition, offset=self._offset)

    def next_batch(self) -> list[Message]:
        """Read what is there; a worker that has nothing to do waits for it."""
        if self._shared.stop.requested:
            self._shared.ended.append((self._at.partition, *self._taken()))
            raise StopIteration
        if self._read_at is not None:
            self._loop.pace.turned(time.monotonic() - self._read_at)
        self._read_at = time.monotonic()
        self._loop.pump()
        self._commit()
        nap = 0.0 if self._loop.busy else self._loop.idle.nap(self._key)
        batch = []
        for message in self._read(nap):
            error = message.error()
            if error is None:
                batch.append(_message(message))
            else:
                self._refuse(error)
        if self._doubtful:
            self._look_for_partition()
        self._idle = not batch and not nap  # who napped has waited already
        if batch:
            self._came = self._read_at
            self._loop.idle.came(self._key)
            self._offset = batch[-1].offset + 1
            self._shared.progress.count("messages", len(batch), partition=self._at.partition)
            self._report()
        return batch

    def next_awake(self) -> datetime | None:
        """Look again soon, if there was nothing; but not before the epoch should end."""
        pause = self._loop.pace.hold()
        if pause is None and self._idle:
            pause = self._pause()
        return None if pause is None else datetime.now(UTC) + pause

    def _pause(self) -> timedelta:
        if self._loop.busy:
            return BUSY
        if self._loop.idle.is_watched(self._key):
            return SOON
        return timedelta(seconds=patience(time.monotonic() - self._came))

    def _read(self, nap: float) -> list[KafkaMessage]:
        # It would wait until it has as many as it is asked for.
        return self._consumer.consume(1, nap) if nap else self._consumer.consume(self._size, 0)

    def snapshot(self) -> State:
        """Take the position; it may be committed when the epoch has ended."""
        # A process that was frozen, and whose lock another has by now, ends before it is written.
        self._shared.claim(self._key)
        self._loop.pace.closed(self._key)
        self._report()  # also where nothing comes any more
        self._read_at = None
        # Bytewax calls `next_batch` again only after this epoch has ended on every worker, so that
        # everything up to here is then in the sinks or in the scoring step's snapshot.
        self._durable = self._taken()
        offset, taken = self._durable
        return {
            "version": STATE_VERSION,
            "offset": offset,
            "taken": taken,
            "topic_id": self._topic_id,
            "keeps_marks": bool(self._keeps_marks),
        }

    def close(self) -> None:
        """Close the consumer, and do not wait for that: the last snapshot comes after it.

        librdkafka waits for a commit under way, and a broker that is frozen never answers.
        """
        closing = threading.Thread(target=self._consumer.close, name="closing", daemon=True)
        closing.start()
        self._shared.closing.append(closing)

    def _taken(self) -> tuple[int, int]:
        return self._offset, round(time.time() * 1000)

    def _start(self, settings: Settings, state: State | None) -> int:
        [committed] = self._ask(self._consumer.committed, [self._at])
        mark = Mark.read(committed.metadata) if committed.offset >= 0 else None
        known = mark.topic_id if mark else ""
        if state is not None:
            known = state["topic_id"] or known
        if known and self._topic_id and known != self._topic_id:
            raise self._stopped(NEW_TOPIC.format(key=self._key))
        if state is not None:
            moved = committed.offset >= 0 and mark is None and state["keeps_marks"]
            if moved and committed.offset != state["offset"]:
                log.warning(
                    "source.moved",
                    partition=self._at.partition,
                    snapshot=state["offset"],
                    offset=committed.offset,
                    reason="the group's offset was set by hand",
                )
                self._shared.read_back.resume(self._key, 0)  # it may be far back
                return int(committed.offset)
            self._shared.read_back.resume(self._key, state["taken"])
            return int(state["offset"])
        if committed.offset >= 0:
            self._shared.read_back.resume(self._key, mark.taken if mark else 0)
            return int(committed.offset)
        return self._begin(settings)

    def _assign(self) -> None:
        self._shared.read_back.begin(self._key, self._offset)
        self._consumer.assign([TopicPartition(self._at.topic, self._at.partition, self._offset)])

    def _begin(self, settings: Settings) -> int:
        """Begin a group's work, and say so: a run that ends before its first epoch has a mark."""
        self._offset = self._first(settings)
        offset, taken = self._taken()
        self._ask(self._commit_now, [self._marked(offset, taken)])
        # What a transaction that was given up has left is looked for from here on.
        self._shared.read_back.resume(self._key, taken)
        return offset

    def _commit_now(self, offsets: list[TopicPartition], *, timeout: float) -> None:
        del timeout  # librdkafka's own
        self._consumer.commit(offsets=offsets, asynchronous=False)

    def _first(self, settings: Settings) -> int:
        """Where a group without offsets begins."""
        start = settings.kafka_start_time()
        if start is not None:
            milliseconds = int(start.timestamp() * 1000)
            wanted = TopicPartition(self._at.topic, self._at.partition, milliseconds)
            [found] = self._ask(self._consumer.offsets_for_times, [wanted])
            if found.offset >= 0:
                return int(found.offset)
        low, high = self._ask(self._consumer.get_watermark_offsets, self._at)
        return int(low if settings.kafka_start_at == "earliest" else high)

    def _ask(self, question: Callable[..., Any], about: Any) -> Any:
        """Put a question to a broker, again while it says that it will know soon."""
        limit = time.monotonic() + CALL_TIMEOUT
        while True:
            try:
                return question(about, timeout=CALL_TIMEOUT)
            except KafkaException as error:
                known_soon = error.args[0].code() in NOT_YET or error.args[0].retriable()
                over = time.monotonic() > limit or self._shared.stop.requested
                if over or not known_soon:
                    msg = f"{self._key}: cannot find where to start: {error.args[0].str()}"
                    raise self._stopped(msg) from None
            time.sleep(0.1)

    def _commit(self) -> None:
        if self._committed and self._keeps_marks is None:
            with suppress(KafkaException):  # asked again next time
                [kept] = self._consumer.committed([self._at], timeout=1)
                self._keeps_marks = Mark.read(kept.metadata) is not None
        if self._durable is None:
            return
        offset, taken = self._durable
        self._durable = None
        self._shared.progress.epoch_ended(self._at.partition)
        at = self._marked(self._shared.unfinished.below(self._key, offset), taken)
        self._consumer.commit(offsets=[at], asynchronous=True)

    def _marked(self, offset: int, taken: int) -> TopicPartition:
        return Mark(self._topic_id, taken).at(self._at.topic, self._at.partition, offset)

    def _on_commit(self, error: KafkaError | None, _offsets: list[TopicPartition]) -> None:
        if error is not None:
            # The next epoch commits again; until then the lag that others see is too high.
            log.warning("source.commit_failed", partition=self._at.partition, error=error.str())
        else:
            self._committed = True
            metrics.COMMIT_TIME.labels(self._at.partition).set_to_current_time()

    def _on_error(self, error: KafkaError) -> None:
        log.warning("source.error", partition=self._at.partition, error=error.str())
        if error.code() == KafkaError._TRANSPORT:  # noqa: SLF001
            metrics.CONNECTION_LOSSES.labels("kafka").inc()
        # Of a topic that was deleted librdkafka tells here alone, and goes on asking for it.
        self._doubtful = self._doubtful or error.code() in GONE

    def _look_for_partition(self) -> None:
        self._doubtful = False
        try:
            # All topics: to ask for one by name can create it.
            known = self._consumer.list_topics(timeout=CALL_TIMEOUT).topics
        except KafkaException:
            return  # it will be told again
        topic = known.get(self._at.topic)
        if topic is None or self._at.partition not in topic.partitions:
            gone = "the topic or this partition of it is gone"
            msg = f"{self._key}: cannot read on from offset {self._offset}: {gone}"
            raise self._stopped(msg)

    def _report(self) -> None:
        _, high = self._consumer.get_watermark_offsets(self._at, cached=True)
        if high >= 0 and (high, self._offset) != self._lag:
            self._lag = high, self._offset
            self._shared.progress.lag(self._at.partition, max(0, high - self._offset))
        self._shared.progress.report()

    def _refuse(self, error: KafkaError) -> None:
        if error.retriable():
            log.warning("source.retry", partition=self._at.partition, error=error.str())
            return
        if error.code() not in {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}:  # noqa: SLF001 - librdkafka's own begin so
            msg = f"{self._key}: cannot read on from offset {self._offset}: {error.str()}"
            raise self._stopped(msg)
        low, high = self._consumer.get_watermark_offsets(self._at, timeout=CALL_TIMEOUT)
        if self._offset > high:
            raise self._stopped(NEW_TOPIC.format(key=self._key))
        gone = max(0, low - self._offset)
        if not self._skips:
            raise self._stopped(
                MISSING.format(key=self._key, offset=self._offset, low=low, high=high, gone=gone)
            )
        log.warning("source.skipped", partition=self._at.partition, offset=self._offset, gone=gone)
        self._shared.progress.count("skipped", gone, partition=self._at.partition)
        self._offset = low
        self._assign()

    def _stopped(self, msg: str) -> SourceError:
        # In a cluster the traceback of a worker does not reach the terminal.
        log.error("source.stopped", error=msg)
        return SourceError(msg)


def _message(message: KafkaMessage) -> Message:
    _, timestamp = message.timestamp()
    # A message without error has all of them; the client's types say that it may not.
    return Message(
        message.key(),
        message.value(),
        message.headers() or [],  # type: ignore[arg-type]
        message.topic(),  # type: ignore[arg-type]
        message.partition(),  # type: ignore[arg-type]
        message.offset(),  # type: ignore[arg-type]
        timestamp,
    )
