"""Positions in the error topic, which other streams and topics may share."""

from array import array
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from confluent_kafka import OFFSET_BEGINNING

from ops.audit.reader import Reader
from ops.audit.spans import Span
from ops.replayed import Replayed, number, text_headers
from settings import Settings

__all__ = ["Letter", "Letters", "read"]


class Letter(NamedTuple):
    """A record of the error topic: where its original was, and how often that was replayed."""

    topic: str
    partition: int
    offset: int
    replays: int


class Letters:
    """The dead letters of one partition: eight bytes each."""

    def __init__(self) -> None:
        self._offsets = array("q")
        self.replayed = 0
        """Those whose message was a replay."""
        self.put_back = 0
        """Those that were replayed: the marks behind them."""

    def add(self, letter: Letter) -> None:
        """Take one, in any order."""
        self._offsets.append(letter.offset)
        self.replayed += letter.replays > 0

    def sort(self) -> None:
        """Put them into the order of their offsets; those of a worker almost are."""
        self._offsets = array("q", sorted(self._offsets))

    def spans(self) -> Iterator[Span]:
        """Each record as a span, in ascending order: one position may come more than once."""
        return (Span(at, at) for at in self._offsets)

    def count(self, offset: int) -> int:
        """How often a position is there."""
        return self._offsets.count(offset)


def read(settings: Settings, starts: Mapping[int, int]) -> dict[int, Letters]:
    """Read the whole error topic.

    :arg settings: Brokers and topics.

    :arg starts: By partition, the offset before which messages do not count.

    :returns: By partition, those of messages of `KAFKA_TOPIC`.

    :raises DependencyError: Which setting to look at.

    """
    found: dict[int, Letters] = {}
    # What expires between two calls is gone like all before it.
    with Reader(settings, settings.kafka_error_topic, reset="earliest") as reader:
        partitions = reader.partitions()
        ends = reader.ends(partitions)
        for messages in reader.read_to_end(dict.fromkeys(partitions, OFFSET_BEGINNING), ends):
            for message in messages:
                told = text_headers(message)
                mark, letter = Replayed.read(told), _letter(told)
                if mark is not None and _counts(mark, settings, starts):
                    found.setdefault(mark.partition, Letters()).put_back += 1
                if letter is not None and _counts(letter, settings, starts):
                    found.setdefault(letter.partition, Letters()).add(letter)
    for letters in found.values():
        letters.sort()
    return found


def _counts(at: Letter | Replayed, settings: Settings, starts: Mapping[int, int]) -> bool:
    return at.topic == settings.kafka_topic and at.offset >= starts.get(at.partition, 0)


def _letter(told: dict[str, str]) -> Letter | None:
    """None for a record that is no stream's dead letter."""
    try:
        return Letter(
            told["dlq.topic"], int(told["dlq.partition"]), int(told["dlq.offset"]), number(told)
        )
    except (KeyError, ValueError):
        return None
