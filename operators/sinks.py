"""The two ends of the stream: rows in PostgreSQL, dead letters in the error topic.

Both take what their worker read, in lists, and neither waits: a message is done when it is durable,
which the account of its source partition keeps (`operators.engine.positions`). So they have no part
in recovery, and Bytewax's `DynamicSink`, which keeps everything on its worker, is all they need.

Of messages that come from a source without such an account the call returns when they are durable.
"""

from collections.abc import Sequence
from typing import TypeVar

from bytewax.outputs import DynamicSink, StatelessSinkPartition

from operators.engine.loop import WorkerLocal
from operators.engine.positions import finish
from operators.records import Failure, Scored
from operators.workers import Worker
from telemetry import count_predictions

__all__ = ["DeadLetterSink", "PostgresSink", "hand_over"]

B = TypeVar("B", bound="Sequence[Scored] | Sequence[Failure]")


class PostgresSink(DynamicSink[Sequence[Scored]]):
    """Scored transactions to PostgreSQL. Exactly once: rows are idempotent by id and position."""

    def __init__(self, workers: WorkerLocal[Worker]) -> None:
        self._workers = workers

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "_RowSink":
        """See ABC docstring."""
        del step_id, worker_index, worker_count
        return _RowSink(self._workers())


class _RowSink(StatelessSinkPartition[Sequence[Scored]]):
    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def write_batch(self, items: list[Sequence[Scored]]) -> None:
        rows = self._worker.rows
        for scored in items:
            count_predictions([each.prediction for each in scored])
            rows.write(scored)
        self._worker.loop.pump()
        _await_untracked(self._worker, items)

    def close(self) -> None:
        """End the session; never raises."""
        self._worker.session.close()


class DeadLetterSink(DynamicSink[Sequence[Failure]]):
    """Failures to the error topic. Exactly once for those who read committed records."""

    def __init__(self, workers: WorkerLocal[Worker]) -> None:
        self._workers = workers

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "_FailureSink":
        """See ABC docstring."""
        del step_id, worker_index, worker_count
        return _FailureSink(self._workers())


class _FailureSink(StatelessSinkPartition[Sequence[Failure]]):
    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def write_batch(self, items: list[Sequence[Failure]]) -> None:
        letters = self._worker.dead_letters
        for failures in items:
            letters.put(failures)
        self._worker.loop.pump()
        _await_untracked(self._worker, items)


def hand_over(batches: list[B]) -> list[B]:
    """Take for done what a sink of somebody else's is given: nobody else would say so."""
    for batch in batches:
        finish(each.message for each in batch)
    return batches


def _await_untracked(
    worker: Worker, items: list[Sequence[Scored]] | list[Sequence[Failure]]
) -> None:
    if items[0][0].message.fetch is not None:
        return
    if worker.stores_rows:
        worker.loop.run_until(lambda: worker.rows.is_idle)
    # After the rows, of which some may have become failures.
    worker.dead_letters.flush_soon()
    worker.loop.run_until(lambda: worker.dead_letters.is_idle)
