"""The mark that our commits carry as offset metadata.

It tells them from an offset that somebody set by hand, and says what the next start needs to know
when the recovery directory is lost.
"""

import json
from typing import NamedTuple, Self

from confluent_kafka import TopicPartition

__all__ = ["Mark"]

STREAM = "fraud-scoring-stream"


class Mark(NamedTuple):
    """What is known of a committed position."""

    topic_id: str
    """Kafka's id of the topic; empty if the broker tells none."""

    taken: int
    """When the position was taken, in milliseconds since 1970."""

    def write(self) -> str:
        """As offset metadata."""
        return json.dumps({"by": STREAM, "topic_id": self.topic_id, "taken": self.taken})

    def at(self, topic: str, partition: int, offset: int) -> TopicPartition:
        """Make the position to commit, with this mark on it."""
        return TopicPartition(topic, partition, offset, self.write())

    @classmethod
    def read(cls, metadata: str | None) -> Self | None:
        """Understand offset metadata.

        :arg metadata: Of a committed offset.

        :returns: The mark; None if it is none of ours.

        """
        try:
            fields = json.loads(metadata or "")
            if fields["by"] == STREAM:
                return cls(str(fields["topic_id"]), int(fields["taken"]))
        except (KeyError, TypeError, ValueError):
            pass
        return None
