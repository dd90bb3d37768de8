"""The stream itself, run as in production: `python -m bytewax.run dataflow`."""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from lab.servers import Server, ServerError

__all__ = ["Flow"]

_CHECKOUT = Path(__file__).resolve().parents[2]


class Flow(Server):
    """The dataflow in a process of its own.

    :arg folder: For its log and its recovery directory.

    :arg settings: Its environment, all of it.

    :arg workers: Threads.

    """

    stop_limit: ClassVar[timedelta] = timedelta(seconds=20)

    def __init__(self, folder: Path, *, settings: Mapping[str, str], workers: int = 1) -> None:
        super().__init__(folder)
        self.directory = _CHECKOUT
        self._settings = settings
        self._workers = workers
        self._recovery = self.folder / "recovery"
        self._read = 0

    def prepare(self) -> None:
        """Make the recovery directory."""
        self._recovery.mkdir()
        subprocess.run([sys.executable, "-m", "bytewax.recovery", self._recovery, "4"], check=True)

    def environment(self) -> Mapping[str, str]:
        """Hand over the settings, and nothing of this process's own."""
        return self._settings

    def command(self) -> list[str]:
        """Run the flow with a snapshot every 5 seconds."""
        recovery = ["-r", str(self._recovery), "-s", "5", "-b", "0"]
        run = [sys.executable, "-m", "bytewax.run", "dataflow"]
        return [*run, *recovery, "-w", str(self._workers)]

    def is_ready(self) -> bool:
        """Say yes: it may be fed before it reads."""
        return True

    def news(self) -> list[dict[str, Any]]:
        """Lines of its log that came since the last call."""
        with self.log.open("rb") as log:
            log.seek(self._read)
            complete = log.read().rpartition(b"\n")[0] + b"\n"
        self._read += len(complete) if complete != b"\n" else 0
        return [json.loads(line) for line in complete.splitlines() if line.startswith(b"{")]

    def expect_running(self) -> None:
        """Look after it.

        :raises ServerError: It has ended.

        """
        if not self.running:
            raise ServerError(self._with_log("has ended by itself"))

    def finish(self) -> None:
        """Send SIGTERM and wait for its end.

        :raises ServerError: It ended otherwise than with 0, or not in time.

        """
        self.expect_running()
        assert self._child is not None  # noqa: S101 - it is running
        self._child.send_signal(signal.SIGTERM)
        try:
            status = self._child.wait(self.stop_limit.total_seconds())
        except subprocess.TimeoutExpired:
            how = f"did not end within {self.stop_limit.total_seconds():g} s of SIGTERM"
            raise ServerError(self._with_log(how)) from None
        if status != 0:
            raise ServerError(self._with_log(f"ended with status {status} on SIGTERM"))
