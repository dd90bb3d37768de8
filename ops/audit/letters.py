"""Positions in the error topic, which other streams may share."""

from array import array
from collections.abc import Iterator, Mapping

from confluent_kafka import OFFSET_BEGINNING, Message

from operators.dead_letters.envelope import Origin, replays, text_headers
from operators.kafka.contents import readable_headers
from operators.kafka.topic_reader import TopicReader, read_each
from ops.audit.spans import Span
from ops.replayed import Replayed
from settings import Settings

__all__ = ["Letters", "read"]


class Letters:
    """The dead letters of one partition: eight bytes each."""

    def __init__(self) -> None:
        self._offsets = array("q")
        self.replayed = 0
        """Those whose message was a replay."""
        self.put_back = 0
        """Those that were replayed: the marks behind them."""

    def add(self, offset: int, *, is_replay: bool) -> None:
        """Take one, in any order."""
        self._offsets.append(offset)
        self.replayed += is_replay

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

    :returns: By partition, those of messages of this stream.

    :raises DependencyError: Which setting to look at.

    """
    found: dict[int, Letters] = {}
    # What expires between two calls is gone like all before it.
    with TopicReader(settings, settings.kafka_error_topic, reset="earliest") as reader:
        partitions = reader.partitions()
        ends = reader.ends(partitions)
        for messages in reader.read_to_end(dict.fromkeys(partitions, OFFSET_BEGINNING), ends):
            for told in read_each(messages, _told):
                mark, origin = Replayed.read(told), Origin.read(told)
                if mark is not None and _counts(mark.origin, settings, starts):
                    found.setdefault(mark.origin.partition, Letters()).put_back += 1
                if origin is not None and _counts(origin, settings, starts):
                    letters = found.setdefault(origin.partition, Letters())
                    letters.add(origin.offset, is_replay=replays(told) > 0)
    for letters in found.values():
        letters.sort()
    return found


def _told(record: Message) -> dict[str, str]:
    return text_headers(readable_headers(record))


def _counts(origin: Origin, settings: Settings, starts: Mapping[int, int]) -> bool:
    """Whether it is this stream's, and of a message that is looked at."""
    is_ours = origin.belongs_to(settings.kafka_consumer_group, settings.kafka_topic)
    return is_ours and origin.offset >= starts.get(origin.partition, 0)
