"""A dead letter, as its headers tell of it."""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple, Self

from confluent_kafka import Message

from operators.dead_letters.envelope import Origin, Record, replays, whole
from operators.kafka.contents import readable_headers
from ops.replayed import Replayed

__all__ = ["Letter", "record_of"]

WORD: Final = re.compile(r"[A-Za-z0-9._-]{1,200}", re.ASCII)


class Letter(NamedTuple):
    """What there is to choose by; nothing of the message itself."""

    origin: Origin
    timestamp: int
    """Of the original."""

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
        return self.mark.id

    @property
    def mark(self) -> Replayed:
        """What is left in the error topic when it is sent back."""
        return Replayed(self.origin, self.timestamp, self.replays + 1)

    @classmethod
    def read(cls, told: Mapping[str, str], failed_at: int) -> Self | None:
        """Understand the headers of a record of the error topic.

        :arg failed_at: The record's timestamp, in milliseconds since 1970.

        :returns: The dead letter; None if it is none.

        """
        origin = Origin.read(told)
        if origin is None:
            return None
        try:
            letter = cls(
                origin,
                timestamp=whole(told["dlq.timestamp"], bits=63, signed=True),
                stage=told["dlq.stage"],
                disposition=told["dlq.disposition"],
                code=told["dlq.code"],
                replays=replays(told),
                is_cut="dlq.cut" in told,
                failed_at=failed_at,
            )
        except (KeyError, ValueError):
            return None
        # They are printed, to a terminal too.
        words = (letter.stage, letter.disposition, letter.code)
        return letter if all(WORD.fullmatch(word) for word in words) else None


def record_of(message: Message) -> Record:
    """What `operators.dead_letters.envelope.to_message` takes."""
    # The client's types allow more than there is.
    return Record(message.key(), message.value(), readable_headers(message))  # type: ignore[arg-type]
