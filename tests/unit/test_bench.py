"""What the benchmark makes of what it saw; whether it runs, `make bench ARGS=--quick` shows."""

import pytest

from tests.bench.figures import Range, cost, middle_rate, percentile, ratios, whole_rate, windows
from tests.bench.report import page
from tests.bench.sampler import Sample, others

COMMITS = [(float(second), 10) for second in range(1, 21)]
"""Ten rows a second for twenty seconds."""


def _sample(time: float, cpu: float, *, machine: float = 0, known: float = 0) -> Sample:
    return Sample(time, {"itself": cpu}, {"itself": 0}, machine, known)


def test_rates_leave_out_the_rows_that_came_before_the_clock_began() -> None:
    """Of the first commit only the time counts."""
    assert whole_rate(COMMITS) == 10
    assert whole_rate([(0, 1_000), (2, 10)]) == 5


def test_the_middle_leaves_out_how_a_run_begins_and_ends() -> None:
    """A slow first tenth and a slow last one change the whole and not the middle."""
    slow = [(-99.0, 10), *COMMITS[1:-1], (99.0, 10)]
    assert whole_rate(slow) < 1
    assert middle_rate(slow) == 10


def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed() -> None:
    """By rank, without interpolation."""
    numbers = list(range(1, 101))
    assert percentile(numbers, 0.5) == 50
    assert percentile(numbers, 0.99) == 99
    assert percentile([7], 0.99) == 7


def test_ratios_are_taken_round_by_round() -> None:
    """What slows a whole round down for all leaves its ratio."""
    assert ratios([10, 2, 40], [20, 1, 10]) == Range(2, 0.5, 4)


def test_cost_is_that_of_the_middle() -> None:
    """CPU of a start and of an end is no row's."""
    samples = [_sample(0, 0), _sample(2, 5), _sample(18, 5 + 160e-6), _sample(21, 9)]
    assert cost(COMMITS, samples)["itself"] == pytest.approx(1)


def test_cost_of_a_run_between_two_looks_is_that_of_all() -> None:
    """A short run is better measured with its start than not at all."""
    assert cost(COMMITS, [_sample(0, 0), _sample(30, 200e-6)])["itself"] == pytest.approx(1)


def test_what_others_do_meanwhile_is_seen() -> None:
    """Of what the machine did, what is not the run's own."""
    cores_busy = [_sample(0, 0), _sample(1, 0, machine=10_000, known=9_000)]
    assert others(cores_busy) > 1
    assert others([_sample(0, 0), _sample(1, 0, machine=1, known=1)]) == 0


def test_windows_are_the_same_for_all() -> None:
    """They begin when all are at work, and what lies between two looks is divided."""
    early = [(0.0, 0), (40.0, 40)]
    late = [(10.0, 5), (20.0, 25), (40.0, 25)]
    assert windows([early, late], 10) == [[10, 10, 10], [20, 0, 0]]


def test_the_page_says_what_was_not_measured() -> None:
    """Each target is there; one without a measurement says so."""
    text = page({"idle": {"itself": 0.0123, "others": 0.01}})
    assert "| idle, 16 partitions, share of a core | < 2 % | 1.2% |" in text
    assert "| memory over ten minutes | within 5 % | not measured |" in text


def test_the_page_says_where_others_were_at_work() -> None:
    """A figure that a busy machine spoilt is not to be taken for a result."""
    text = page({"idle": {"itself": 0.0123, "others": 0.3}})
    assert "| 1.2%, but 30% of the machine went to others |" in text
