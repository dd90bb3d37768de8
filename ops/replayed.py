"""The mark that a replay leaves in the error topic: this dead letter was sent back.

It is a record of its own in the partition of the dead letter, behind it, so that retention never
removes it first. It is no dead letter: it lacks `dlq.topic`, `dlq.partition` and `dlq.offset`. Its
headers, as text:

| header          | what                                                                   |
| --------------- | ---------------------------------------------------------------------- |
| `dlq.replayed`  | `dlq.id` of the dead letter                                            |
| `dlq.group`     | the dead letter's, if it has one: another group's may have the same id |
| `dlq.timestamp` | the dead letter's: a topic that was re-created gives the ids again     |
| `dlq.replays`   | what the message got: how often it has been replayed now               |
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple, Self

from operators.dead_letters.envelope import Origin, Record, replays, whole

__all__ = ["Replayed"]


class Replayed(NamedTuple):
    """A dead letter that was sent back."""

    origin: Origin
    timestamp: int
    """Of the original."""

    replays: int

    @property
    def id(self) -> str:
        """The dead letter's `dlq.id`."""
        return f"{self.origin.topic}-{self.origin.partition}-{self.origin.offset}"

    def record(self) -> Record:
        """As it is written to the error topic."""
        told = {"replayed": self.id, "timestamp": datetime.now(UTC).isoformat()}
        headers = {
            "dlq.replayed": self.id,
            "dlq.group": self.origin.group,
            "dlq.timestamp": self.timestamp,
            "dlq.replays": self.replays,
        }
        return Record(
            key=None,
            value=json.dumps(told).encode(),
            headers=[
                (name, str(value).encode()) for name, value in headers.items() if value is not None
            ],
        )

    @classmethod
    def read(cls, told: Mapping[str, str]) -> Self | None:
        """Understand the headers of a record of the error topic; None if it is no mark."""
        try:
            topic, partition, offset = told["dlq.replayed"].rsplit("-", 2)
            at = whole(partition, bits=31), whole(offset, bits=63)
            timestamp = whole(told["dlq.timestamp"], bits=63, signed=True)
            return cls(Origin(told.get("dlq.group"), topic, *at), timestamp, replays(told))
        except (KeyError, ValueError):
            return None
