"""Keys go to the workers that this project thinks they go to: asked of the engine itself."""

import threading
from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.testing import TestingSink, TestingSource, cluster_main

from operators.engine.routing import WorkerKeys, local_key, worker_of

KEYS = [*map(str, range(60)), "", "3-transactions", "x" * 100, "é😀", *("y" * n for n in range(17))]


class _Nothing(StatelessSourcePartition[int]):
    def next_batch(self) -> list[int]:
        raise StopIteration


class _Workers(DynamicSource[int]):
    """Finds out which thread is which worker."""

    def __init__(self) -> None:
        self.index: dict[int, int] = {}

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Nothing:
        del step_id, worker_count
        self.index[threading.get_ident()] = worker_index
        return _Nothing()


class _Here(StatefulBatchLogic[Any, tuple[Any, int], None]):
    """Adds the thread that it runs on to what passes."""

    def on_batch(self, values: list[Any]) -> tuple[list[tuple[Any, int]], bool]:
        return [(value, threading.get_ident()) for value in values], False

    def snapshot(self) -> None:
        return None


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_a_key_goes_to_the_worker_that_its_hash_names(workers: int) -> None:
    """Keys of every length below and above the hash's block, and beyond ASCII."""
    found: list[tuple[str, tuple[Any, int]]] = []
    threads = _Workers()
    flow = Dataflow("test")
    op.input("threads", flow, threads)
    keyed = op.input("keys", flow, TestingSource([(key, None) for key in KEYS]))
    out = op.stateful_batch("here", keyed, lambda _resume_state: _Here())
    op.output("out", out, TestingSink(found))

    cluster_main(flow, [], 0, worker_count_per_proc=workers)  # type: ignore[no-untyped-call]

    went = {key: threads.index[thread] for key, (_, thread) in found}
    assert went == {key: worker_of(key, workers) for key in KEYS}
    assert set(went.values()) == set(range(workers))


@pytest.mark.parametrize("workers", range(1, 17))
def test_a_lane_stays_on_its_worker(workers: int) -> None:
    """Each worker has one of its own."""
    lanes = [local_key(worker, workers) for worker in range(workers)]

    assert [worker_of(lane, workers) for lane in lanes] == list(range(workers))
    assert len(set(lanes)) == workers


def test_lanes_are_few_over_all_numbers_of_workers() -> None:
    """Every key ever used keeps a row in the recovery store, so they have to come back."""
    lanes = {local_key(worker, workers) for workers in range(1, 9) for worker in range(workers)}

    assert lanes <= set(map(str, range(64)))


class _Once(StatelessSourcePartition[int]):
    def __init__(self) -> None:
        self._given = False

    def next_batch(self) -> list[int]:
        if self._given:
            raise StopIteration
        self._given = True
        return [threading.get_ident()]


class _EachOnce(DynamicSource[int]):
    """One item from each worker: its thread."""

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Once:
        del step_id, worker_index, worker_count
        return _Once()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_an_item_keyed_by_the_lane_stays_where_it_is(workers: int) -> None:
    """In a flow, keyed state comes to the items instead of the items going to the state."""
    found: list[tuple[str, tuple[int, int]]] = []
    lanes = WorkerKeys()
    flow = Dataflow("test")
    op.input("lanes", flow, lanes)
    items = op.input("items", flow, _EachOnce())
    keyed = op.map("lane", items, lambda thread: (lanes.here(), thread))
    out = op.stateful_batch("here", keyed, lambda _resume_state: _Here())
    op.output("out", out, TestingSink(found))

    cluster_main(flow, [], 0, worker_count_per_proc=workers)  # type: ignore[no-untyped-call]

    assert {key for key, _ in found} == {local_key(worker, workers) for worker in range(workers)}
    assert all(came_from == is_on for _, (came_from, is_on) in found)
    assert len({thread for _, (thread, _) in found}) == workers
