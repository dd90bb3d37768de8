"""A wall clock for the processes of a test, which is moved while they run.

The system's own must not be touched, so a small library is preloaded that adds seconds to it. Ready
ones (libfaketime) do not know how librdkafka waits: its threads then sleep for as long as the clock
is ahead, and spin while it is behind.
"""

import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

from tests.kit.programs import installed

__all__ = ["WallClock"]

_SOURCE = Path(__file__).with_suffix(".c")
_HEADER = Path("/usr/include/threads.h")


class WallClock:
    """Shows the system's time until it is moved.

    :arg folder: For the library, which several can share.

    :arg name: Of this one among them.

    :raises ServerError: There is no compiler.

    """

    def __init__(self, folder: Path, name: str = "clock") -> None:
        self._library, self._ahead = folder / "wall_clock.so", folder / name
        folder.mkdir(parents=True, exist_ok=True)
        if not self._library.exists():
            options = ["-O2", "-shared", "-fPIC", "-o", str(self._library), str(_SOURCE), "-ldl"]
            subprocess.run([installed("gcc"), *options], check=True)  # noqa: S603 - our own text
        self.move(timedelta(0))

    @staticmethod
    def missing() -> str | None:
        """Say what has to be installed first; None if all is there."""
        if sys.platform != "linux":
            return "a moved clock needs Linux"
        if not shutil.which("gcc") or not _HEADER.exists():
            return "a moved clock needs gcc and the headers of libc"
        return None

    @property
    def variables(self) -> dict[str, str]:
        """What a process needs in its environment to have this clock."""
        return {"LD_PRELOAD": str(self._library), "WALL_CLOCK": str(self._ahead)}

    def move(self, ahead: timedelta) -> None:
        """Let it jump.

        :arg ahead: Of the system's, in whole seconds; negative is behind.

        """
        with self._ahead.open("r+b" if self._ahead.exists() else "wb") as file:
            file.write(round(ahead.total_seconds()).to_bytes(8, sys.byteorder, signed=True))
