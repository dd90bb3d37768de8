"""Where each message ended: stored, a duplicate, or in the error topic."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from confluent_kafka import Message

from lab.demo.proof import astray
from lab.servers import KafkaServer
from tests.kit.kafka import Topics, header, read_all
from tests.kit.postgres import query

__all__ = ["Account", "Position", "account", "positions"]

Position = tuple[int, int]
"""Partition and offset of a message in the topic that is read."""


def positions(database_url: str, table: str) -> set[Position]:
    """Read which messages left a row in a table.

    :arg database_url: Where.

    :arg table: `transactions` or `duplicates`.

    :returns: Their positions, of which the database holds each once.

    """
    statement = f"SELECT source_partition, source_offset FROM {table}"  # noqa: S608 - a test's own
    return {(partition, offset) for partition, offset in query(database_url, statement)}


@dataclass(frozen=True)
class Account:
    """Where messages ended, by their position in the topic that is read."""

    stored: set[Position]
    duplicates: set[Position]
    failed: Counter[Position]
    """How many records the error topic holds of each."""

    def expect_each_once(self, sent: Iterable[Message]) -> None:
        """See that every message that was produced is in exactly one place, once.

        :raises AssertionError: One is in no place, or in two, or has two dead letters.

        """
        wrong = astray(
            {_position(message) for message in sent},
            [*self.stored, *self.duplicates, *self.failed.elements()],
        )
        assert not any(wrong.values()), wrong


def account(broker: KafkaServer, topics: Topics, database_url: str) -> Account:
    """Find out where the messages of a test ended.

    :arg broker: With the error topic.

    :arg topics: The test's.

    :arg database_url: The test's.

    :returns: What became of them.

    """
    failed = Counter(
        (int(header(record, "dlq.partition") or -1), int(header(record, "dlq.offset") or -1))
        for record in read_all(broker, topics.failed)
    )
    stored, duplicates = (positions(database_url, name) for name in ("transactions", "duplicates"))
    return Account(stored, duplicates, failed)


def _position(message: Message) -> Position:
    partition, offset = message.partition(), message.offset()
    assert partition is not None
    assert offset is not None
    return partition, offset
