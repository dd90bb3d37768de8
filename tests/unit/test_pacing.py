"""Workers keep their epochs in step."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from operators.engine.epochs import LONGEST, TOLERANCE, EpochPacer


def test_a_worker_that_waited_ends_its_next_epoch_later(
    pacer: EpochPacer, clock: Callable[[float], None]
) -> None:
    """By as much as it waited, and only then: until its end is near it reads."""
    clock(10.3)
    pacer.closed_by_all()

    clock(12)
    assert pacer.hold() is None
    clock(15)
    assert pacer.hold() == pytest.approx(timedelta(seconds=0.3), rel=0.01)
    clock(15.3)
    assert pacer.hold() is None


def test_a_worker_that_did_not_wait_is_not_held(
    pacer: EpochPacer, clock: Callable[[float], None]
) -> None:
    """The slowest sets the pace."""
    clock(10 + TOLERANCE / 2)
    pacer.closed_by_all()

    clock(15)
    assert pacer.hold() is None


def test_the_end_is_known_a_turn_ahead(pacer: EpochPacer, clock: Callable[[float], None]) -> None:
    """A turn that began before the end would close the epoch when it is over."""
    for _ in range(50):
        pacer.turned(0.1)
    clock(10.5)
    pacer.closed_by_all()

    clock(14.9)
    assert pacer.hold() == pytest.approx(timedelta(seconds=0.5), abs=timedelta(seconds=0.01))


def test_a_long_wait_is_made_up_for_bit_by_bit(
    pacer: EpochPacer, clock: Callable[[float], None]
) -> None:
    """A stop has to wait for a worker that is held."""
    clock(14)
    pacer.closed_by_all()

    clock(15)
    assert pacer.hold() == pytest.approx(timedelta(seconds=LONGEST), rel=0.01)


def test_an_epoch_that_was_made_longer_is_no_measure(
    pacer: EpochPacer, clock: Callable[[float], None]
) -> None:
    """The next one is as long as those before."""
    clock(10.3)
    pacer.closed_by_all()
    clock(15)
    pacer.hold()
    clock(15.3)
    pacer.closed()
    clock(15.6)
    pacer.closed_by_all()

    clock(20.3)
    assert pacer.hold() == pytest.approx(timedelta(seconds=0.3), rel=0.01)
