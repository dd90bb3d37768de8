"""A worker without work sleeps, where nobody waits for it."""

from collections.abc import Callable

import pytest

from operators.engine.epochs import Pace
from operators.engine.idle import AWAKE, QUIET_AFTER, Idle, patience

LONG = 60.0


@pytest.fixture
def idle(pace: Pace, clock: Callable[[float], None]) -> Idle:
    """Of a worker whose next epoch begins at 10, and that had no message since 0."""
    clock(0)
    idle = Idle(pace)
    clock(10)
    return idle


@pytest.mark.parametrize(
    ("silence", "wait"), [(0.0, 0.01), (0.2, 0.01), (1.0, 0.05), (2.0, 0.1), (LONG, 0.1)]
)
def test_a_message_waits_for_a_share_of_the_silence_before_it(silence: float, wait: float) -> None:
    """Not less than it costs to look, and not more than anybody would notice."""
    assert patience(silence) == pytest.approx(wait)


def test_a_worker_sleeps_on_the_partition_that_had_the_last_message(
    idle: Idle, clock: Callable[[float], None]
) -> None:
    """The others are looked at in between."""
    idle.came("0-t")
    idle.came("1-t")
    clock(10 + QUIET_AFTER)
    assert [idle.nap(key) for key in ("0-t", "1-t", "2-t")] == [0, patience(QUIET_AFTER), 0]


def test_a_worker_that_had_no_message_sleeps_on_one_partition(idle: Idle) -> None:
    """The one that asks first."""
    assert [idle.nap(key) for key in ("1-t", "0-t", "1-t")] == [patience(LONG), 0, patience(LONG)]


def test_a_worker_that_had_a_message_just_now_does_not_sleep(
    idle: Idle, clock: Callable[[float], None]
) -> None:
    """A message of another partition would have to wait."""
    idle.came("0-t")
    clock(10 + QUIET_AFTER - 0.001)
    assert idle.nap("0-t") == 0


def test_nobody_sleeps_while_an_epoch_comes_to_its_end(
    idle: Idle, clock: Callable[[float], None]
) -> None:
    """The other workers wait until it has closed it."""
    clock(15 - AWAKE - patience(LONG) / 2)
    assert idle.nap("0-t") == pytest.approx(patience(LONG) / 2)
    clock(15 - AWAKE)
    assert idle.nap("0-t") == pytest.approx(0)
    clock(15.1)
    assert idle.nap("0-t") == 0


def test_nobody_sleeps_before_the_length_of_an_epoch_is_known(
    clock: Callable[[float], None],
) -> None:
    """That is so in the first ones."""
    idle = Idle(Pace())
    clock(10)
    assert idle.nap("0-t") == 0
