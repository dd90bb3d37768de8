"""Keys that stay on their worker.

Bytewax sends a keyed item to the worker that its key's hash names. A step that only wants state,
not regrouping, therefore needs a key that names the worker the item is on already.

The hash is SipHash-1-3 (Aumasson and Bernstein, 2012; the variant of Rust's `DefaultHasher`) with
both keys zero, over the key's UTF-8 and a 0xFF byte, modulo the number of workers.
"""

import itertools
from typing import Any

from bytewax.inputs import DynamicSource, StatelessSourcePartition

from operators.engine.loop import WorkerLocal
from telemetry import name_worker

__all__ = ["WorkerKeys", "local_key", "worker_of"]

_MASK = (1 << 64) - 1


def _rotate(word: int, bits: int) -> int:
    return ((word << bits) | (word >> (64 - bits))) & _MASK


def _round(v: list[int]) -> None:
    v[0] = (v[0] + v[1]) & _MASK
    v[1] = _rotate(v[1], 13) ^ v[0]
    v[0] = _rotate(v[0], 32)
    v[2] = (v[2] + v[3]) & _MASK
    v[3] = _rotate(v[3], 16) ^ v[2]
    v[0] = (v[0] + v[3]) & _MASK
    v[3] = _rotate(v[3], 21) ^ v[0]
    v[2] = (v[2] + v[1]) & _MASK
    v[1] = _rotate(v[1], 17) ^ v[2]
    v[2] = _rotate(v[2], 32)


def _siphash13(data: bytes) -> int:
    v = [0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573]
    whole = len(data) - len(data) % 8
    words = [int.from_bytes(data[i : i + 8], "little") for i in range(0, whole, 8)]
    last = int.from_bytes(data[whole:], "little") | (len(data) & 0xFF) << 56
    for word in [*words, last]:
        v[3] ^= word
        _round(v)
        v[0] ^= word
    v[2] ^= 0xFF
    for _ in range(3):
        _round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def worker_of(key: str, workers: int) -> int:
    """Index of the worker to which Bytewax sends a key."""
    return _siphash13(key.encode() + b"\xff") % workers


def local_key(worker: int, workers: int) -> str:
    """Shortest key that stays on a worker.

    The same few keys come back at every start, so recovery keeps no more rows than there were
    workers at once.
    """
    return next(key for key in map(str, itertools.count()) if worker_of(key, workers) == worker)


class _Nothing(StatelessSourcePartition[Any]):
    def next_batch(self) -> list[Any]:
        raise StopIteration


class WorkerKeys(DynamicSource[Any]):
    """Tells each worker a key that stays on it.

    It is an input that gives nothing: Bytewax tells a worker its index only when it builds such a
    source, which happens before any partition or state is built.
    """

    def __init__(self) -> None:
        self._keys = WorkerLocal[list[str]](list)
        self.workers = 0
        """In the cluster; known once a worker has started."""

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Nothing:
        """See ABC docstring."""
        del step_id
        name_worker(worker_index, worker_count)
        self.workers = worker_count
        self._keys()[:] = [local_key(worker_index, worker_count)]
        return _Nothing()

    def here(self) -> str:
        """The calling worker's key."""
        return self._keys()[0]
