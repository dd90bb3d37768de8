"""The wall clock of a stream is moved while it runs."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.kit.feed import END, SLOWLY, Feed, stop
from tests.kit.wall_clock import WallClock

ASTRAY = timedelta(minutes=4, seconds=30)
"""By which a clock is moved."""


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    """The wall clock of a flow."""
    if reason := WallClock.missing():
        pytest.skip(reason)
    return WallClock(tmp_path)


def test_a_clock_that_is_set_forward_changes_nothing(
    feed: Feed, recovery: list[str], clock: WallClock
) -> None:
    """It goes on, ends in good order, and the next run repeats nothing on the old time."""
    feed.send()
    with feed.flow(*recovery, **SLOWLY, **clock.variables) as flow:
        feed.wait_midway()
        clock.move(ASTRAY)
        feed.wait_midway(700)
        stop(flow)
        last = datetime.fromisoformat(flow.lines()[-1].split()[0])
        assert last > datetime.now(UTC) + ASTRAY / 2, "it was not moved"
    with feed.flow(*recovery) as flow:
        feed.wait_until_done()
        stop(flow)
    feed.expect_all()


def test_a_clock_that_is_set_back_ends_the_run(
    feed: Feed, recovery: list[str], clock: WallClock
) -> None:
    """At once and with the reason, since nothing would go on; the next run does the rest."""
    feed.send()
    with feed.flow(*recovery, **SLOWLY, **clock.variables) as flow:
        feed.wait_midway()
        clock.move(-ASTRAY)
        assert flow.wait(END) == 1
        told = re.search(r"clock\.set_back seconds=(\S+)", flow.output())
        assert told is not None
        assert float(told[1]) == pytest.approx(ASTRAY.total_seconds(), abs=2)
    with feed.flow(*recovery, **clock.variables) as flow:
        feed.wait_until_done()
        stop(flow)
    feed.expect_all()
