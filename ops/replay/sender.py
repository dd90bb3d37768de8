"""Send messages back and mark their dead letters, both in one Kafka transaction.

A transaction is in both topics or in none, whatever is killed at whatever moment. Its id is named
after the group: when another replay of the same stream begins, it fences this one and aborts what
this one has open.

While a transaction is open, whoever reads committed messages of the topic (the stream does) waits
for it. So one is begun when its records are there, and committed at once.
"""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as KafkaMessage

from operators.dead_letters.envelope import Record
from operators.errors import DeliveryError, DependencyError
from operators.kafka import client as topics
from operators.records import Message
from ops.replayed import Replayed
from settings import Settings

__all__ = ["Outgoing", "Sender", "replayed_message"]

CALL: Final = 0.1  # seconds that one call to librdkafka may take; signals wait that long
LIFETIME: Final = timedelta(seconds=10)  # so long a killed replay holds up who reads committed
PAUSE: Final = 0.2  # seconds before a transaction that was aborted is tried again

# librdkafka's own codes begin with an underscore, and are public.
FENCED: Final = {
    KafkaError._FENCED,  # noqa: SLF001
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
}
HAS_FAILED: Final = {KafkaError._STATE, KafkaError._FATAL}  # noqa: SLF001 - the commit says why


class Outgoing(NamedTuple):
    """A message that goes back."""

    message: Message
    """As it is to be sent."""

    mark: Replayed
    letter_partition: int
    """Of the error topic: where its dead letter is, and its mark will be."""


def replayed_message(message: Message, mark: Replayed) -> Message:
    """Make the message that is sent of the original.

    :arg message: The original.

    :arg mark: Of its dead letter.

    :returns: Key, value, headers and partition as they were, and two headers: `dlq.id` of the dead
        letter that it comes from, and `dlq.replays`, how often it has been replayed now.

    """
    ours = {"dlq.id": mark.id, "dlq.replays": mark.replays}
    added = [(name, str(value).encode()) for name, value in ours.items()]
    return message._replace(headers=[*message.headers, *added])


class Sender:
    """A transactional producer for both topics.

    :arg settings: Brokers, topics, group, and the time limit: `START_TIMEOUT`.

    :raises DependencyError: Which setting to look at.

    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._limit = settings.start_timeout.total_seconds()
        self._id = f"{settings.kafka_consumer_group}:replay"
        self._refused: list[tuple[str, KafkaError]] = []
        silent = logging.getLogger("kafka.replay")  # what goes wrong is told once, by an error
        silent.propagate = False
        silent.addHandler(logging.NullHandler())
        try:
            self._producer = Producer(
                topics.client(
                    settings,
                    {
                        **topics.transactional(self._id, LIFETIME),
                        "logger": silent,
                        "error_cb": lambda _error: None,
                    },
                )
            )
        except KafkaException as error:
            msg = f"KAFKA_PROPERTIES: {error.args[0].str()}"
            raise DependencyError(msg) from None

    def open(self) -> None:
        """Fence an earlier replay of this group, and abort what it had open.

        :raises DependencyError: Which setting to look at.

        """
        try:
            self._until_known(self._producer.init_transactions)
        except KafkaException as error:
            raise DependencyError(self._told(error.args[0])) from None

    def send(self, items: Sequence[Outgoing]) -> list[Outgoing]:
        """Send messages in one transaction, or in several if they are too large for one request.

        :arg items: Some hundreds at most.

        :returns: Those that the topic does not take for their size; all others are there.

        :raises DeliveryError: Which setting to look at. What this call was to send may be there in
            part, each message with its mark or not at all.

        """
        if self._send(items):
            return []
        if len(items) == 1:
            return list(items)
        # The topic's limit holds for a request, which has many of them.
        half = len(items) // 2
        return [*self.send(items[:half]), *self.send(items[half:])]

    def _send(self, items: Sequence[Outgoing]) -> bool:
        """Whether they are there; else they are too large."""
        end = time.monotonic() + self._limit
        while True:
            self._refused.clear()
            try:
                self._try(items)
            except KafkaException as error:
                told: KafkaError = error.args[0]
                if told.retriable():  # how a commit ended is not known: nothing to abort
                    raise DeliveryError(self._told(told)) from None
                too_large = self._is_too_large(told)
                # Before the next look at the time: what is open holds up the stream.
                self._abort(told)
                if too_large:
                    return False
                if time.monotonic() > end:
                    raise DeliveryError(self._told(told)) from None
                time.sleep(PAUSE)
            else:
                return True

    def _try(self, items: Sequence[Outgoing]) -> None:
        self._producer.begin_transaction()
        for item in items:
            message = item.message
            back = Record(message.key, message.value, message.headers)  # type: ignore[arg-type]
            mark = item.mark.record()
            is_taken = self._produce(
                self._settings.kafka_topic, message.partition, back
            ) and self._produce(self._settings.kafka_error_topic, item.letter_partition, mark)
            if not is_taken:
                break
        self._until_known(self._producer.commit_transaction)

    def _produce(self, topic: str, partition: int, record: Record) -> bool:
        """Whether the transaction takes it, which one that has failed does not."""
        while True:
            try:
                self._producer.produce(
                    topic,
                    record.value,
                    record.key,
                    partition,
                    headers=record.headers,  # type: ignore[arg-type]  # a list is invariant
                    on_delivery=self._delivered,
                )
            except BufferError:  # the producer's queue is full
                self._producer.poll(CALL)
            except KafkaException as error:
                if error.args[0].code() in HAS_FAILED:
                    return False
                raise
            else:
                return True

    def _delivered(self, error: KafkaError | None, message: KafkaMessage) -> None:
        if error is not None:
            self._refused.append((message.topic() or "", error))

    def _is_too_large(self, told: KafkaError) -> bool:
        codes = {told.code(), *(error.code() for _, error in self._refused)}
        return KafkaError.MSG_SIZE_TOO_LARGE in codes

    def _abort(self, told: KafkaError) -> None:
        if told.fatal() or told.code() in FENCED:
            raise DeliveryError(self._told(told)) from None
        try:
            self._until_known(self._producer.abort_transaction)
        except KafkaException as error:
            raise DeliveryError(self._told(error.args[0])) from None

    def _until_known(self, call: Callable[[float], Any]) -> None:
        """Make a call again until its outcome is known: librdkafka goes on where it was."""
        end = time.monotonic() + self._limit
        while True:
            try:
                call(CALL)
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > end:
                    raise
            else:
                return

    def _told(self, error: KafkaError) -> str:
        at = self._settings.kafka_bootstrap_servers
        group = self._settings.kafka_consumer_group
        if error.code() in FENCED:
            return f"KAFKA_CONSUMER_GROUP: another replay for {group} has begun and ended this one"
        if error.code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
            return f"KAFKA_CONSUMER_GROUP: this user may not use the transactional.id {self._id}"
        if error.code() == KafkaError._TIMED_OUT:  # noqa: SLF001
            return f"KAFKA_BOOTSTRAP_SERVERS: no answer from {at} within {self._limit:g} s"
        for topic, refused in self._refused:
            if refused.code() != KafkaError._PURGE_QUEUE:  # noqa: SLF001 - what was behind it
                is_back = topic == self._settings.kafka_topic
                setting = "KAFKA_TOPIC" if is_back else "KAFKA_ERROR_TOPIC"
                return f"{setting}: cannot write to {topic} at {at}: {refused.str()}"
        return f"KAFKA_BOOTSTRAP_SERVERS: cannot write at {at}: {error.str()}"
