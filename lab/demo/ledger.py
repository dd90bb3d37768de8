"""Where the messages have ended, read from the database and the error topic."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psycopg
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from lab.demo.feed import Position
from lab.servers import Broker

__all__ = ["Counts", "DeadLetter", "Ledger", "Places"]


class Counts(NamedTuple):
    """How many messages have ended in each place."""

    stored: int = 0
    duplicates: int = 0
    dead_letters: int = 0

    @property
    def total(self) -> int:
        """In all places."""
        return sum(self)


class DeadLetter(NamedTuple):
    """A record of the error topic."""

    position: Position
    """Of the message that failed."""

    stage: str
    code: str


@dataclass
class Places:
    """The positions in each place."""

    stored: dict[Position, float] = field(default_factory=dict)
    """With the time of the commit, in seconds since 1970."""

    duplicates: list[Position] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)

    predictions: dict[str, int] = field(default_factory=dict)
    """How many transactions have each label."""

    def positions(self) -> Iterator[Position]:
        """Every position as often as it is there."""
        yield from self.stored
        yield from self.duplicates
        yield from (letter.position for letter in self.dead_letters)


class Ledger:
    """Reads what has become of the messages of one topic.

    :arg kafka: Settings of the client.

    :arg database_url: Of a server with `track_commit_timestamp`.

    :arg topic: Whose messages.

    :arg error_topic: Where those are that failed.

    """

    def __init__(
        self, kafka: dict[str, Any], database_url: str, *, topic: str, error_topic: str
    ) -> None:
        self._kafka, self._topic, self._error_topic = kafka, topic, error_topic
        self._database = psycopg.connect(database_url, autocommit=True)
        self._reader = _Reader(kafka, error_topic)

    def close(self) -> None:
        """Close both connections."""
        self._reader.close()
        self._database.close()

    def counts(self) -> Counts:
        """How many messages have ended in each place until now."""
        self._reader.read(0)
        row = self._database.execute(
            "SELECT (SELECT count(*) FROM transactions), (SELECT count(*) FROM duplicates)"
        ).fetchone()
        assert row is not None  # noqa: S101 - counts are one row
        return Counts(row[0], row[1], len(self._reader.found))

    def places(self) -> Places:
        """Read everything, the error topic anew to its end; for when the stream has ended."""
        self._reader.close()
        self._reader = _Reader(self._kafka, self._error_topic)
        while not self._reader.is_at_end:
            self._reader.read(0.1)
        stored = self._database.execute(
            "SELECT source_partition, source_offset,"
            " extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8"
            " FROM transactions WHERE source_topic = %s",
            [self._topic],
        )
        duplicates = self._database.execute(
            "SELECT source_partition, source_offset FROM duplicates WHERE source_topic = %s",
            [self._topic],
        )
        predictions = self._database.execute(
            "SELECT prediction, count(*) FROM predictions GROUP BY prediction ORDER BY prediction"
        )
        return Places(
            {(partition, offset): time for partition, offset, time in stored},
            [(partition, offset) for partition, offset in duplicates],
            self._reader.found,
            dict(predictions),
        )


class _Reader:
    def __init__(self, kafka: dict[str, Any], topic: str) -> None:
        own = {
            "group.id": "demo",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 50,
            "isolation.level": Broker.isolation_level,
        }
        self.found: list[DeadLetter] = []
        self._consumer = Consumer({**kafka, **own})
        partitions = self._consumer.list_topics(timeout=10).topics[topic].partitions
        self._at_end = dict.fromkeys(partitions, False)
        self._consumer.assign(
            [TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions]
        )

    @property
    def is_at_end(self) -> bool:
        return all(self._at_end.values())

    def read(self, seconds: float) -> None:
        for message in self._consumer.consume(500, seconds):
            error, partition = message.error(), message.partition()
            assert partition is not None  # noqa: S101 - it was assigned
            if error is None:
                headers = dict(message.headers() or [])
                if "dlq.check" not in headers:  # of the start; this broker shows what was aborted
                    self.found.append(_dead_letter(headers))
                self._at_end[partition] = False
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                self._at_end[partition] = True
            elif not error.retriable():
                raise KafkaException(error)

    def close(self) -> None:
        self._consumer.close()


def _dead_letter(headers: dict[str, Any]) -> DeadLetter:
    told = {name: value.decode() for name, value in headers.items() if name.startswith("dlq.")}
    position = int(told["dlq.partition"]), int(told["dlq.offset"])
    return DeadLetter(position, told["dlq.stage"], told["dlq.code"])
