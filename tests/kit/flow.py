"""The stream, run as a process of its own, or as several."""

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from signal import SIGKILL, Signals
from typing import ClassVar

from lab.servers import Server, free_port, wait_until
from tests.kit.checkout import CHECKOUT

__all__ = ["Flow", "cluster"]


class Flow(Server):
    """`python -m bytewax.run dataflow`, or another command, as a process of its own.

    It is killed when the block ends, and when the tests are.

    :arg folder: For its output.

    :arg variables: Its environment, all of it.

    :arg arguments: Behind `python -m bytewax.run dataflow`.

    :arg module: Instead of that: what to run, with its arguments.

    """

    stop_signal: ClassVar[Signals] = SIGKILL

    def __init__(
        self,
        folder: Path,
        variables: Mapping[str, str],
        arguments: Sequence[str] = (),
        *,
        module: Sequence[str] = ("bytewax.run", "dataflow"),
    ) -> None:
        super().__init__(folder)
        self.directory = CHECKOUT
        self._variables = dict(variables)
        self._command = [sys.executable, "-m", *module, *arguments]
        self._begin = 0

    def command(self) -> list[str]:
        """Run it."""
        return self._command

    def environment(self) -> Mapping[str, str]:
        """Hand over the settings and nothing of this process's own."""
        return self._variables

    def is_ready(self) -> bool:
        """Say yes: what it waits for is up to the test."""
        return True

    def start(self) -> "Flow":
        """Start it, or start it again; `output` begins anew."""
        self._begin = self.log.stat().st_size if self.log.exists() else 0
        super().start()
        return self

    def signal(self, number: Signals) -> None:
        """Send it a signal."""
        assert self._child is not None, "start it first"
        self._child.send_signal(number)

    def wait(self, limit: timedelta = timedelta(seconds=20)) -> int:
        """Wait for its end.

        :arg limit: How long.

        :returns: Its exit status, negative for a signal.

        :raises TimeoutError: It goes on; the message has its output.

        """
        assert self._child is not None, "start it first"
        try:
            return self._child.wait(limit.total_seconds())
        except subprocess.TimeoutExpired:
            msg = f"still running after {limit.total_seconds():g} s:\n{self.output()[-4000:]}"
            raise TimeoutError(msg) from None

    def run(self, limit: timedelta = timedelta(seconds=30)) -> int:
        """Start it and wait for its end.

        :arg limit: How long.

        :returns: Its exit status.

        """
        self.start()
        return self.wait(limit)

    def wait_for(self, text: str, limit: timedelta = timedelta(seconds=20)) -> None:
        """Wait until its output has a text.

        :arg text: What to wait for.

        :arg limit: How long.

        :raises AssertionError: It ended without.

        :raises TimeoutError: It goes on without.

        """

        def said() -> bool:
            running = self.running  # before the look, or its last words could be missed
            found = text in self.output()
            assert found or running, f"ended without {text!r}:\n{self.output()[-4000:]}"
            return found

        wait_until(said, limit, what=f"{text!r} in the output")

    def output(self) -> str:
        """What it wrote since it was started last, to both streams."""
        if not self.log.exists():
            return ""
        return self.log.read_bytes()[self._begin :].decode(errors="replace")

    def lines(self) -> list[str]:
        """The same in lines, those that are empty left out."""
        return [line for line in self.output().splitlines() if line.strip()]


@contextmanager
def cluster(
    folder: Path, variables: Mapping[str, str], arguments: Sequence[str], *, processes: int
) -> Iterator[list[Flow]]:
    """Run the stream as several processes that share the work.

    :arg folder: For their output.

    :arg variables: The environment of each.

    :arg arguments: Of each, `-i` and `-a` aside.

    :arg processes: How many.

    :returns: Them, started; they are killed when the block ends.

    """
    addresses = ";".join(f"127.0.0.1:{free_port()}" for _ in range(processes))
    with ExitStack() as running:
        yield [
            running.enter_context(
                Flow(
                    folder / str(number),
                    variables,
                    [*arguments, "-i", str(number), "-a", addresses],
                )
            )
            for number in range(processes)
        ]
