"""A stream with all that it needs, driven from outside: messages in, processes run, places read."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any
from uuid import uuid4

import httpx
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from lab.servers import KafkaServer, ModelApi, free_port, wait_until
from ops.audit import Audit, compare
from tests.kit.accounts import Account, account
from tests.kit.environment import settings_of
from tests.kit.factories import transaction_json
from tests.kit.flow import Flow
from tests.kit.kafka import Outgoing, Topics, committed, produce
from tests.kit.recovery import make_recovery, recovery_options

__all__ = [
    "LONG",
    "World",
    "events",
    "garbage",
    "kill",
    "metric",
    "some_poison",
    "starts",
    "stop",
    "valid",
    "wait_for_epochs",
]

LONG = timedelta(seconds=60)
"""For what a busy machine may take; nothing waits for so long where all is well."""


def valid(count: int, kind: str = "order", *, partitions: int = 4, **fields: Any) -> list[Outgoing]:
    """Make valid transactions, one partition after the other.

    :arg count: How many.

    :arg kind: Their description, which a fault of the model can look for.

    :arg partitions: Of the topic.

    :arg fields: Others of each transaction.

    """
    return [
        Outgoing(
            json.dumps(transaction_json(id=str(uuid4()), description=kind, **fields)).encode(),
            partition=number % partitions,
        )
        for number in range(count)
    ]


def some_poison() -> list[Outgoing]:
    """Make 120 orders and 40 that a model may refuse, each beside others that it takes."""
    kinds = ("order", "order", "order", "poison order")
    return [message for kind in kinds * 10 for message in valid(4, kind)]


def garbage(count: int, *, partitions: int = 4, filler: bytes = b"") -> list[Outgoing]:
    """Make messages that are dead letters whatever the model says."""
    return [Outgoing(b"{" + filler, partition=number % partitions) for number in range(count)]


@dataclass
class World:
    """One stream: topics, group, database and model, and what was sent to it so far."""

    broker: KafkaServer
    topics: Topics
    model_api: ModelApi
    folder: Path
    variables: dict[str, str]
    sent: list[Message] = field(default_factory=list)
    _runs: int = 0

    def send(self, messages: Iterable[Outgoing]) -> list[Message]:
        """Send messages to the topic that is read."""
        sent = produce(self.broker, self.topics.transactions, messages)
        self.sent += sent
        return sent

    @property
    def recovery(self) -> list[str]:
        """Options of `bytewax.run` for the stream's recovery directory, made when first asked."""
        directory = self.folder / "recovery"
        return recovery_options(directory if directory.exists() else make_recovery(self.folder))

    def lose_recovery(self) -> None:
        """Take the recovery directory away; the next one is empty."""
        shutil.rmtree(self.folder / "recovery")

    def flow(self, *arguments: str, **variables: str) -> Flow:
        """Make the stream, not yet started, with a log of its own."""
        self._runs += 1
        folder = self.folder / f"run-{self._runs}"
        return Flow(folder, self.variables | variables, [*self.recovery, *arguments])

    @contextmanager
    def cluster(self, ports: list[int], **variables: str) -> Iterator[list[Flow]]:
        """Run the stream as several processes, each with metrics at its port."""
        addresses = ";".join(f"127.0.0.1:{free_port()}" for _ in ports)
        with ExitStack() as running:
            yield [
                running.enter_context(
                    self.flow("-i", str(number), "-a", addresses, HTTP_PORT=str(port), **variables)
                )
                for number, port in enumerate(ports)
            ]

    def beside(self, group: str, *, database_url: str) -> "World":
        """Make another stream of the same topics.

        :arg group: Its own, with a folder of that name.

        :arg database_url: Its own.

        """
        topics = replace(self.topics, group=f"{self.topics.group}-{group}")
        own = {"KAFKA_CONSUMER_GROUP": topics.group, "DATABASE_URL": database_url}
        return World(
            self.broker,
            topics,
            self.model_api,
            self.folder.with_name(topics.group),
            self.variables | own,
            self.sent,
        )

    def account(self) -> Account:
        """Find out where the messages are."""
        return account(self.broker, self.topics, self.variables["DATABASE_URL"])

    def audit(self) -> Audit:
        """Let the audit look."""
        return compare(settings_of(self.variables))

    def committed(self) -> dict[int, int]:
        """Give the offsets of the group, by partition, when its coordinator is there."""
        found: list[dict[int, int]] = []

        def answered() -> bool:
            with suppress(KafkaException):
                found.append(committed(self.broker, self.topics))
            return bool(found)

        wait_until(answered, LONG, what="the group's coordinator")
        return found[0]

    def ended(self) -> int:
        """Count the messages that have a place."""
        found = self.account()
        return len(found.stored) + len(found.duplicates) + len(found.failed)

    def wait_until_ended(self, count: int | None = None) -> None:
        """Wait until so many messages have a place; all, if not said."""
        count = len(self.sent) if count is None else count
        wait_until(lambda: self.ended() >= count, LONG, what=f"{count} messages in their places")

    def wait_until_committed(self, limit: timedelta = LONG) -> None:
        """Wait until the group's offsets are behind all that was sent: everything was read."""
        ends: dict[int, int] = {}
        for message in self.sent:
            at = message.partition() or 0
            ends[at] = max(ends.get(at, 0), 1 + (message.offset() or 0))

        def all_read() -> bool:
            found = self.committed()
            return all(found.get(at, 0) >= end for at, end in ends.items())

        wait_until(all_read, limit, what=f"the group at {ends}")

    def hold_back(self, messages: Iterable[Outgoing]) -> None:
        """Send messages and see that the model has them in hand: see `hang`."""
        before = self.model_api.state()["elements"]
        count = len(self.send(messages))
        wait_until(
            lambda: self.model_api.state()["elements"] >= before + count,
            LONG,
            what="requests that hang",
        )

    def set_offsets(self, offsets: dict[int, int]) -> None:
        """Set the group's offsets by hand, as `kafka-consumer-groups --reset-offsets` does."""
        topic = self.topics.transactions
        wanted = [TopicPartition(topic, number, at) for number, at in offsets.items()]
        admin = AdminClient(self.broker.client_settings)
        asked = admin.alter_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(self.topics.group, wanted)]
        )
        for at in asked[self.topics.group].result(10).topic_partitions:
            assert at.error is None, at.error

    def add_partitions(self, total: int) -> None:
        """Let the topic have more partitions, and wait until it does."""
        topic = self.topics.transactions
        admin = AdminClient(self.broker.client_settings)
        admin.create_partitions([NewPartitions(topic, total)])[topic].result(10)
        wait_until(lambda: len(self.broker.ends(topic)) == total, LONG, what="new partitions")


def stop(flow: Flow) -> None:
    """End it gracefully."""
    flow.signal(SIGTERM)
    assert flow.wait(LONG) == 0, flow.output()


def kill(*flows: Flow) -> None:
    """End a process with `kill -9`, or all of a cluster, which may end by themselves meanwhile."""
    for flow in flows:
        flow.signal(SIGKILL)
    statuses = {flow.wait(LONG) for flow in flows}
    assert -SIGKILL in statuses
    assert statuses <= {-SIGKILL, 1}


def events(flow: Flow, name: str) -> list[dict[str, Any]]:
    """Read the log, which is in JSON.

    :arg flow: Run with `LOG_FORMAT=json`.

    :arg name: Of the events.

    """
    complete, _, _ = flow.output().rpartition("\n")  # the last line may be half written
    lines = [json.loads(line) for line in complete.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


def starts(flow: Flow) -> dict[int, int]:
    """Read from the log in JSON where each partition began."""
    return {line["partition"]: line["offset"] for line in events(flow, "source.start")}


def metric(port: int, name: str) -> dict[str, float]:
    """Ask a running stream for a metric.

    :arg port: Its `HTTP_PORT`.

    :arg name: Of the series.

    :returns: Values by what stands in the braces; empty if nothing answers.

    """
    try:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=10).text
    except httpx.TransportError:
        return {}
    found = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
    return {labels: float(value) for labels, value in found}


def wait_for_epochs(port: int, count: int) -> None:
    """Wait until that many epochs more have ended, of each partition of a process."""

    def ended() -> Counter[str]:
        return Counter(
            {k: int(v) for k, v in metric(port, "fraud_epoch_duration_seconds_count").items()}
        )

    wait_until(lambda: ended().total() > 0, LONG, what="the first epoch")
    before = ended()
    parts = len(metric(port, "fraud_lag_messages"))
    wait_until(
        lambda: ended().total() >= before.total() + parts * count, LONG, what=f"{count} epochs"
    )
