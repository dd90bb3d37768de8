"""The two ends of the stream: rows in PostgreSQL, dead letters in the error topic.

Both take what their worker read, in lists, and neither waits: a message is done when it is durable,
which the account of its source partition keeps (`operators.engine.positions`). So they have no part
in recovery, and Bytewax's `DynamicSink`, which keeps everything on its worker, is all they need.

Of messages that come from a source without such an account the call returns when they are durable.
"""

from collections.abc import Callable, Sequence

from bytewax.outputs import DynamicSink, StatelessSinkPartition

from operators.records import Failure, Scored
from operators.workers import Worker, Workers

__all__ = ["DeadLetterSink", "PostgresSink"]


class PostgresSink(DynamicSink[Sequence[Scored]]):
    """Scored transactions to PostgreSQL. Exactly once: rows are idempotent by id and position."""

    def __init__(self, workers: Workers) -> None:
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
            rows.write(scored)
        self._worker.loop.pump()
        _await_untracked(self._worker, items, lambda: rows.is_idle)

    def close(self) -> None:
        """End the session; never raises."""
        self._worker.session.close()


class DeadLetterSink(DynamicSink[Sequence[Failure]]):
    """Failures to the error topic. Exactly once for those who read committed records."""

    def __init__(self, workers: Workers) -> None:
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
        _await_untracked(self._worker, items, lambda: letters.is_idle)


def _await_untracked(
    worker: Worker,
    items: list[Sequence[Scored]] | list[Sequence[Failure]],
    is_idle: Callable[[], bool],
) -> None:
    if any(each.message.fetch is None for each in items[0][:1]):
        if worker.sends_failures:
            worker.dead_letters.flush_soon()
        worker.loop.run_until(is_idle)
