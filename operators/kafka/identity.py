"""Which topic has a name: one that is deleted and created again is another one."""

from collections.abc import Callable
from typing import Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from operators.errors import DependencyError
from operators.kafka.client import ask, client
from settings import Settings
from telemetry import log

__all__ = ["NEW_TOPIC", "TopicDescription", "describe", "topic_id"]

NEW_TOPIC: Final = (
    "{key}: the topic was deleted and created again: its positions mean other messages now. To read"
    " it, start with an empty recovery directory and another KAFKA_CONSUMER_GROUP; rows of the old"
    " topic have to get another source_topic first"
)
NO_ID: Final = {  # brokers before 2.8
    KafkaError.UNSUPPORTED_VERSION,
    KafkaError._UNSUPPORTED_FEATURE,  # noqa: SLF001 - librdkafka's own codes begin so
}


class TopicDescription(NamedTuple):
    """What a broker says of a topic."""

    id: str
    """Empty if the broker has none (before 2.8)."""

    partitions: int


def describe(admin: AdminClient, topic: str, seconds: float) -> TopicDescription:
    """Ask for the identity and the size of a topic.

    :arg seconds: How long to wait for the answer.

    :returns: What the broker says.

    :raises KafkaException: There is no answer, or no such topic.

    """
    asked = admin.describe_topics(TopicCollection([topic]), request_timeout=seconds)
    try:
        found = asked[topic].result(timeout=seconds)
    except TimeoutError:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None  # noqa: SLF001
    return TopicDescription(str(found.topic_id or ""), len(found.partitions))


def topic_id(settings: Settings, *, give_up: Callable[[], bool] = lambda: False) -> str:
    """Ask for the id of the topic that is read.

    :returns: Empty if the broker has none.

    :raises DependencyError: It cannot be found out.

    """
    admin = AdminClient(client(settings, {}))
    topic, limit = settings.kafka_topic, settings.start_timeout.total_seconds()
    try:
        return ask(lambda: describe(admin, topic, limit), give_up=give_up).id
    except KafkaException as error:
        reason = error.args[0]
        if reason.code() in NO_ID:
            log.warning("topic.no_id", topic=topic, reason=reason.str())
            return ""
        # Not to be taken for a topic without id, which would be forgotten.
        msg = f"KAFKA_TOPIC: cannot find which topic {topic} is: {reason.str()}"
        raise DependencyError(msg) from None
