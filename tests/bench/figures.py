"""Numbers out of what was seen."""

import statistics
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

from tests.bench.sampler import Sample

__all__ = ["Range", "cost", "middle_rate", "percentile", "ratios", "whole_rate", "windows"]

EDGE: Final = 0.1  # of the rows, at both ends, in which things begin and end

Commits = Sequence[tuple[float, int]]
"""Time of each commit and its rows, in order."""


class Range(NamedTuple):
    """A median and how far the values are apart."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Range":
        """Make it of one value or more."""
        return cls(statistics.median(numbers), min(numbers), max(numbers))


def ratios(ours: Sequence[float], others: Sequence[float]) -> Range:
    """Compare two that ran side by side, round by round."""
    return Range.of([mine / other for mine, other in zip(ours, others, strict=True)])


def percentile(numbers: Sequence[float], share: float) -> float:
    """Give the smallest number that so large a share of all is not above."""
    ordered = sorted(numbers)
    return ordered[max(0, -(-len(ordered) * round(share * 1_000) // 1_000) - 1)]


def whole_rate(commits: Commits) -> float:
    """Rows a second from the first commit to the last; the first one's rows came before."""
    rows = sum(number for _, number in commits[1:])
    return rows / (commits[-1][0] - commits[0][0])


def middle_rate(commits: Commits) -> float:
    """Rows a second between the commits of the first tenth of the rows and of the last."""
    return whole_rate(_middle(commits))


def _middle(commits: Commits) -> Commits:
    total = list(accumulate(number for _, number in commits))
    first = bisect_right(total, EDGE * total[-1])
    last = bisect_right(total, (1 - EDGE) * total[-1])
    middle = commits[first : last + 1]
    return middle if len(middle) > 1 else commits


def cost(commits: Commits, samples: Sequence[Sample]) -> dict[str, float]:
    """CPU by process while the middle of the rows was written, in µs a row.

    :arg commits: Of the run.

    :arg samples: Of the run, two at least.

    :returns: Microseconds by name.

    """
    times = [time for time, _ in commits]
    total = [0, *accumulate(number for _, number in commits)]
    rows = [total[bisect_right(times, sample.time)] for sample in samples]
    low, high = EDGE * total[-1], (1 - EDGE) * total[-1]
    first = next((i for i, number in enumerate(rows) if number >= low), 0)
    last = max((i for i, number in enumerate(rows) if number <= high), default=0)
    if rows[last] <= rows[first]:
        first, last = 0, len(rows) - 1
    done = rows[last] - rows[first]
    before, after = samples[first].cpu, samples[last].cpu
    return {name: 1e6 * (after[name] - before[name]) / done for name in after}


Totals = Sequence[tuple[float, int]]
"""Times and what was done until then."""


def windows(totals: Sequence[Totals], seconds: float) -> list[list[float]]:
    """Cut running totals into windows that are the same for all.

    :arg totals: Of each process.

    :arg seconds: Length of a window.

    :returns: For each process, what it did in each whole window in which all were at work.

    """
    begin = max(one[0][0] for one in totals)
    end = min(one[-1][0] for one in totals)
    edges = [begin + number * seconds for number in range(int((end - begin) / seconds) + 1)]
    reached = [[_at(one, edge) for edge in edges] for one in totals]
    return [[after - before for before, after in pairwise(one)] for one in reached]


def _at(totals: Totals, when: float) -> float:
    number = bisect_right(totals, when, key=lambda total: total[0])
    if number == len(totals):
        return totals[-1][1]
    (before, low), (after, high) = totals[number - 1], totals[number]
    return low + (high - low) * (when - before) / (after - before)
