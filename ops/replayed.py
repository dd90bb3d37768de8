"""The mark that a replay leaves in the error topic: this dead letter was sent back.

It is a record of its own in the partition of the dead letter, behind it, so that retention never
removes it first. It is no dead letter: it lacks `dlq.topic`, `dlq.partition` and `dlq.offset`. Its
headers, as text:

| header          | what                                                               |
| --------------- | ------------------------------------------------------------------ |
| `dlq.replayed`  | `dlq.id` of the dead letter                                        |
| `dlq.timestamp` | the dead letter's: a topic that was made anew gives the ids again  |
| `dlq.replays`   | what the message got: how often it has been replayed now           |
"""

import json
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self

from confluent_kafka import Message

from operators.dead_letters.envelope import Record

__all__ = ["Replayed", "number", "text_headers"]


class Replayed(NamedTuple):
    """A dead letter that was sent back, by the position of its original."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    """Of the original."""

    replays: int

    @property
    def id(self) -> str:
        """The dead letter's `dlq.id`."""
        return f"{self.topic}-{self.partition}-{self.offset}"

    def record(self) -> Record:
        """As it is written to the error topic."""
        told = {"replayed": self.id, "timestamp": datetime.now(UTC).isoformat()}
        headers = {
            "dlq.replayed": self.id,
            "dlq.timestamp": self.timestamp,
            "dlq.replays": self.replays,
        }
        return Record(
            key=None,
            value=json.dumps(told).encode(),
            headers=[(name, str(value).encode()) for name, value in headers.items()],
        )

    @classmethod
    def read(cls, told: dict[str, str]) -> Self | None:
        """Understand a record of the error topic.

        :arg told: Its headers.

        :returns: The mark; None if it is none.

        """
        try:
            topic, partition, offset = told["dlq.replayed"].rsplit("-", 2)
            timestamp = int(told["dlq.timestamp"])
            return cls(topic, int(partition), int(offset), timestamp, number(told))
        except (KeyError, ValueError):
            return None


def text_headers(record: Message) -> dict[str, str]:
    """Headers of a record that begin with `dlq.`; those that are no text are left out."""
    headers: dict[str, Any] = dict(record.headers() or [])
    found = {}
    for name, value in headers.items():
        if name.startswith("dlq.") and isinstance(value, bytes):
            try:
                found[name] = value.decode()
            except UnicodeDecodeError:
                continue
    return found


def number(told: dict[str, str]) -> int:
    """How often a message had been replayed; what another producer wrote there counts as 0."""
    try:
        return max(0, int(told.get("dlq.replays", "0")))
    except ValueError:
        return 0
