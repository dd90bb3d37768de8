"""The topic that is read: how far the group is, and which offsets hold a record."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final, Literal, NamedTuple

from operators.errors import DependencyError
from operators.kafka.contents import position
from operators.kafka.topic_reader import TopicReader, is_end, is_expired
from ops.audit.spans import Span
from settings import Settings

__all__ = ["Range", "Topic"]

FAR: Final = 10_000  # offsets that are sooner jumped over than read

Content = Literal["record", "expired"]


class Range(NamedTuple):
    """Offsets of a partition: what the topic has, and what the stream was to read."""

    low: int
    """Where the log begins: all before it has expired."""

    end: int
    """Behind the last message."""

    start: int | None
    """Where `KAFKA_START_AT` began; None if nobody can tell now."""


class Topic:
    """The topic that is read.

    :arg settings: Topic and group.

    :arg reader: Of this topic, which raises when offsets have expired.

    """

    def __init__(self, settings: Settings, reader: TopicReader) -> None:
        self._settings, self._reader = settings, reader

    def committed(self) -> dict[int, int | None]:
        """The group's offset by partition.

        :raises DependencyError: Which setting to look at.

        """
        partitions = self._reader.partitions()
        found = self._reader.committed(partitions)
        return {number: found.get(number) for number in partitions}

    def ranges(self, committed: dict[int, int | None]) -> dict[int, Range]:
        """Where each partition begins and ends.

        :arg committed: The group's offset by partition, read before.

        :raises DependencyError: Which setting to look at.

        """
        marks = {number: self._reader.watermarks(number) for number in committed}
        ends = {number: high for number, (_, high) in marks.items()}
        # The embedded broker's marks are too low, Kafka's are not: there, nothing comes from here.
        for messages in self._reader.read_to_end(dict(ends), dict(ends)):
            for message in messages:
                number, at = position(message)
                ends[number] = max(ends[number], at + 1)
        for number, offset in committed.items():
            if offset is not None and offset > ends[number]:
                msg = (
                    f"KAFKA_TOPIC: partition {number} of {self._settings.kafka_topic} ends at"
                    f" {ends[number]}, but the group has committed {offset}: the topic was"
                    " re-created, or has lost messages"
                )
                raise DependencyError(msg)
        return {
            number: Range(low, ends[number], self._start(number, low))
            for number, (low, _) in marks.items()
        }

    def look(self, partition: int, gaps: Iterable[Span]) -> Iterator[tuple[Content, Span]]:
        """Read a partition where the stores have gaps.

        :arg partition: Its number.

        :arg gaps: In ascending order, before the partition's end.

        :returns: The offsets in them that hold a record, one by one, and spans that expired before
            they could be read. What is not told holds no record.

        :raises DependencyError: Which setting to look at.

        """
        cursor = _Cursor(self._reader, partition)
        for gap in gaps:
            yield from cursor.look(gap)

    def _start(self, partition: int, low: int) -> int | None:
        time = self._settings.kafka_start_time()
        if time is None:
            return low if self._settings.kafka_start_at == "earliest" else None
        return self._reader.since(partition, int(time.timestamp() * 1000))


class _Cursor:
    """Goes through one partition, and jumps where there is nothing to look for."""

    def __init__(self, reader: TopicReader, partition: int) -> None:
        self._reader, self._partition = reader, partition
        self._coming: deque[int] = deque()  # offsets that were read
        self._at = -FAR - 1  # behind the last of them that was looked at; far from all at first
        self._low = 0  # what is before it has expired since the audit began
        self._is_ended = self._is_expired = False

    def look(self, gap: Span) -> Iterator[tuple[Content, Span]]:
        if gap.first < self._low:
            yield "expired", gap.cut(gap.first, self._low)
        if not self._is_ended and gap.first - self._at > FAR:
            self._jump(gap.first)
        while self._at <= gap.last:
            if self._coming:
                offset = self._coming[0]
                if offset > gap.last:
                    return
                self._coming.popleft()
                self._at = offset + 1
                if offset >= gap.first:
                    yield "record", Span(offset, offset)
            elif self._is_ended:
                return
            elif self._is_expired:
                expired_from = self._at
                self._low, _ = self._reader.watermarks(self._partition)
                self._jump(self._low)
                yield "expired", gap.cut(expired_from, self._low)
            else:
                self._take()

    def _jump(self, offset: int) -> None:
        self._reader.assign({self._partition: offset})
        self._coming.clear()
        self._at, self._is_expired = offset, False

    def _take(self) -> None:
        for message in self._reader.take():
            if is_end(message):
                self._is_ended = True
            elif is_expired(message):
                self._is_expired = True
            else:
                self._coming.append(position(message)[1])
