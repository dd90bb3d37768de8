"""Pauses that grow."""

import random

import pytest

from operators.backoff import Backoff


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (1.0, [1, 1, 1, 1, 1, 1, 1]),
        (2.0, [1, 2, 4, 8, 16, 30, 30]),
        (10.0, [1, 10, 30, 30, 30, 30, 30]),
    ],
)
def test_pauses_grow_up_to_a_limit(factor: float, expected: list[float]) -> None:
    """Each is `factor` times as long as the one before."""
    subject = Backoff(first=1, longest=30, factor=factor)
    assert [subject.ceiling(attempt) for attempt in range(1, 8)] == expected


@pytest.mark.parametrize("factor", [2.0, 10])
def test_an_outage_of_days_is_no_overflow(factor: float) -> None:
    """A power that no float can hold is longer than any limit."""
    assert Backoff(first=0.5, longest=5, factor=factor).ceiling(100_000) == 5


@pytest.mark.parametrize("least", [0, 0.5])
def test_a_part_of_each_is_random(monkeypatch: pytest.MonkeyPatch, least: float) -> None:
    """From `least` of the ceiling to all of it, so that no two workers are in step."""
    asked: list[tuple[float, float]] = []

    def highest(low: float, high: float) -> float:
        asked.append((low, high))
        return high

    monkeypatch.setattr(random, "uniform", highest)
    assert Backoff(first=8, longest=30, least=least).pause(2) == 16
    assert asked == [(16 * least, 16)]
