"""A worker without work sleeps, where nobody waits for it."""

from collections.abc import Callable

import pytest

from operators.engine.epochs import EpochPacer
from operators.engine.idle import AWAKE, MOST, QUIET_AFTER, WAIT_SHARE, IdleWait

Clock = Callable[[float], None]


@pytest.fixture
def idle(pacer: EpochPacer, clock: Clock) -> IdleWait:
    """Of a worker whose next epoch begins at 10, and that had a message then."""
    clock(10)
    return IdleWait(pacer)


def test_a_worker_that_had_a_message_just_now_does_not_sleep(idle: IdleWait, clock: Clock) -> None:
    """There may be more."""
    clock(10 + QUIET_AFTER - 0.001)
    assert idle.poll_timeout() == 0
    clock(10 + QUIET_AFTER)
    assert idle.poll_timeout() > 0

    idle.came()
    assert idle.poll_timeout() == 0


@pytest.mark.parametrize("silence", [1.0, 1.5, 2.0, 4.0])
def test_a_message_waits_for_a_share_of_the_silence_before_it(
    idle: IdleWait, clock: Clock, silence: float
) -> None:
    """And not for longer than anybody would notice."""
    clock(10 + silence)
    assert idle.poll_timeout() == pytest.approx(min(WAIT_SHARE * silence, MOST))


def test_nobody_sleeps_while_an_epoch_comes_to_its_end(idle: IdleWait, clock: Clock) -> None:
    """The other workers wait until it has closed it."""
    clock(15 - AWAKE - MOST / 2)
    assert idle.poll_timeout() == pytest.approx(MOST / 2)
    clock(15 - AWAKE)
    assert idle.poll_timeout() == pytest.approx(0)
    clock(15.1)
    assert idle.poll_timeout() == 0


def test_nobody_sleeps_before_the_length_of_an_epoch_is_known(clock: Clock) -> None:
    """That is so in the first ones."""
    idle = IdleWait(EpochPacer())
    clock(10)
    assert idle.poll_timeout() == 0
