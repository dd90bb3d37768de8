"""Which steps of the wall clock end the process, on clocks that the tests move."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import NoReturn

import pytest

from operators.engine import clock


class EndedError(Exception):
    """The process was to end."""


class OverError(Exception):
    """There are no more looks."""


class Times:
    """What the looks at the clocks see.

    :arg steps: Of the wall clock between two looks, in seconds.

    :arg freezes: Of the process in the midst of each look.

    """

    def __init__(self, steps: Iterable[float], freezes: Iterable[float] = ()) -> None:
        self._steps, self._freezes = iter(steps), iter(freezes)
        self._monotonic, self._wall = 1_000.0, 1_795_000_000.0

    def monotonic(self) -> float:
        """Seconds of the clock that nobody sets."""
        return self._monotonic

    def time(self) -> float:
        """Seconds of the wall clock."""
        now = self._wall
        self._pass(next(self._freezes, 0))
        return now

    def sleep(self, seconds: float) -> None:
        """Let time pass, and the wall clock make its next step."""
        self._pass(seconds)
        step = next(self._steps, None)
        if step is None:
            raise OverError
        self._wall += step

    def _pass(self, seconds: float) -> None:
        self._monotonic += seconds
        self._wall += seconds


def watch(times: Times, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the process ends."""

    def end(status: int) -> NoReturn:
        assert status == 1
        raise EndedError

    monkeypatch.setattr(clock, "time", times)
    monkeypatch.setattr(clock, "os", SimpleNamespace(_exit=end))
    with pytest.raises((EndedError, OverError)) as raised:
        clock._watch()  # noqa: SLF001 - its thread would outlive the test
    return raised.type is EndedError


@pytest.mark.parametrize(
    ("steps", "ends"),
    [
        ([0, 0, 0], False),
        ([0, -2.5], True),
        ([0, -1.0, 0], False),  # a leap second
        ([300, 0], False),
        ([300, 0, -300], True),
    ],
)
def test_only_a_clock_that_is_set_back_ends_the_process(
    steps: list[float],
    ends: bool,  # noqa: FBT001 - a column of the table
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By more than a pause that nobody minds; also where that only puts it right again."""
    assert watch(Times(steps), monkeypatch) is ends


def test_a_process_that_was_frozen_between_two_looks_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One clock was read before and the other after it: that is no step."""
    assert not watch(Times([0, 0, 0], freezes=[0, 60, 0]), monkeypatch)


def test_a_process_ends_even_if_it_cannot_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may read its log any more."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise BrokenPipeError

    monkeypatch.setattr(clock, "log", SimpleNamespace(error=fail))
    assert watch(Times([-60]), monkeypatch)
