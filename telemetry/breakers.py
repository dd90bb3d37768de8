"""How many breakers of this process are in which state."""

import threading
from collections import Counter, deque

from telemetry import metrics

__all__ = ["blame", "breaker_reason", "breakers", "move_breaker"]

_lock = threading.Lock()
_states: Counter[str] = Counter({"closed": 0, "half-open": 0, "open": 0})
_reasons: deque[str] = deque(maxlen=1)


def move_breaker(before: str | None, after: str | None) -> None:
    """Note that a breaker changes its state.

    :arg before: None if it is new.

    :arg after: None if it ends.

    """
    with _lock:
        for state, change in ((before, -1), (after, 1)):
            if state is not None:
                _states[state] += change
                metrics.BREAKERS.labels(state).set(_states[state])


def blame(reason: str) -> None:
    """Note why a breaker has opened, for people."""
    with _lock:
        _reasons.append(reason)


def breaker_reason() -> str | None:
    """Why a breaker is open; None if none is."""
    with _lock:
        return _reasons[-1] if _reasons and _states["open"] + _states["half-open"] > 0 else None


def breakers() -> dict[str, int]:
    """Number by state, all of one moment."""
    with _lock:
        return dict(_states)
