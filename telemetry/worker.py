"""Which worker a thread is: Bytewax tells it once, logs and metrics ask often.

Kept by the thread's identifier, since a worker's callbacks get a fresh `threading.local` each.
"""

import threading

__all__ = ["name_worker", "worker_index"]

_indexes: dict[int, int] = {}


def name_worker(index: int) -> None:
    """Note that the calling thread is a worker.

    :arg index: In the cluster.

    """
    _indexes[threading.get_ident()] = index


def worker_index() -> int | None:
    """Index of the worker that the calling thread is; None if it is none."""
    return _indexes.get(threading.get_ident())
