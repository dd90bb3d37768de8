"""A consumer that reads where it is told to, and never waits without a limit."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final, Literal, Self, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from operators.errors import DependencyError, bug, fatal
from operators.kafka import client as topics
from operators.kafka.contents import position
from operators.records import partition_key
from settings import Settings

__all__ = ["TopicReader", "is_end", "is_expired", "read_each"]

X = TypeVar("X")

POLL: Final = 0.2  # seconds that one call may take; signals wait that long
AT_ONCE: Final = 1_000  # messages; more are no faster and take more memory
LARGEST_BATCH: Final = 10_000  # messages that a producer sends as one, librdkafka's default
NOT_YET: Final = {  # of a group's coordinator: a new cluster has none at once
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
}


class TopicReader:
    """Reads a topic by positions. It is no member of the group and commits nothing.

    :arg settings: Brokers, group, and the time limit: `START_TIMEOUT` for every answer.

    :arg topic: Exists.

    :arg reset: What to do at an offset that has expired: `error`, or go on at the `earliest`.

    :arg while_waiting: Asked, with the seconds since something came, whether to wait for longer
        than `START_TIMEOUT`.

    """

    def __init__(
        self,
        settings: Settings,
        topic: str,
        *,
        reset: Literal["error", "earliest"],
        while_waiting: Callable[[float], bool] | None = None,
    ) -> None:
        self._settings, self._topic = settings, topic
        self._while_waiting = while_waiting
        self._brokers = settings.kafka_bootstrap_servers
        self._limit = settings.start_timeout.total_seconds()
        self._consumer = Consumer(
            topics.client(
                settings,
                {
                    "group.id": settings.kafka_consumer_group,
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "enable.partition.eof": True,
                    "auto.offset.reset": reset,
                    "fetch.wait.max.ms": 10,
                    # Limits of librdkafka's own queue, which hold for each partition.
                    "queued.min.messages": 10_000,
                    "queued.max.messages.kbytes": 4_096,
                    # Else it pauses for a second each time the queue is full: 20 times slower.
                    "fetch.queue.backoff.ms": 10,
                    # Silent: what does not pass is told by the error that is raised here.
                    "error_cb": lambda _error: None,
                    "log_level": 0,
                },
            )
        )

    def __enter__(self) -> Self:
        """Use it, and close it in the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the consumer."""
        self._consumer.close()

    def partitions(self) -> list[int]:
        """The topic's partitions."""
        # All topics: to ask for one by name can create it.
        known = self._ask(self._consumer.list_topics).topics
        return sorted(known[self._topic].partitions)

    def committed(self, partitions: list[int]) -> dict[int, int]:
        """The group's offset by partition; those that have none are left out."""
        wanted = [TopicPartition(self._topic, number) for number in partitions]
        found = self._ask(self._consumer.committed, wanted)
        for at in found:
            if at.error is not None:
                raise self._unreachable(at.error.str())
        return {at.partition: at.offset for at in found if at.offset >= 0}

    def watermarks(self, partition: int) -> tuple[int, int]:
        """Where a partition begins, and where it ends.

        The embedded broker counts its last batch as one message, so its end is too low.
        """
        at = TopicPartition(self._topic, partition)
        low, high = self._ask(self._consumer.get_watermark_offsets, at)
        return low, high

    def ends(self, partitions: list[int]) -> dict[int, int]:
        """Where partitions end, behind the transactions that are open there too."""
        return self._ask(partial(topics.ends, self._settings, self._topic), partitions)

    def since(self, partition: int, milliseconds: int) -> int | None:
        """The first offset of a time or later; None if there is none."""
        wanted = TopicPartition(self._topic, partition, milliseconds)
        [found] = self._ask(self._consumer.offsets_for_times, [wanted])
        return found.offset if found.offset >= 0 else None

    def assign(self, starts: Mapping[int, int]) -> None:
        """Read from these offsets on, and forget what else was on its way."""
        wanted = [TopicPartition(self._topic, number, at) for number, at in starts.items()]
        self._consumer.assign(wanted)

    def take(self) -> list[Message]:
        """What there is to read, ends of partitions and expired offsets among it.

        :raises DependencyError: There was nothing for too long, or the broker refuses.

        """
        began = time.monotonic()
        while True:
            first = self._consumer.poll(POLL)
            found = [] if first is None else [first, *self._consumer.consume(AT_ONCE, 0)]
            taken = [message for message in found if self._is_told(message)]
            if taken:
                return taken
            waited = time.monotonic() - began
            if waited > self._limit and not (self._while_waiting and self._while_waiting(waited)):
                msg = f"nothing within {waited:.0f} s"
                raise self._unreachable(msg)

    def read_to_end(
        self, starts: Mapping[int, int], ends: Mapping[int, int]
    ) -> Iterator[list[Message]]:
        """Read partitions until nothing of what was there at the beginning can be left.

        :arg starts: Offset by partition.

        :arg ends: Offset behind the last by partition, asked for before.

        :returns: Batches of messages.

        :raises DependencyError: There was nothing for too long, or the broker refuses.

        """
        self.assign(starts)
        running = set(starts)
        while running:
            messages = []
            for message in self.take():
                number, at = position(message)
                if is_end(message):
                    # A transaction that is open hides what is committed behind it.
                    if at >= ends[number]:
                        running.discard(number)
                elif not is_expired(message):
                    messages.append(message)
                    # A partition that is written to without a pause may never be at its end.
                    if at >= ends[number] + LARGEST_BATCH:
                        running.discard(number)
            yield messages

    def _is_told(self, message: Message) -> bool:
        error = message.error()
        if error is None or is_end(message) or is_expired(message):
            return True
        if error.retriable():
            return False
        raise self._unreachable(error.str())

    def _ask(self, question: Callable[..., X], *about: Any) -> X:
        """Put a question to a broker, again while it says that it will know soon."""
        limit = time.monotonic() + self._limit
        while True:
            try:
                return question(*about, timeout=self._limit)
            except KafkaException as error:
                told: KafkaError = error.args[0]
                if time.monotonic() > limit or not (told.code() in NOT_YET or told.retriable()):
                    raise self._unreachable(told.str()) from None
            time.sleep(0.1)

    def _unreachable(self, reason: str) -> DependencyError:
        msg = f"KAFKA_BOOTSTRAP_SERVERS: cannot read {self._topic} at {self._brokers}: {reason}"
        return DependencyError(msg)


def read_each(records: Iterable[Message], read: Callable[[Message], X]) -> Iterator[X]:
    """Read records that anybody may have written, one by one.

    :arg read: Raises for no record, whatever is in it.

    :raises BugError: It does all the same: at which record.

    """
    for record in records:
        try:
            found = read(record)
        except Exception as error:  # noqa: BLE001 - it is told where, and raised
            number, offset = position(record)
            key = partition_key(record.topic() or "", number)
            raise fatal(bug(error, "reading a record", key, offset)) from None
        yield found


def is_end(message: Message) -> bool:
    """Whether it says that a partition has no more."""
    error = message.error()
    return error is not None and error.code() == KafkaError._PARTITION_EOF  # noqa: SLF001 - its public name


def is_expired(message: Message) -> bool:
    """Whether it says that the offset to be read is not in the topic any more."""
    error = message.error()
    return error is not None and error.code() in {
        KafkaError._AUTO_OFFSET_RESET,  # noqa: SLF001 - its public name
        KafkaError.OFFSET_OUT_OF_RANGE,
    }
