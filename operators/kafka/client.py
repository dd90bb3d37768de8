"""Kafka's clients and topics, as the steps need them."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from operators.errors import DependencyError
from operators.records import partition_key
from settings import Settings
from telemetry import log

__all__ = ["check", "client", "ends", "partition_keys", "spans", "topic_id"]


def client(settings: Settings, properties: dict[str, Any]) -> dict[str, Any]:
    """Configure a client.

    :arg settings: Brokers, security, and the properties that the user wants.

    :arg properties: Of this client; the user's go before them.

    :returns: librdkafka's properties (has secrets).

    """
    # librdkafka would write its log to standard error on its own.
    own = {"logger": logging.getLogger("kafka"), **properties}
    return own | settings.kafka_client()


def partition_keys(settings: Settings) -> list[str]:
    """List the partitions of the topic that is read, under the keys that source and sinks share.

    :arg settings: Brokers and topic.

    :returns: Keys in the order of the partitions' numbers.

    :raises DependencyError: Which setting to look at.

    """
    topic = settings.kafka_topic
    return [partition_key(topic, number) for number in _partitions(settings, topic)]


def check(settings: Settings, topic: str) -> str:
    """Look for a topic.

    :arg settings: Brokers.

    :arg topic: Its name.

    :returns: What was found.

    :raises DependencyError: Which setting to look at.

    """
    found = len(_partitions(settings, topic))
    return f"{topic} at {settings.kafka_bootstrap_servers}, {found} partitions"


def topic_id(settings: Settings) -> str:
    """Ask for the identity of the topic that is read: another one after it was made anew.

    :arg settings: Brokers and topic.

    :returns: Kafka's topic id; empty if the broker tells none (before Kafka 2.8).

    """
    admin = AdminClient(client(settings, {}))
    topic = settings.kafka_topic
    limit = settings.start_timeout.total_seconds()
    try:
        asked = admin.describe_topics(TopicCollection([topic]), request_timeout=limit)
        return str(asked[topic].result(timeout=limit).topic_id)
    except (KafkaException, TimeoutError) as error:
        log.warning("topic.no_id", topic=topic, reason=type(error).__name__)
        return ""


def ends(
    settings: Settings, topic: str, partitions: Iterable[int], *, timeout: float
) -> dict[int, int]:
    """Ask where partitions end, whatever transactions are open there.

    A consumer that reads what is committed is told where the first open transaction begins, and
    behind that there may be records that are committed.

    :arg settings: Brokers.

    :arg topic: Its name.

    :arg partitions: Their numbers.

    :arg timeout: Of each question, in seconds.

    :returns: Offset by partition.

    :raises KafkaException: There is no answer.

    """
    with _uncommitted(settings) as consumer:
        return {number: _end(consumer, topic, number, timeout) for number in partitions}


def spans(
    settings: Settings, topic: str, since: int, *, timeout: float
) -> dict[int, tuple[int, int]]:
    """Ask where what is newer than a time begins and ends, whatever transactions are open there.

    A consumer that reads what is committed is told nothing of a record whose transaction has been
    committed just now: the broker writes the mark that ends it a little later.

    :arg settings: Brokers.

    :arg topic: Its name.

    :arg since: The time, in milliseconds since 1970; 0 for all that there is.

    :arg timeout: Of each question, in seconds.

    :returns: First offset, and the one behind the last, by partition.

    :raises KafkaException: There is no answer.

    """
    with _uncommitted(settings) as consumer:
        numbers = list(consumer.list_topics(topic, timeout=timeout).topics[topic].partitions)
        ends = {number: _end(consumer, topic, number, timeout) for number in numbers}
        if since == 0:
            return {number: (OFFSET_BEGINNING, end) for number, end in ends.items()}
        wanted = [TopicPartition(topic, number, since) for number in numbers]
        found = consumer.offsets_for_times(wanted, timeout=timeout)
        # What comes after the ends were asked for is newer than them: nothing falls in between.
        starts = {at.partition: at.offset for at in found if at.offset >= 0}
        return {number: (starts.get(number, end), end) for number, end in ends.items()}


@contextmanager
def _uncommitted(settings: Settings) -> Iterator[Consumer]:
    group = settings.kafka_consumer_group  # not used: nothing commits
    consumer = Consumer(
        client(settings, {"group.id": group, "isolation.level": "read_uncommitted"})
    )
    try:
        yield consumer
    finally:
        consumer.close()


def _end(consumer: Consumer, topic: str, number: int, timeout: float) -> int:
    _, end = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=timeout)
    return end


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
