"""Run the flow, and run it again whenever it ends, as Kubernetes would."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from signal import SIGABRT, SIGKILL, SIGTERM, Signals
from types import TracebackType
from typing import Final, Self

from lab.servers import free_port, wait_until
from lab.servers.ports import LOCALHOST
from tests.chaos.plan import MOST_PROCESSES, Shape
from tests.kit.flow import Flow
from tests.kit.recovery import recovery_options
from tests.kit.wall_clock import WallClock

__all__ = ["Ended", "Supervisor"]

_TICK: Final = 0.02
_PAUSES: Final = (0.1, 0.5, 1.0, 2.0)
"""Seconds before a start, by how many runs in a row were over soon."""
_SOON: Final = 5.0
_STARTED: Final = '"event": "start"'
"""From here on it ends in good order on SIGTERM."""
_TOGETHER: Final = timedelta(seconds=15)
"""Within which the other processes of a cluster have to end after one has."""
_PATIENCE: Final = timedelta(seconds=30)
_MOMENT: Final = 0.5


@dataclass(frozen=True)
class Ended:
    """How one run of the flow ended."""

    run: str
    statuses: list[int]
    wanted: bool
    """It was struck, or told to end."""
    hung: bool
    """One process went on when another had ended, and had to be killed."""


class Supervisor:
    """Runs the flow in a thread, until its block ends.

    :arg name: Of this flow among others beside it.

    :arg folder: For the output of every run, each in a folder of its own.

    :arg variables: Settings.

    :arg recovery: Its recovery directory.

    :arg shape: How it is run.

    :arg ends: Told how each run ended.

    """

    def __init__(
        self,
        name: str,
        folder: Path,
        variables: Mapping[str, str],
        recovery: Path,
        shape: Shape,
        *,
        ends: list[Ended],
    ) -> None:
        self.name, self.recovery = name, recovery
        self.shape = shape
        """Of the next run."""
        self._ends = ends
        self._folder, self._variables = folder, variables
        # Of the host of each process, so it goes on being wrong when the flow is started again.
        self._clocks = [
            WallClock(folder / "clocks", f"{name}-{number}") for number in range(MOST_PROCESSES)
        ]
        self._runs = 0
        self._flows: list[Flow] = []
        self._lock = threading.RLock()  # flows are signalled only while they cannot be put away
        self._struck = False
        self._retired = threading.Event()
        self._may_start = True
        self._thread = self._make_thread()

    @property
    def running(self) -> bool:
        """Whether any of its processes is there."""
        with self._lock:
            return any(flow.running for flow in self._flows)

    def signal(self, number: Signals, *, which: int | None = None) -> None:
        """Send a signal to the processes of the present run, if there is one.

        :arg number: Of the signal.

        :arg which: To one process alone; counted around.

        """
        with self._lock:
            alive = [flow for flow in self._flows if flow.running]
            self._struck = self._struck or bool(alive)
            if which is not None and alive:
                alive = [alive[which % len(alive)]]
            for flow in alive:
                flow.signal(number)

    def move_clock(self, ahead: int, *, which: int) -> None:
        """Set the wall clock of one process, of the present run and of those that follow.

        :arg ahead: Seconds by which it is then ahead of the servers'.

        :arg which: Of the processes; counted around.

        """
        with self._lock:
            self._clocks[which % len(self._flows)].move(timedelta(seconds=ahead))

    def freeze(self) -> None:
        """Stop its processes in their tracks; it is not started again after this run."""
        self._retired.set()
        with self._lock:
            for flow in self._flows:
                if flow.running:
                    flow.pause()

    def thaw(self) -> None:
        """Let them go on."""
        with self._lock:
            for flow in self._flows:
                flow.resume()

    def employ(self) -> None:
        """After a freeze: start it again, whenever it ends."""
        self._retired.clear()
        self._thread.join(_MOMENT)
        if not self._thread.is_alive():  # it had ended already
            self._thread = self._make_thread()
            self._thread.start()

    def kill(self) -> None:
        """Kill the present run, and take care that there is no other."""
        self._retired.set()
        self.signal(SIGKILL)
        self._thread.join(_PATIENCE.total_seconds())

    def dump(self) -> None:
        """Kill the present run as `kill` does; its output tells where each thread was."""
        self._retired.set()
        self.signal(SIGABRT)
        self._thread.join(_PATIENCE.total_seconds())

    @contextmanager
    def down(self, number: Signals) -> Iterator[None]:
        """End the present run; there is none inside the block."""
        with self._lock:
            self._may_start = False
        try:
            self.signal(number)
            wait_until(lambda: not self.running, _PATIENCE, what="the end of the flow")
            yield
        finally:
            self._may_start = True

    def finish(self) -> Ended | None:
        """End it in good order, once it runs: after the last strike it may be about to start.

        :returns: How it went; None if it was not running.

        """
        with suppress(TimeoutError):
            wait_until(self._has_started, _PATIENCE)
        self._retired.set()
        before = len(self._ends)
        self.signal(SIGTERM)
        self._thread.join(_PATIENCE.total_seconds())
        return self._ends[-1] if len(self._ends) > before else None

    def _has_started(self) -> bool:
        return self.running and all(_STARTED in flow.output() for flow in self._flows)

    def __enter__(self) -> Self:
        """Start it."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Kill it."""
        self.kill()

    def _make_thread(self) -> threading.Thread:
        return threading.Thread(target=self._supervise, name=self.name, daemon=True)

    def _supervise(self) -> None:
        soon = 0
        while not self._retired.is_set():
            began = time.monotonic()
            if not self._launch():
                self._retired.wait(_TICK)
                continue
            self._wait_for_end()
            soon = soon + 1 if time.monotonic() - began < _SOON else 0
            self._retired.wait(_PAUSES[min(soon, len(_PAUSES) - 1)])

    def _launch(self) -> bool:
        with self._lock:
            if not self._may_start:
                return False
            self._start()
            return True

    def _start(self) -> None:
        self._runs += 1
        folder = self._folder / f"{self.name}-{self._runs:03}"
        processes, workers = self.shape
        options = [*recovery_options(self.recovery), "-w", str(workers)]
        addresses = ";".join(f"{LOCALHOST}:{free_port()}" for _ in range(processes))
        self._struck = False
        self._flows = []
        for number in range(processes):
            cluster = ["-i", str(number), "-a", addresses] if processes > 1 else []
            variables = {**self._variables, **self._clocks[number].variables}
            flow = Flow(folder / str(number), variables, [*options, *cluster])
            self._flows.append(flow)
            flow.start()

    def _wait_for_end(self) -> None:
        flows = self._flows
        while all(flow.running for flow in flows):
            time.sleep(_TICK)
        hung = False
        try:
            wait_until(lambda: not any(flow.running for flow in flows), _TOGETHER)
        except TimeoutError:
            hung = True
        with self._lock:
            statuses = [_status(flow) for flow in flows]
            for flow in flows:
                flow.kill()
            run = f"{self.name}-{self._runs:03}"
            self._ends.append(Ended(run, statuses, wanted=self._struck, hung=hung))


def _status(flow: Flow) -> int:
    return flow.wait(timedelta(0)) if not flow.running else 999
