"""What a successor has to know of a position, in the two forms in which it is kept.

The snapshot holds it as a dict, and each of our commits to the consumer group carries it as offset
metadata. The metadata also tells our commits from an offset that somebody set by hand, which has
none.
"""

import json
from typing import Any, Final, NamedTuple, Self

from confluent_kafka import TopicPartition

from operators.errors import SourceError

__all__ = ["NOTHING_KNOWN", "CommitMetadata", "LettersPosition", "ResumePoint", "State"]

STREAM: Final = "fraud-scoring-stream"
STATE_VERSION: Final = 2
OTHER_VERSION: Final = (
    "{key}: the recovery directory (-r) was written by another version of this stream and cannot be"
    " read. Start with an empty one: the offsets of the consumer group are enough to go on"
)

State = dict[str, Any]
NOTHING_KNOWN: Final[State] = {"version": STATE_VERSION}
"""Snapshot of a partition that was not taken over before the end."""


class LettersPosition(NamedTuple):
    """Where in the error topic a source partition's dead letters begin that may matter."""

    partition: int
    offset: int


class CommitMetadata(NamedTuple):
    """What is known beside the offset."""

    topic_id: str
    """Kafka's id of the topic; empty if the broker tells none."""

    letters: LettersPosition | None = None
    """Dead letters of messages at or after the offset are there or behind; None if not known."""

    generation: int = 0
    """Of the takeover, each higher than the one before: a fencing token. What an earlier one has
    saved counts no more, and whoever sees a later one has lost the partition meanwhile."""

    begun: bool = False
    """Whether the offset is only where a group without offsets begins: nothing was done there."""

    def write(self) -> str:
        """As offset metadata."""
        return json.dumps({"by": STREAM, **self._asdict()})

    @classmethod
    def read(cls, metadata: str | None) -> Self | None:
        """Understand offset metadata.

        :arg metadata: Of a committed offset; that of version 0.1.0 has only the topic's id.

        :returns: None if it is none of ours.

        """
        try:
            fields = json.loads(metadata or "")
            if fields["by"] == STREAM:
                return cls.of(fields)
        except (KeyError, TypeError, ValueError):
            pass
        return None

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Self:
        """Understand its fields; raises as the wrong ones do."""
        letters = fields.get("letters")
        return cls(
            str(fields["topic_id"]),
            LettersPosition(*map(int, letters)) if letters else None,
            int(fields.get("generation", 0)),
            bool(fields.get("begun", False)),
        )


class ResumePoint(NamedTuple):
    """Where a partition is read on, and what is known of it."""

    offset: int
    """Everything before it is durable."""

    metadata: CommitMetadata

    def commit(self, topic: str, partition: int) -> TopicPartition:
        """As an offset to commit."""
        return TopicPartition(topic, partition, self.offset, self.metadata.write())

    def state(self, *, keeps_metadata: bool) -> State:
        """As a snapshot.

        :arg keeps_metadata: Whether the broker is known to keep what commits carry.

        """
        return {
            "version": STATE_VERSION,
            "offset": self.offset,
            **self.metadata._asdict(),
            "keeps_metadata": keeps_metadata,
        }

    @classmethod
    def read(cls, key: str, state: State | None) -> Self | None:
        """Understand a snapshot.

        :returns: None if it was taken before anything was known.

        :raises SourceError: Another version made it.

        """
        if state is None or state == NOTHING_KNOWN:
            return None
        if not isinstance(state, dict) or state.get("version") != STATE_VERSION:
            raise SourceError(OTHER_VERSION.format(key=key))
        return cls(int(state["offset"]), CommitMetadata.of(state))
