"""Do once with Kafka what the stream will do, so that a right that is missing is named.

Nothing here leaves a trace: a topic is read at its end, and what is committed is an offset of a
partition that there is not, which a broker refuses after it has looked at the rights.
"""

import time
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from operators.errors import DependencyError
from operators.kafka.client import ask, client, committer
from settings import Settings

__all__ = ["require_commits", "require_reading", "require_sole_use"]

POLL: Final = 0.1  # seconds
NO_PARTITION: Final = 2**31 - 1
REFUSED: Final = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
}
SUBSCRIBED: Final = (
    "KAFKA_CONSUMER_GROUP: another program subscribes with the group {group} (client {clients});"
    " brokers then take no offsets of this stream: give one of the two a group of its own"
)


def require_reading(settings: Settings, topic: str, partition: int) -> None:
    """Read a partition at its end.

    A broker that does not answer in time is no reason here: others tell that.

    :raises DependencyError: The user may not.

    """
    consumer, limit = _consumer(settings), settings.start_timeout.total_seconds()
    end = time.monotonic() + limit
    at = TopicPartition(topic, partition)
    try:
        # To let the client find the end takes it a second.
        _, at.offset = consumer.get_watermark_offsets(at, timeout=limit)
        consumer.assign([at])
        while time.monotonic() < end:
            message = consumer.poll(POLL)
            error = message.error() if message else None
            if error is not None and error.code() in REFUSED:
                raise DependencyError(_lacks(settings, error, "READ", topic))
            if message is not None and (error is None or error.code() == KafkaError._PARTITION_EOF):  # noqa: SLF001 - its public name
                return
    except KafkaException:
        return
    finally:
        consumer.close()


def require_commits(settings: Settings, partition: int) -> None:
    """Ask for the group's offset, and see that one may be committed.

    :raises DependencyError: The user may not.

    """
    topic, limit = settings.kafka_topic, settings.start_timeout.total_seconds()
    consumer = _consumer(settings)
    nowhere = [TopicPartition(topic, NO_PARTITION, 0)]
    try:
        wanted = [TopicPartition(topic, partition)]
        [at] = ask(lambda: consumer.committed(wanted, timeout=limit), give_up=lambda: False)
        error = at.error
        if error is None:
            [at] = consumer.commit(offsets=nowhere, asynchronous=False)
            error = at.error
    except KafkaException as raised:
        error = raised.args[0]
    finally:
        consumer.close()
    if error is not None and error.code() in REFUSED:
        raise DependencyError(_lacks(settings, error, "READ", topic))


def require_sole_use(settings: Settings) -> None:
    """See that the group has no members: nobody but a member may commit then.

    :raises DependencyError: It has some, or the user may not ask.

    """
    group, limit = settings.kafka_consumer_group, settings.start_timeout.total_seconds()
    admin = AdminClient(client(settings, {"log_level": 0, "error_cb": lambda _error: None}))
    try:
        asked = admin.describe_consumer_groups([group], request_timeout=limit)
        members = asked[group].result(limit).members
    except KafkaException as error:
        if error.args[0].code() in REFUSED:
            raise DependencyError(_lacks(settings, error.args[0], "DESCRIBE", "")) from None
        return  # not known, as of a group that is new
    except TimeoutError:
        return
    if members:
        clients = ", ".join(sorted({f"{each.client_id} at {each.host}" for each in members}))
        raise DependencyError(SUBSCRIBED.format(group=group, clients=clients))


def _consumer(settings: Settings) -> Consumer:
    own = {
        **committer(settings),
        "enable.partition.eof": True,
        "fetch.wait.max.ms": 10,
        "enable.auto.offset.store": False,
        # Silent: what does not pass is told by the error that is raised here.
        "error_cb": lambda _error: None,
        "log_level": 0,
    }
    return Consumer(client(settings, own))


def _lacks(settings: Settings, error: KafkaError, right: str, topic: str) -> str:
    if error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
        group = settings.kafka_consumer_group
        return f"KAFKA_CONSUMER_GROUP: this user lacks READ on the group {group}"
    setting = "KAFKA_TOPIC" if topic == settings.kafka_topic else "KAFKA_ERROR_TOPIC"
    return f"{setting}: this user lacks {right} on the topic {topic}"
