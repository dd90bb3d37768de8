"""What the embedded broker and Apache Kafka have in common."""

from abc import ABC
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Final

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.admin._metadata import ClusterMetadata
from confluent_kafka.cimpl import NewTopic

from lab.servers.ports import LOCALHOST, accepts, free_port
from lab.servers.process import Server
from lab.servers.waiting import wait_until

_TIMEOUT: Final = 60.0
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
        self._admin = _Admin(self.client_settings)

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
        return accepts(self.port) and _Admin(self.client_settings).listed() is not None

    def create_topic(
        self, name: str, partitions: int, *, config: Mapping[str, str] | None = None
    ) -> None:
        """Create a topic and wait until all its partitions can be used.

        :arg name: New to this broker.

        :arg partitions: How many.

        :arg config: Topic settings, such as `max.message.bytes`; the embedded broker keeps
            them and heeds few.

        :raises KafkaException: It exists, or the broker refuses it.

        :raises TimeoutError: No broker took it, or it did not become visible.

        """
        topic = NewTopic(name, partitions, replication_factor=1, config=dict(config or {}))
        limit = timedelta(seconds=_TIMEOUT)
        wait_until(lambda: _created(self._admin, topic), limit, what=f"a broker for topic {name}")
        wait_until(lambda: _usable(self._admin, name, partitions), limit, what=f"topic {name}")

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


class _Admin:
    """A client that is replaced when it finds no broker.

    When a machine stalls for longer than the broker's session, the broker is out of its own
    cluster until its next heartbeat. A client that asks meanwhile is told of no broker, and may
    never find one again (librdkafka's issue 5301).
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._client: AdminClient | None = None

    @property
    def client(self) -> AdminClient:
        """The present one."""
        if self._client is None:
            self._client = AdminClient(self._settings)
        return self._client

    def listed(self) -> ClusterMetadata | None:
        """List all topics, since asking for one by name can create it; None if none answers."""
        with suppress(KafkaException):
            found = self.client.list_topics(timeout=1)
            if found.brokers:
                return found
        self._client = None
        return None


def _created(admin: _Admin, topic: NewTopic) -> bool:
    if admin.listed() is None:
        return False
    try:
        asked = admin.client.create_topics([topic], request_timeout=_TIMEOUT)
        asked[topic.topic].result(_TIMEOUT)
    except KafkaException as refused:
        # The only broker has left the cluster in the meantime.
        if refused.args[0].code() == KafkaError.INVALID_REPLICATION_FACTOR:
            return False
        raise
    return True


def _usable(admin: _Admin, name: str, partitions: int) -> bool:
    listed = admin.listed()
    found = listed and listed.topics.get(name)
    if not found or found.error is not None or len(found.partitions) != partitions:
        return False
    # A broker can be named as leader a moment before it takes that part: only it can tell.
    try:
        _ends(admin.client, name, found.partitions)
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
