"""How far a partition is done is decided by the oldest message that any lane has in hand."""

import pytest

from operators.engine.positions import Unfinished


def test_nothing_in_hand_is_no_limit() -> None:
    """At the start, and for partitions of which nothing is in flight."""
    unfinished = Unfinished()
    unfinished.replace("0", {"0-transactions": 5})

    assert Unfinished().below("0-transactions", 9) == 9
    assert unfinished.below("1-transactions", 9) == 9


def test_an_offset_of_zero_counts() -> None:
    """It is the first message, not none."""
    unfinished = Unfinished()
    unfinished.replace("0", {"0-transactions": 0})

    assert unfinished.below("0-transactions", 9) == 0


def test_a_position_is_never_raised() -> None:
    """What is in flight behind it does not matter."""
    unfinished = Unfinished()
    unfinished.replace("0", {"0-transactions": 7})

    assert unfinished.below("0-transactions", 5) == 5


@pytest.mark.parametrize("order", [("0", "1"), ("1", "0")], ids=["low first", "low last"])
def test_the_lowest_of_all_lanes_counts(order: tuple[str, str]) -> None:
    """After a change of the number of workers a partition's messages are in several lanes."""
    held = {"0": {"0-transactions": 5, "1-transactions": 70}, "1": {"0-transactions": 7}}
    unfinished = Unfinished()
    for lane in order:
        unfinished.replace(lane, held[lane])

    assert unfinished.below("0-transactions", 99) == 5
    assert unfinished.below("1-transactions", 99) == 70


def test_a_lane_replaces_what_it_held_before() -> None:
    """And leaves alone what the others hold."""
    unfinished = Unfinished()
    unfinished.replace("0", {"0-transactions": 5, "1-transactions": 1})
    unfinished.replace("1", {"0-transactions": 9})

    unfinished.replace("0", {"1-transactions": 2})

    assert unfinished.below("0-transactions", 99) == 9
    assert unfinished.below("1-transactions", 99) == 2
