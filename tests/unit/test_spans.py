"""Gaps and overlaps of runs of offsets."""

import itertools
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from ops.audit.spans import Span, sweep

OFFSETS = st.sets(st.integers(0, 30))


@given(
    places=st.lists(OFFSETS, max_size=3),
    letters=st.lists(st.integers(0, 30), max_size=10),
    end=st.integers(0, 40),
)
def test_a_sweep_finds_what_sets_find(places: list[set[int]], letters: list[int], end: int) -> None:
    """Gaps and overlaps of any runs, each once and in ascending order."""
    counted = [at for place in places for at in place] + letters
    spans = [span for place in places for span in runs(place)]
    spans += [Span(at, at) for at in letters]
    found: dict[str, list[int]] = {"gap": [], "overlap": []}
    for finding, span in sweep(sorted(spans), first=0, end=end):
        assert span.size > 0
        found[finding].extend(range(span.first, span.last + 1))
    behind = max([end - 1, *counted], default=-1) + 1
    assert found["gap"] == [at for at in range(behind) if at not in counted]
    assert found["overlap"] == [at for at in range(behind) if counted.count(at) > 1]


def runs(offsets: set[int]) -> Iterator[Span]:
    """Put offsets that follow each other together."""
    for _, run in itertools.groupby(enumerate(sorted(offsets)), lambda pair: pair[1] - pair[0]):
        members = [at for _, at in run]
        yield Span(members[0], members[-1])
