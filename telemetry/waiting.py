"""What this process waits for at the database, and since when."""

import threading
import time

__all__ = ["database_waits", "waiting_for_database"]

_lock = threading.Lock()
_reasons: dict[object, tuple[str, float]] = {}


def database_waits(who: object, reason: str | None) -> None:
    """Note that somebody waits for the database, or does no longer.

    :arg who: Each has one reason at a time.

    :arg reason: For people; None for no longer.

    """
    with _lock:
        if reason is None:
            _reasons.pop(who, None)
        else:
            _, since = _reasons.get(who, ("", time.monotonic()))
            _reasons[who] = (reason, since)


def waiting_for_database() -> tuple[str, float] | None:
    """The reason of who has waited longest, and for how many seconds; None if nobody does."""
    with _lock:
        longest = min(_reasons.values(), key=lambda each: each[1], default=None)
    return longest and (longest[0], time.monotonic() - longest[1])
