"""Write a dead letter as the stream will, in a transaction that is aborted."""

import os
import socket
import time
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Producer

from operators.dead_letters.producer import CALL, configuration, is_open
from operators.errors import DependencyError
from operators.kafka import client as topics
from operators.kafka.rights import require_reading
from settings import Settings

__all__ = ["VALUE", "check", "no_producer"]

HEADER: Final = "dlq.check"
"""Of the record, for those who read what was aborted."""
VALUE: Final = b'{"check": "a start looks whether it may write here, and takes this back"}'
COMPACTED: Final = (
    "KAFKA_ERROR_TOPIC: {topic} is compacted, which refuses records without a key and drops earlier"
    " ones of the same key: set cleanup.policy=delete"
)


def check(settings: Settings) -> str:
    """Look for the error topic, read it, and write to it in a transaction that is aborted.

    :returns: What was found.

    :raises DependencyError: Which setting to look at, or which right is missing.

    """
    topic = settings.kafka_error_topic
    found = topics.check(settings, topic)
    require_reading(settings, topic, 0)
    try:
        refusal = _write_and_abort(settings)
    except KafkaException as error:
        raise DependencyError(no_producer(settings, error.args[0])) from None
    if refusal is not None:
        raise DependencyError(_refused(topic, refusal))
    return found


def no_producer(settings: Settings, error: KafkaError) -> str:
    """Say why there is no producer, and which right it takes."""
    reason = error.str()
    if error.code() == KafkaError._TIMED_OUT:  # noqa: SLF001 - librdkafka's own begin so
        reason = f"no answer within {settings.start_timeout.total_seconds():g} s"
    group = settings.kafka_consumer_group
    if error.code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
        reason = f"this user lacks WRITE on transactional ids with the prefix {group}:"
    return f"KAFKA_ERROR_TOPIC: no producer with a transactional.id such as {group}:…: {reason}"


def _write_and_abort(settings: Settings) -> KafkaError | None:
    """Give the error with which the record was refused; raises if it comes to no record."""
    # An id of this process's own: processes that start together must not fence each other.
    name = f"check-{socket.gethostname()}-{os.getpid()}"
    # Silent: what does not pass is told by the error that is returned or raised here.
    silent = {"error_cb": lambda _error: None, "log_level": 0}
    producer = Producer(topics.client(settings, configuration(settings, name) | silent))
    limit = settings.start_timeout.total_seconds()
    end = time.monotonic() + limit
    while not is_open(producer, end):
        pass
    refused: list[KafkaError] = []
    producer.begin_transaction()
    producer.produce(
        settings.kafka_error_topic,
        VALUE,
        partition=0,
        headers=[(HEADER, b"")],
        on_delivery=lambda error, _message: refused.append(error) if error else None,
    )
    left = producer.flush(max(CALL, end - time.monotonic()))
    if not refused:
        producer.abort_transaction(limit)
        return KafkaError(KafkaError._TIMED_OUT) if left else None  # noqa: SLF001
    try:  # It cannot be committed any more; why not, only this call tells.
        producer.commit_transaction(limit)
    except KafkaException as error:
        refused = [error.args[0]]
    return refused[0]


def _refused(topic: str, error: KafkaError) -> str:
    if error.code() == KafkaError.INVALID_RECORD:
        return COMPACTED.format(topic=topic)
    if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        return f"KAFKA_ERROR_TOPIC: this user lacks WRITE on the topic {topic}"
    return f"KAFKA_ERROR_TOPIC: cannot write to {topic}: {error.str()}"
