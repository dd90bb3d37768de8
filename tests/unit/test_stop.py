"""The wish to stop, on a clock that the tests move."""

from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace

import pytest

from operators.engine.shutdown import Stop

LIMIT = timedelta(seconds=8)


@pytest.fixture
def tick(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Move the clock on by seconds."""
    now = [1_000.0]
    monkeypatch.setattr("operators.engine.shutdown.time", SimpleNamespace(monotonic=lambda: now[0]))

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


def test_nothing_is_overdue_before_a_request(tick: Callable[[float], None]) -> None:
    """However long the stream has been running."""
    stop = Stop(LIMIT)
    tick(1_000_000)

    assert not stop.requested
    assert not stop.overdue()
    assert not stop.overdue(0)


@pytest.mark.parametrize(
    ("share", "seconds", "overdue"),
    [(1, 7.9, False), (1, 8.1, True), (0.5, 3.9, False), (0.5, 4.1, True)],
)
def test_a_share_of_the_limit_runs_from_the_request(
    tick: Callable[[float], None],
    share: float,
    seconds: float,
    overdue: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """Scoring has the first half, the sinks have all of it."""
    stop = Stop(LIMIT)
    tick(100)
    stop.request()
    tick(seconds)

    assert stop.requested
    assert stop.overdue(share) is overdue


def test_the_whole_limit_is_the_default(tick: Callable[[float], None]) -> None:
    """Of a step that names no share."""
    stop = Stop(LIMIT)
    stop.request()

    tick(7.9)
    assert not stop.overdue()

    tick(0.2)
    assert stop.overdue()


def test_asking_again_gives_no_more_time(tick: Callable[[float], None]) -> None:
    """The first request counts: whoever sent it waits for the end by its own limit."""
    stop = Stop(LIMIT)
    stop.request()
    tick(7)
    stop.request()
    tick(2)

    assert stop.overdue()
