"""Runs of offsets of one partition: what is between them, and where they overlap."""

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

__all__ = ["Deviation", "Examples", "Span", "sweep"]

Deviation = Literal["gap", "overlap"]


class Span(NamedTuple):
    """Offsets that follow each other."""

    first: int
    last: int
    """Included."""

    @property
    def size(self) -> int:
        """How many; a span may be empty."""
        return max(0, self.last - self.first + 1)

    def cut(self, first: int, end: int) -> "Span":
        """The part of it from an offset on and before another; empty if there is none."""
        return Span(max(self.first, first), min(self.last, end - 1))


class Examples:
    """The first of many spans.

    :arg limit: How many are kept.

    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.spans: list[Span] = []

    def add(self, span: Span) -> None:
        """Take positions that come after all that were taken before."""
        if self.spans and self.spans[-1].last + 1 == span.first:
            self.spans[-1] = Span(self.spans[-1].first, span.last)
        elif len(self.spans) < self._limit:
            self.spans.append(span)


def sweep(spans: Iterable[Span], *, first: int, end: int) -> Iterator[tuple[Deviation, Span]]:
    """Compare spans with the whole range of a partition, in one pass.

    :arg spans: Of all places, in the order of their first offsets.

    :arg first: Where the range begins; no span begins before it.

    :arg end: Behind the last offset of the range; spans may go on.

    :returns: Gaps, and positions that are in more than one span. Each kind ascends, and no position
        is told twice.

    """
    free, told = first, first  # behind all spans, and behind all overlaps, until now
    for span in spans:
        if span.first > free:
            yield "gap", Span(free, span.first - 1)
        overlap = span.cut(told, free)
        if overlap.size:
            yield "overlap", overlap
            told = overlap.last + 1
        free = max(free, span.last + 1)
    if end > free:
        yield "gap", Span(free, end - 1)
