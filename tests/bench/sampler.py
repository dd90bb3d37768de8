"""CPU time and memory of processes, looked at now and then while they work."""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, NamedTuple, Self

import psutil

__all__ = ["Sample", "Sampler", "others"]

EVERY: Final = 0.25  # seconds


class Sample(NamedTuple):
    """What was seen at one moment."""

    time: float
    """Seconds since 1970."""
    cpu: dict[str, float]
    """Seconds since its start, by name."""
    rss: dict[str, int]
    """Bytes, by name."""
    machine: float
    """Seconds that all processors together were busy, whoever it was for."""
    known: float
    """Seconds of the processes that were looked at, and of this one."""


def others(samples: Sequence[Sample]) -> float:
    """Tell how much of the machine went to what is no part of the run.

    :arg samples: Of the run, two at least.

    :returns: Share of all processors. More than a few per cent, and the run means little.

    """
    first, last = samples[0], samples[-1]
    busy = (last.machine - first.machine) - (last.known - first.known)
    cores = psutil.cpu_count() or 1
    return max(0.0, busy / (last.time - first.time) / cores)


class Sampler:
    """Looks at processes and their children, in a thread, inside its block.

    :arg processes: Process ids by name; those of one name are added up.

    :arg parents: Names of which children count too. To find them costs a look at all processes.

    """

    def __init__(
        self, processes: Mapping[str, Sequence[int]], *, parents: Sequence[str] = ()
    ) -> None:
        self._processes = {
            name: [psutil.Process(pid) for pid in pids] for name, pids in processes.items()
        }
        self._parents = frozenset(parents)
        self._own = psutil.Process(os.getpid())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self.samples: list[Sample] = []

    def look(self) -> Sample:
        """Look now."""
        cpu, rss = {}, {}
        now = time.time()
        for name, own in self._processes.items():
            everyone = list(own)
            if name in self._parents:
                everyone += [child for one in own for child in one.children(recursive=True)]
            cpu[name], rss[name] = 0.0, 0
            for process in everyone:
                with suppress(psutil.NoSuchProcess):
                    # Its children's is that of those which have ended.
                    cpu[name] += sum(process.cpu_times()[:4])
                    rss[name] += process.memory_info().rss
        known = sum(cpu.values()) + sum(self._own.cpu_times()[:2])
        return Sample(now, cpu, rss, _busy(), known)

    def _run(self) -> None:
        while not self._stop.wait(EVERY):
            self.samples.append(self.look())

    def __enter__(self) -> Self:
        """Begin."""
        self.samples.append(self.look())
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End."""
        self._stop.set()
        self._thread.join()
        self.samples.append(self.look())


def _busy() -> float:
    times = psutil.cpu_times()
    # The time of guests is in that of users already.
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)
