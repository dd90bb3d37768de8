"""Wait for what another process does, never for a fixed time."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")

_PAUSE = 0.01
"""Seconds between two looks: short beside a server's start, long beside a look."""


def wait_until(
    condition: Callable[[], T],
    limit: timedelta = timedelta(seconds=10),
    *,
    what: str = "the condition",
) -> T:
    """Look again and again until the answer is true.

    :arg condition: Asked at least once, about a hundred times a second. What it raises,
        ends the waiting.

    :arg limit: How long to go on.

    :arg what: What is waited for, to be named in the error.

    :returns: The first answer that is true.

    :raises TimeoutError: The limit has passed.

    """
    end = time.monotonic() + limit.total_seconds()
    while True:
        # Looked at first, so that the last answer is one from after the limit.
        late = time.monotonic() >= end
        if answer := condition():
            return answer
        if late:
            msg = f"waited {limit.total_seconds():g} s in vain for {what}"
            raise TimeoutError(msg)
        time.sleep(_PAUSE)
