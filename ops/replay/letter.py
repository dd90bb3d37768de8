"""A dead letter, as its headers tell of it."""

from typing import NamedTuple, Self

from confluent_kafka import Message

from operators.dead_letters.envelope import Record
from ops.replayed import Replayed, number

__all__ = ["Letter", "record_of"]


class Letter(NamedTuple):
    """What there is to choose by; nothing of the message itself."""

    topic: str
    """Of the original, as the following."""

    partition: int
    offset: int
    timestamp: int
    stage: str
    disposition: str
    code: str
    replays: int
    """How often the original had been replayed before."""

    is_cut: bool
    failed_at: int
    """When it was written, in milliseconds since 1970."""

    @property
    def id(self) -> str:
        """Its `dlq.id`."""
        return f"{self.topic}-{self.partition}-{self.offset}"

    @property
    def mark(self) -> Replayed:
        """What is left in the error topic when it is sent back."""
        return Replayed(
            self.topic, self.partition, self.offset, self.timestamp, replays=self.replays + 1
        )

    @classmethod
    def read(cls, told: dict[str, str], failed_at: int) -> Self | None:
        """Understand a record of the error topic.

        :arg told: Its headers.

        :arg failed_at: The record's timestamp, in milliseconds since 1970.

        :returns: The dead letter; None if it is none.

        """
        try:
            return cls(
                topic=told["dlq.topic"],
                partition=int(told["dlq.partition"]),
                offset=int(told["dlq.offset"]),
                timestamp=int(told["dlq.timestamp"]),
                stage=told["dlq.stage"],
                disposition=told["dlq.disposition"],
                code=told["dlq.code"],
                replays=number(told),
                is_cut="dlq.cut" in told,
                failed_at=failed_at,
            )
        except (KeyError, ValueError):
            return None


def record_of(message: Message) -> Record:
    """What `operators.dead_letters.envelope.original` takes."""
    # The client's types allow more than there is.
    return Record(message.key(), message.value(), list(message.headers() or []))  # type: ignore[arg-type]
