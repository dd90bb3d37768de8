"""A producer to the error topic of which a source partition has only one: a newer fences the older.

*Fencing.* As in Kafka Streams' first exactly-once, each source partition has a transactional
producer of its own, whose `transactional.id` is the consumer group and the partition's key.
`init_transactions` raises its epoch at the broker: from then on an older producer of that id, in a
process that was frozen or cut off, can commit nothing, and what it had begun is aborted. So it is
called when the partition is taken over, before anything of it is read or read back.

A producer has four threads and eight descriptors, so it is closed after that, and opened again when
there is something to write. That raises the epoch once more, which a process whose partition has
been taken over must not gain by: so it looks at its lock after it has opened one and before it
writes. It may have fenced its successor, who then ends and is started again.

*Short transactions.* One is begun when its records are there and committed at once. While it is
open it holds up those who read the error topic and read committed records only, which is
librdkafka's default.

*Never blocked.* A call that waits for the broker runs in the loop's threads, for at most `CALL` at
a time: librdkafka goes on with what timed out as a retriable error when it is called again. So
signals are heard, and a process that ends does not wait for the broker.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from operators.dead_letters.envelope import to_record, truncate
from operators.errors import StreamError, bug, fatal
from operators.kafka import client as topics
from operators.records import Failure
from settings import Settings
from telemetry import log

__all__ = [
    "CALL",
    "DeadLetter",
    "TooLargeError",
    "TransactionalProducer",
    "configuration",
    "is_open",
]

CALL: Final = 0.1  # seconds that one call to librdkafka may take
LIFETIME: Final = timedelta(minutes=5)  # of a transaction, and so the longest outage of the broker
IN_ERROR: Final = {KafkaError._STATE, KafkaError._FATAL}  # noqa: SLF001 - librdkafka's own begin so


class TooLargeError(Exception):
    """The topic does not take this letter, not even in a request of its own."""

    def __init__(self, letter: "DeadLetter") -> None:
        super().__init__("a dead letter is too large for the topic")
        self.letter = letter


class DeadLetter:
    """A failure and its record."""

    def __init__(self, failure: Failure, group: str) -> None:
        self.failure, self._group = failure, group
        try:
            self.record = to_record(failure, group)
        except Exception as error:  # noqa: BLE001 - it is told where, and raised
            raise _bug(error, failure) from None
        self.is_truncated = False
        self.offset: int | None = None
        """In the error topic, as acknowledged; it counts once its transaction is committed."""

    def truncate(self) -> None:
        """Leave out what makes it too large."""
        _, value, _ = self.record
        self.record = truncate(self.failure, self._group)
        self.is_truncated = True
        message = self.failure.message
        log.warning(
            "dead_letters.cut",
            partition=message.partition,
            offset=message.offset,
            bytes=len(value),
            reason="larger than max.message.bytes of the error topic",
        )


def _bug(error: Exception, failure: Failure) -> StreamError:
    message = failure.message
    return fatal(bug(error, "a dead letter", message.partition_key, message.offset))


def configuration(settings: Settings, key: str) -> dict[str, Any]:
    """Configure a producer.

    :arg key: Of which there may be one.

    :returns: librdkafka's properties.

    """
    # No topic's name has a colon, so that the last one ends the group's name. An access rule for
    # the prefix `group:` fits all.
    return topics.transactional(f"{settings.kafka_consumer_group}:{key}", LIFETIME)


def is_open(producer: Producer, end: float) -> bool:
    """Go on with the fencing of older producers, for `CALL`.

    :arg end: In monotonic seconds, when to give up.

    :returns: Whether it is done.

    :raises KafkaException: The broker refuses, or does not answer in time.

    """
    try:
        producer.init_transactions(CALL)
    except KafkaException as error:
        if not error.args[0].retriable() or time.monotonic() > end:
            raise
        return False
    return True


class TransactionalProducer:
    """Writes the dead letters of one source partition.

    :arg partition: Of the error topic, which has all of them.

    :raises KafkaException: A property of the user's is wrong.

    """

    def __init__(self, settings: Settings, key: str, partition: int = 0) -> None:
        self._topic, self._partition = settings.kafka_error_topic, partition
        self._producer = Producer(topics.client(settings, configuration(settings, key)))

    def open(self, limit: timedelta) -> None:
        """Fence every older producer of this partition, and abort what it had begun; it blocks.

        :raises KafkaException: The broker refuses, or does not answer in time.

        """
        end = time.monotonic() + limit.total_seconds()
        while not is_open(self._producer, end):
            pass

    async def reopen(self, limit: timedelta) -> None:
        """Do the same on the loop.

        :raises KafkaException: The broker refuses, or does not answer in time.

        """
        end = time.monotonic() + limit.total_seconds()
        while not await asyncio.to_thread(is_open, self._producer, end):
            pass

    async def send(self, letters: Iterable[DeadLetter], *, alone: bool = False) -> None:
        """Write letters in one transaction: all of them are in the topic, or none.

        :arg letters: In this order. What is too large for any request is cut.

        :arg alone: Each in a request of its own, for the topic's limit of size is one of requests.

        :raises TooLargeError: With `alone`; `abort` comes next.

        :raises KafkaException: None is there. `abort` comes next if the error requires that, else
            the producer is of no more use.

        """
        self._producer.begin_transaction()
        for letter in letters:
            refused: list[KafkaError] = []
            if not await self._produce(letter, refused):
                break  # for a reason that the commit tells
            if alone:
                await self._deliver()
                if any(error.code() == KafkaError.MSG_SIZE_TOO_LARGE for error in refused):
                    raise TooLargeError(letter)
        await self._finish(self._producer.commit_transaction)

    async def abort(self) -> None:
        """Give up the transaction that has failed.

        :raises KafkaException: That is not possible; there must be no more calls.

        """
        await self._finish(self._producer.abort_transaction)

    async def _produce(self, letter: DeadLetter, refused: list[KafkaError]) -> bool:
        """Whether the transaction takes it, which one that has failed does not."""

        def delivered(error: KafkaError | None, message: Any) -> None:
            if error is not None:
                refused.append(error)
            else:
                letter.offset = message.offset()

        while True:
            key, value, headers = letter.record
            try:
                self._producer.produce(
                    self._topic,
                    value,
                    key,
                    self._partition,
                    headers=headers,  # type: ignore[arg-type]  # a list is invariant
                    on_delivery=delivered,
                )
            except BufferError:  # the producer's queue is full
                await asyncio.to_thread(self._producer.poll, CALL)
            except KafkaException as error:
                code = error.args[0].code()
                if code in IN_ERROR:
                    return False
                if code != KafkaError.MSG_SIZE_TOO_LARGE or letter.is_truncated:
                    raise
                letter.truncate()
            except Exception as error:  # noqa: BLE001 - it is told where, and raised
                raise _bug(error, letter.failure) from None
            else:
                return True

    async def _deliver(self) -> None:
        while await asyncio.to_thread(self._producer.flush, CALL):
            pass

    async def _finish(self, call: Callable[[float], Any]) -> None:
        """Make a call again until its outcome is known."""
        while True:
            try:
                await asyncio.to_thread(call, CALL)
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise
            else:
                return
