"""What a worker knows of a source partition that it has taken over."""

from typing import NamedTuple, Protocol

from operators.engine.positions import Tracker
from operators.kafka.metadata import CommitMetadata, LettersPosition, ResumePoint

__all__ = ["DeadLetterPositions", "Partition"]


class DeadLetterPositions(Protocol):
    """Knows where the dead letters of a source partition are."""

    def position(self, partition: int, done: int) -> LettersPosition | None:
        """Where those of messages from an offset on begin; None for anywhere."""


class Partition(NamedTuple):
    """A source partition of this worker."""

    number: int
    key: str
    tracker: Tracker
    topic_id: str
    """Of the topic when the partition was taken over; empty if the broker tells none."""
    generation: int
    """See `CommitMetadata.generation`."""
    dead_letters: DeadLetterPositions | None
    """None if failures do not go to the error topic."""

    def resume_point(self) -> ResumePoint:
        """What a successor would have to know now."""
        done, letters = self.tracker.done, None
        if self.dead_letters is not None:
            letters = self.dead_letters.position(self.number, done)
        return ResumePoint(done, CommitMetadata(self.topic_id, letters, self.generation))
