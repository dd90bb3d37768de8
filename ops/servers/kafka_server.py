"""What the embedded broker and Apache Kafka have in common."""

from abc import ABC
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.cimpl import NewTopic

from ops.servers.ports import LOCALHOST, accepts, free_port
from ops.servers.process import Server
from ops.servers.waiting import wait_until

_TIMEOUT = 10.0
"""Seconds for one request."""


class KafkaServer(Server, ABC):
    """A broker of Kafka's protocol on 127.0.0.1.

    :arg folder: Its own.

    """

    keeps_data: ClassVar[bool]
    """Whether topics and messages are still there after an end and a new start."""

    isolation_level: ClassVar[str] = "read_committed"
    """With which a consumer misses nothing that is written in transactions."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()

    @property
    def bootstrap_servers(self) -> str:
        """Where clients connect first."""
        return f"{LOCALHOST}:{self.port}"

    @property
    def client_settings(self) -> dict[str, Any]:
        """Settings for a client of confluent-kafka that prints nothing by itself."""
        return {
            "bootstrap.servers": self.bootstrap_servers,
            "log_level": 0,
            "error_cb": _ignore,
            "topic.metadata.refresh.fast.interval.ms": 20,
            "reconnect.backoff.ms": 20,
            "reconnect.backoff.max.ms": 200,
        }

    def is_ready(self) -> bool:
        """Say whether it lists its brokers."""
        if not accepts(self.port):
            return False
        try:
            return bool(AdminClient(self.client_settings).list_topics(timeout=1).brokers)
        except KafkaException:
            return False

    def create_topic(
        self, name: str, partitions: int, *, config: Mapping[str, str] | None = None
    ) -> None:
        """Create a topic and wait until all its partitions can be used.

        :arg name: New to this broker.

        :arg partitions: How many.

        :arg config: Topic settings, such as `max.message.bytes`; the embedded broker keeps
            them and heeds few.

        :raises KafkaException: It exists, or the broker refuses it.

        :raises TimeoutError: It did not become visible.

        """
        # Kept in a variable until the end: a client that is collected takes its futures along.
        admin = AdminClient(self.client_settings)
        topic = NewTopic(name, partitions, replication_factor=1, config=dict(config or {}))
        admin.create_topics([topic], request_timeout=_TIMEOUT)[name].result(_TIMEOUT)

        limit = timedelta(seconds=_TIMEOUT)
        wait_until(lambda: _usable(admin, name, partitions), limit, what=f"topic {name}")

    def create_error_topic(self, name: str, partitions: int) -> None:
        """Create a topic that is written in transactions, as `create_topic` does.

        :arg name: New to this broker.

        :arg partitions: How many; the embedded broker has one.

        """
        self.create_topic(name, partitions)

    def ends(self, topic: str) -> dict[int, int]:
        """Ask how far partitions reach at least, whatever transactions are open there.

        :arg topic: Its name.

        :returns: Offset behind the last by partition; the embedded broker's may be too low.

        :raises KafkaException: There is no answer.

        """
        admin = AdminClient(self.client_settings)
        return _ends(admin, topic, admin.list_topics(timeout=_TIMEOUT).topics[topic].partitions)


def _usable(admin: AdminClient, topic: str, partitions: int) -> bool:
    # All topics are listed: asking for one by name can create it.
    found = admin.list_topics(timeout=_TIMEOUT).topics.get(topic)
    if found is None or found.error is not None or len(found.partitions) != partitions:
        return False
    # A broker can be named as leader a moment before it takes that part: only it can tell.
    try:
        _ends(admin, topic, found.partitions)
    except KafkaException:
        return False
    return True


def _ends(admin: AdminClient, topic: str, partitions: Iterable[int]) -> dict[int, int]:
    latest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # as it ships
    wanted = {TopicPartition(topic, part): latest for part in partitions}
    answers = admin.list_offsets(wanted, request_timeout=_TIMEOUT).items()
    return {at.partition: answer.result(_TIMEOUT).offset for at, answer in answers}


def _ignore(_error: object) -> None:
    """Take errors of the connection, which the calls report themselves."""
