"""Kafka's clients and topics, as the steps need them."""

import logging
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, Final, TypeVar

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from operators.errors import DependencyError
from settings import Settings

__all__ = [
    "CALL_TIMEOUT",
    "COMMIT_TIMEOUT",
    "NOT_YET",
    "UNKNOWN_TOPIC",
    "ask",
    "check",
    "client",
    "committer",
    "ends",
    "partition_count",
    "partitions",
    "transactional",
]

X = TypeVar("X")

CALL_TIMEOUT: Final = 10.0  # seconds that a question to a broker may take
COMMIT_TIMEOUT: Final = 2  # seconds that a commit may wait for a broker that is away
NOT_YET: Final = {  # of a group's coordinator: a new cluster has none at once
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError._WAIT_COORD,  # noqa: SLF001 - librdkafka's own codes begin so
}
UNKNOWN_TOPIC: Final = {  # what is said of a partition that metadata does not have any more
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001 - librdkafka's own codes begin so
    KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
}


def client(settings: Settings, properties: dict[str, Any]) -> dict[str, Any]:
    """Configure a client.

    :arg properties: Of this client; the user's take precedence over them.

    :returns: librdkafka's properties (has secrets).

    """
    # librdkafka would write its log to standard error on its own.
    own = {"logger": logging.getLogger("kafka"), **properties}
    return own | settings.kafka_client()


def committer(settings: Settings) -> dict[str, Any]:
    """Configure a client that commits offsets and is no member of the group.

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


def transactional(name: str, lifetime: timedelta) -> dict[str, Any]:
    """Configure a client that writes in transactions.

    :arg name: Its `transactional.id`: a newer one fences the older.

    :arg lifetime: Of a transaction, after which the broker aborts it.

    :returns: librdkafka's properties.

    """
    return {
        "transactional.id": name,
        "transaction.timeout.ms": round(lifetime.total_seconds() * 1_000),
        "compression.type": "lz4",
        # How large a record may be is the topic's to say, which knows it compressed. The client's
        # own limit is 1 MB of what is not; this is a little less than a broker takes at once.
        "message.max.bytes": 100_000_000,
    }


def partitions(settings: Settings) -> list[int]:
    """List the partitions of the topic that is read.

    :returns: Their numbers, in order.

    :raises DependencyError: Which setting to look at.

    """
    return _partitions(settings, settings.kafka_topic)


def partition_count(settings: Settings, topic: str) -> int:
    """Count the partitions of a topic.

    :raises DependencyError: Which setting to look at.

    """
    return len(_partitions(settings, topic))


def check(settings: Settings, topic: str) -> str:
    """Look for a topic.

    :returns: What was found.

    :raises DependencyError: Which setting to look at.

    """
    found = partition_count(settings, topic)
    return f"{topic} at {settings.kafka_bootstrap_servers}, {found} partitions"


def ask(question: Callable[[], X], *, give_up: Callable[[], bool]) -> X:
    """Put a question to a broker, again while it says that it will know soon.

    :arg question: Raises `KafkaException`; each call has a limit of its own.

    :returns: The answer.

    :raises KafkaException: There is none within `CALL_TIMEOUT`.

    """
    limit = time.monotonic() + CALL_TIMEOUT
    while True:
        try:
            return question()
        except KafkaException as error:
            known_soon = error.args[0].code() in NOT_YET or error.args[0].retriable()
            if not known_soon or time.monotonic() > limit or give_up():
                raise
        time.sleep(0.1)


def ends(
    settings: Settings, topic: str, partitions: Iterable[int], *, timeout: float
) -> dict[int, int]:
    """Ask where partitions end, whatever transactions are open there.

    A consumer that reads what is committed is told where the first open transaction begins, and
    behind that there may be records that are committed.

    :arg timeout: Of each question, in seconds.

    :returns: Offset by partition.

    :raises KafkaException: There is no answer.

    """
    group = settings.kafka_consumer_group  # not used: nothing commits
    consumer = Consumer(
        client(settings, {"group.id": group, "isolation.level": "read_uncommitted"})
    )
    try:
        found = {}
        for number in partitions:
            at = TopicPartition(topic, number)
            _, found[number] = consumer.get_watermark_offsets(at, timeout=timeout)
        return found
    finally:
        consumer.close()


def _partitions(settings: Settings, topic: str) -> list[int]:
    complaints: list[KafkaError] = []
    try:
        # Silent: what goes wrong is told once, by the error that is raised here.
        silent = {"error_cb": complaints.append, "log_level": 0}
        admin = AdminClient(client(settings, silent))
    except KafkaException as error:
        msg = f"KAFKA_PROPERTIES: {error.args[0].str()}"
        raise DependencyError(msg) from None
    try:
        # All topics: to ask for one by name can create it.
        known = admin.list_topics(timeout=settings.start_timeout.total_seconds()).topics
    except KafkaException as error:
        admin.poll(0)
        raise DependencyError(_unreachable(settings, [*complaints, error.args[0]])) from None
    if topic not in known or known[topic].error is not None:
        setting = "KAFKA_TOPIC" if topic == settings.kafka_topic else "KAFKA_ERROR_TOPIC"
        msg = f"{setting}: there is no topic {topic} at {settings.kafka_bootstrap_servers}"
        if settings.kafka_security_protocol != "PLAINTEXT":
            msg += ", or this user lacks DESCRIBE on it"
        raise DependencyError(msg)
    return sorted(known[topic].partitions)


def _unreachable(settings: Settings, complaints: list[KafkaError]) -> str:
    codes = {complaint.code() for complaint in complaints}
    at = settings.kafka_bootstrap_servers
    if KafkaError._AUTHENTICATION in codes:  # noqa: SLF001 - librdkafka's own codes begin so
        settings_to_look_at = "KAFKA_SECURITY_PROTOCOL, KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD"
        return f"{settings_to_look_at}: the broker at {at} refuses the login"
    handshake = any("SSL handshake failed" in complaint.str() for complaint in complaints)
    if handshake or KafkaError._SSL in codes:  # noqa: SLF001
        return f"KAFKA_SECURITY_PROTOCOL, KAFKA_SSL_CA_LOCATION: no TLS with the broker at {at}"
    if KafkaError._RESOLVE in codes:  # noqa: SLF001
        return f"KAFKA_BOOTSTRAP_SERVERS: no such host: {at}"
    return f"KAFKA_BOOTSTRAP_SERVERS: no broker answers at {at}"
