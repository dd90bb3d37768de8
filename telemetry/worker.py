"""Which worker a thread is, and when it last gave a sign of life.

Kept by the thread's identifier: a worker's callbacks may get a fresh `threading.local` each.
"""

import threading
import time
from dataclasses import dataclass

__all__ = ["Worker", "beat", "name_worker", "worker_index", "workers"]


@dataclass
class Worker:
    """A worker of this process."""

    index: int
    """In the cluster."""

    count: int
    """Workers in the cluster."""

    beat: float
    """When it last went through its callbacks, or waited knowingly; monotonic."""


_workers: dict[int, Worker] = {}


def name_worker(index: int, count: int) -> None:
    """Note that the calling thread is a worker.

    :arg index: In the cluster.

    :arg count: Workers in the cluster.

    """
    _workers[threading.get_ident()] = Worker(index, count, time.monotonic())


def beat() -> None:
    """Give a sign of life of the calling worker."""
    worker = _workers.get(threading.get_ident())
    if worker is not None:
        worker.beat = time.monotonic()


def worker_index() -> int | None:
    """Index of the worker that the calling thread is; None if it is none."""
    worker = _workers.get(threading.get_ident())
    return worker.index if worker else None


def workers() -> list[Worker]:
    """Those of this process that run."""
    return list(_workers.values())
