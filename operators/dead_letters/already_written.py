"""Read what the error topic holds of partitions that are taken over.

Messages at or after the resume point are read again after a crash, and some of them ended in the
error topic before. By then this worker holds the locks of its partitions and has fenced their
earlier producers, so that nobody else writes.

The group's commit says where to begin: the dead letters of a source partition are in one partition
of the error topic, as Spring Kafka's `DeadLetterPublishingRecoverer` has it, and their offset is
noted. Where that is not known, after an offset was set by hand or at a group's first start, the
whole topic is read.

Only what is committed counts, and a transaction that somebody left open hides what was committed
behind it, until it is aborted. So where to end is asked for without regard to transactions.
"""

import time
from collections.abc import Mapping
from functools import partial
from typing import Final, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Message

from operators.dead_letters.envelope import Origin, text_headers, whole
from operators.engine.shutdown import Stop
from operators.errors import DeliveryError, DependencyError, fatal
from operators.kafka.contents import position, readable_headers
from operators.kafka.metadata import LettersPosition, ResumePoint
from operators.kafka.topic_reader import TopicReader, read_each
from settings import Settings
from telemetry import log

__all__ = ["ReadBack", "Written", "read_back"]

TELL_EVERY: Final = 10.0  # seconds
LONGEST_WAIT: Final = 360.0
"""Seconds; a transaction of another stream that was killed is aborted by the broker after five
minutes (`LIFETIME` in `operators.dead_letters.producer`)."""


class Written(NamedTuple):
    """A dead letter that is in the error topic."""

    at: LettersPosition
    source_offset: int
    source_timestamp: int
    """In a topic that was created again, another message has the offset."""


class ReadBack(NamedTuple):
    """What was found."""

    written: dict[int, list[Written]]
    """By source partition, in the order of positions."""

    ends: dict[int, int]
    """Of the partitions of the error topic that were read."""


class _Patience:
    """Waits for a transaction that somebody left open, and says so."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._told = 0.0

    def __call__(self, waited: float) -> bool:
        """Whether to wait on.

        :arg waited: Seconds since something came.

        """
        if waited - self._told > TELL_EVERY:
            self._told = waited
            reason = "a transaction is open in the error topic, or its broker does not answer"
            log.warning("dead_letters.read_back_waits", seconds=round(waited), reason=reason)
        return waited < LONGEST_WAIT and not self._stop.requested


def read_back(settings: Settings, points: Mapping[int, ResumePoint], stop: Stop) -> ReadBack:
    """Find the dead letters of messages that will be read again.

    :arg points: By source partition, where it is read on and what is known of its dead letters.

    :returns: What was found; it may take as long as a transaction that somebody left open.

    :raises DeliveryError: The error topic cannot be read.

    """
    started = time.monotonic()
    found: dict[int, list[Written]] = {number: [] for number in points}
    try:
        with TopicReader(
            settings, settings.kafka_error_topic, reset="earliest", while_waiting=_Patience(stop)
        ) as reader:
            starts = _starts(reader.partitions(), points)
            ends = reader.ends(list(starts))
            for records in reader.read_to_end(starts, ends):
                for letter_of in read_each(records, partial(_read, settings=settings)):
                    if letter_of is None:
                        continue
                    number, letter = letter_of
                    if number in points and letter.source_offset >= points[number].offset:
                        found[number].append(letter)
    except DependencyError as error:
        msg = f"KAFKA_ERROR_TOPIC: cannot read back what was written before: {error}"
        raise fatal(DeliveryError(msg)) from None
    for written in found.values():
        written.sort()
    seconds = round(time.monotonic() - started, 2)
    log.info("dead_letters.read_back", known=sum(map(len, found.values())), seconds=seconds)
    return ReadBack(found, ends)


def _read(record: Message, settings: Settings) -> tuple[int, Written] | None:
    """Source partition and dead letter; None if it is none of this stream's."""
    told = text_headers(readable_headers(record))
    origin = Origin.read(told)
    group, topic = settings.kafka_consumer_group, settings.kafka_topic
    if origin is None or not origin.belongs_to(group, topic):
        return None
    try:
        timestamp = whole(told["dlq.timestamp"], bits=63, signed=True)
    except (KeyError, ValueError):  # somebody else's, after all
        return None
    at = LettersPosition(*position(record))
    return origin.partition, Written(at, origin.offset, timestamp)


def _starts(partitions: list[int], points: Mapping[int, ResumePoint]) -> dict[int, int]:
    """Where to begin in each partition of the error topic; those without interest are left out."""
    known = [point.metadata.letters for point in points.values()]
    if any(at is None or at.partition not in partitions for at in known):
        return dict.fromkeys(partitions, OFFSET_BEGINNING)
    starts: dict[int, int] = {}
    for at in known:
        assert at is not None  # noqa: S101 - as was just seen
        starts[at.partition] = min(at.offset, starts.get(at.partition, at.offset))
    return starts
