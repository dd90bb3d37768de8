"""The wish to stop, on a clock that the tests move."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from operators.engine.shutdown import Stop

Clock = Callable[[float], None]
LIMIT = timedelta(seconds=8)


def test_nothing_is_given_up_before_a_request(clock: Clock) -> None:
    """However long the stream has been running, and whatever is away."""
    stop = Stop(LIMIT)
    clock(1_000_000)

    assert not stop.requested
    assert not stop.gives_up(is_hopeless=False)
    assert not stop.gives_up(is_hopeless=True)


@pytest.mark.parametrize(("seconds", "gives_up"), [(0, False), (3.9, False), (4.1, True)])
def test_what_is_in_hand_has_half_of_the_limit(
    clock: Clock,
    seconds: float,
    gives_up: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """From the request on; the rest is for the last commit."""
    stop = Stop(LIMIT)
    clock(100)
    stop.request()
    clock(100 + seconds)

    assert stop.requested
    assert stop.gives_up(is_hopeless=False) is gives_up


def test_what_cannot_be_done_soon_is_given_up_at_once(clock: Clock) -> None:
    """Nobody waits for a model that is down."""
    clock(100)
    stop = Stop(LIMIT)
    stop.request()

    assert stop.gives_up(is_hopeless=True)


def test_asking_again_gives_no_more_time(clock: Clock) -> None:
    """The first request counts: whoever sent it waits for the end by its own limit."""
    stop = Stop(LIMIT)
    stop.request()
    clock(3)
    stop.request()
    clock(5)

    assert stop.gives_up(is_hopeless=False)
