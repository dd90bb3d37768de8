"""SIGINT and SIGTERM end a replay between two transactions."""

import os
import signal
import threading
from types import FrameType
from typing import Final, Self

__all__ = ["Interruption"]

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Takes the signals while it is used: the first is noted, the second ends the process."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._came = threading.Event()
        self._before = {each: signal.getsignal(each) for each in SIGNALS}

    def __enter__(self) -> Self:
        """Take the signals."""
        for each in SIGNALS:
            signal.signal(each, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave them to who had them."""
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def came(self) -> bool:
        """Whether there was one."""
        return self._came.is_set()

    def wait(self, seconds: float) -> None:
        """Pause until then, or until there is one."""
        self._came.wait(seconds)

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if self.came():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.number = number
        self._came.set()
