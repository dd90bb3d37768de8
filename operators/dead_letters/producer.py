"""A producer to the error topic of which a source partition has only one: a newer fences the older.

*Fencing.* As in Kafka Streams' first exactly-once, each source partition has a transactional
producer of its own, whose `transactional.id` is the consumer group and the partition's key.
`init_transactions` raises its epoch at the broker: from then on an older producer of that id, in a
process that was frozen or cut off, can commit nothing, and what it had begun is aborted. So it is
called when the partition is taken over, before anything of it is read or read back. It must not be
called again, nor later: a zombie that did so would fence its successor.

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

from operators.dead_letters.envelope import cut, seal
from operators.kafka import client as topics
from operators.records import Failure
from settings import Settings

__all__ = ["FencedProducer", "Letter", "TooLargeError"]

CALL: Final = 0.1  # seconds that one call to librdkafka may take
LIFETIME: Final = timedelta(minutes=5)  # of a transaction, and so the longest outage of the broker
IN_ERROR: Final = {KafkaError._STATE, KafkaError._FATAL}  # noqa: SLF001 - librdkafka's own begin so


class TooLargeError(Exception):
    """The topic does not take this letter, not even in a request of its own."""

    def __init__(self, letter: "Letter") -> None:
        super().__init__("a dead letter is too large for the topic")
        self.letter = letter


class Letter:
    """A failure and its record.

    :arg failure: What failed, just now.

    """

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        self.record = seal(failure)
        self.is_cut = False

    def cut(self) -> None:
        """Leave out what makes it too large."""
        self.record = cut(self.failure)
        self.is_cut = True


class FencedProducer:
    """Writes the dead letters of one source partition.

    :arg settings: Brokers and topic.

    :arg key: Of the source partition.

    :raises KafkaException: A property of the user's is wrong.

    """

    def __init__(self, settings: Settings, key: str) -> None:
        self._topic = settings.kafka_error_topic
        self._producer = Producer(
            topics.client(
                settings,
                {
                    # No name of a group has a colon. An access rule for `group:*` fits all.
                    "transactional.id": f"{settings.kafka_consumer_group}:{key}",
                    "transaction.timeout.ms": round(LIFETIME.total_seconds() * 1000),
                    "compression.type": "lz4",
                },
            )
        )

    def open(self, limit: timedelta) -> None:
        """Fence every older producer of this partition, and abort what it had begun.

        :arg limit: How long it may take.

        :raises KafkaException: The broker refuses, or does not answer in time.

        """
        end = time.monotonic() + limit.total_seconds()
        while True:
            try:
                self._producer.init_transactions(CALL)
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > end:
                    raise
            else:
                return

    async def send(self, letters: Iterable[Letter], *, alone: bool = False) -> None:
        """Write letters in one transaction: all of them are in the topic, or none.

        :arg letters: In this order. What librdkafka takes for too large is cut.

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

    async def _produce(self, letter: Letter, refused: list[KafkaError]) -> bool:
        """Whether the transaction takes it, which one that has failed does not."""

        def delivered(error: KafkaError | None, _message: Any) -> None:
            if error is not None:
                refused.append(error)

        while True:
            key, value, headers = letter.record
            try:
                self._producer.produce(
                    self._topic,
                    value,
                    key,
                    headers=headers,  # type: ignore[arg-type]  # a list is invariant
                    on_delivery=delivered,
                )
            except BufferError:  # the producer's queue is full
                await asyncio.to_thread(self._producer.poll, CALL)
            except KafkaException as error:
                code = error.args[0].code()
                if code in IN_ERROR:
                    return False
                if code != KafkaError.MSG_SIZE_TOO_LARGE or letter.is_cut:
                    raise
                letter.cut()
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
