"""How Hypothesis tries, a clock for the tests of epochs, and the environment of settings."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from operators.engine.epochs import EpochPacer
from settings import Settings
from tests.kit.variables import REQUIRED, SetVariables

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
def pacer(clock: Callable[[float], None]) -> EpochPacer:
    """Of a worker that knows that an epoch takes 5; the next begins at 10."""
    pacer = EpochPacer()
    for end in (5, 10):
        clock(end)
        pacer.closed()
    return pacer


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> SetVariables:
    """Only what is required is set; `environment(NAME=…)` sets more, None removes."""
    for field in Settings.model_fields:
        monkeypatch.delenv(field.upper(), raising=False)
        monkeypatch.delenv(f"{field.upper()}_FILE", raising=False)
    monkeypatch.delenv("BYTEWAX_RECOVERY_DIRECTORY", raising=False)

    def change(**variables: str | Path | None) -> None:
        for name, value in variables.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, str(value))

    change(**REQUIRED)
    return change
