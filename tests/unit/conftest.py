"""How Hypothesis tries, and a clock for the tests of epochs."""

from collections.abc import Callable

import pytest
from hypothesis import settings

from operators.engine.epochs import Pace

# The same examples in every run where `CI` is set, new ones elsewhere.
# A busy machine is no failure. Hypothesis's own profile for CI is the parent there.
settings.register_profile("unit", settings(), deadline=None, max_examples=100)
settings.load_profile("unit")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the monotonic clock, which stands at 0."""
    now = 0.0

    def set_to(seconds: float) -> None:
        nonlocal now
        now = seconds

    monkeypatch.setattr("time.monotonic", lambda: now)
    return set_to


@pytest.fixture
def pace(clock: Callable[[float], None]) -> Pace:
    """Of a worker with two partitions that knows that an epoch takes 5; the next begins at 10."""
    pace = Pace()
    for end in (5, 10):
        clock(end)
        pace.closed("0-t")
        pace.closed("1-t")
    return pace
