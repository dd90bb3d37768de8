"""One child process: started, awaited, stopped, killed, paused, started again."""

import contextlib
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self, TypeVar

import psutil

from lab.servers.guardian import freeze, guard, kill_tree, release
from lab.servers.waiting import wait_until

X = TypeVar("X")

_TAIL_LINES = 20


class ServerError(RuntimeError):
    """A server does not do what it was started for; the message ends with its log's tail."""


class Server(ABC):
    """A local server in a child process and session of its own.

    As a context manager it runs inside the block. It ends with the present process, however
    that ends. A subclass says what to run and how to see that it is ready.

    :arg folder: Its own: data and log. Made if missing, kept when it ends.

    """

    ready_limit: ClassVar[timedelta] = timedelta(seconds=30)
    stop_limit: ClassVar[timedelta] = timedelta(seconds=10)
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.name = type(self).__name__
        self.log = self.folder / f"{self.name.lower()}.log"
        self.directory = self.folder
        self.user: int | None = None  # to run as; the present process's if None
        self.group: int | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._paused: list[psutil.Process] = []
        self._prepared = False

    @abstractmethod
    def command(self) -> list[str]:
        """Say what to run, in the foreground."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Say whether it answers; asked every few milliseconds after a start."""

    def prepare(self) -> None:  # noqa: B027  # most servers need nothing
        """Do what is needed once, before the first start."""

    def environment(self) -> Mapping[str, str] | None:
        """Say which environment it gets; the present process's unless overridden."""
        return None

    @property
    def running(self) -> bool:
        """Whether the process is there, paused or not."""
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int:
        """Its process id.

        :raises ServerError: It was not started, or was stopped.

        """
        if self._child is None:
            msg = f"{self.name} is not running; start it first"
            raise ServerError(msg)
        return self._child.pid

    def start(self) -> Self:
        """Start it, for the first time or again with the same port and data.

        :returns: Itself, ready.

        :raises ServerError: It runs already, ended at once or was not ready in time.

        """
        if self.running:
            msg = f"{self.name} is running already as process {self.pid}"
            raise ServerError(msg)
        self.kill()  # takes note of one that ended by itself
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._prepared:
            self.prepare()
            self._prepared = True
        try:
            # No signal can come between the birth of the child and the note of its number.
            child = uninterrupted(self._spawn)
            self._wait_until_ready(child)
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """Ask it to end, and kill it if it takes too long; nothing if it is not running."""
        if self.running:
            self.resume()
            assert self._child is not None  # noqa: S101  # it is running
            self._child.send_signal(self.stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(self.stop_limit.total_seconds())
        self.kill()

    def kill(self) -> None:
        """End it at once with SIGKILL, its own children too; nothing if it is not running."""
        if self._child is None:
            return
        # A number whose process has been waited for may be another process's by now.
        killed = [] if self._child.poll() is not None else kill_tree(self._child.pid)
        self._child.wait()
        # The others' parent is now another process, which may be slow to take note of their
        # end; and what they hold (ports, shared memory) must be free for the next start.
        wait_until(lambda: not any(map(_alive, killed)), what=f"the end of {self.name}'s children")
        release(self._child.pid)
        self._child = None
        self._paused = []

    def pause(self) -> None:
        """Let it hang, with its own children: connections stay open and nothing answers."""
        self._paused = freeze(self.pid)

    def resume(self) -> None:
        """Let it go on after a pause; nothing if it is not paused."""
        for process in reversed(self._paused):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        self._paused = []

    def recover(self) -> None:
        """Bring it back if it was left paused, killed or stopped."""
        self.resume()
        if not self.running:
            self.start()

    def log_tail(self) -> str:
        """Give the last lines of its log."""
        if not self.log.exists():
            return ""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])

    def __enter__(self) -> Self:
        """Start it."""
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop it."""
        self.stop()

    def _spawn(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self.command(),
                cwd=self.directory,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self.user,
                group=self.group,
            )
        guard(self._child.pid)
        return self._child

    def _wait_until_ready(self, child: "subprocess.Popen[bytes]") -> None:
        def ready() -> bool:
            if child.poll() is None:
                return self.is_ready()
            msg = self._with_log(f"ended with status {child.returncode} before it was ready")
            raise ServerError(msg)

        try:
            wait_until(ready, self.ready_limit, what="its first answer")
        except TimeoutError as late:
            msg = self._with_log(f"was not ready: {late}")
            raise ServerError(msg) from late

    def _with_log(self, how: str) -> str:
        return f"{self.name} {how}; end of {self.log}:\n{self.log_tail()}"


def uninterrupted(work: Callable[[], X]) -> X:
    """Do work that a signal does not interrupt: it waits for the end.

    :arg work: Done in a thread of its own, since signals interrupt the main thread alone.

    :returns: What that does.

    """
    with ThreadPoolExecutor(1) as aside:  # to leave the block waits for the thread
        return aside.submit(work).result()


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
