"""The stream, run in the process of the test."""

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path

from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.recovery import RecoveryConfig
from bytewax.testing import cluster_main

from operators.records import Message

__all__ = ["GivenSource", "run_in_process"]


class _GivenPartition(StatefulSourcePartition[Message, int]):
    def __init__(self, messages: Sequence[Message], at: int, at_end: Callable[[], None]) -> None:
        self._messages, self._at, self._at_end = messages, at, at_end

    def next_batch(self) -> Sequence[Message]:
        if self._at >= len(self._messages):
            self._at_end()
            raise StopIteration
        batch = self._messages[self._at : self._at + 10]
        self._at += len(batch)
        return batch

    def snapshot(self) -> int:
        return self._at


class GivenSource(FixedPartitionedSource[Message, int]):
    """Given messages as a source with their own partitions, for a stream in this process.

    Unlike Bytewax's `TestingSource` it feeds several workers. The next run with the same messages
    and more goes on behind the last.

    :arg messages: The offsets of each partition ascend.

    :arg at_end: Called when a partition has no more.

    """

    def __init__(
        self, messages: Iterable[Message], *, at_end: Callable[[], None] = lambda: None
    ) -> None:
        self._by_key: dict[str, list[Message]] = {}
        self._at_end = at_end
        for message in messages:
            self._by_key.setdefault(message.partition_key, []).append(message)

    def list_parts(self) -> list[str]:
        """All partitions that there are messages of."""
        return list(self._by_key)

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _GivenPartition:
        """See ABC docstring."""
        del step_id
        return _GivenPartition(self._by_key[for_part], resume_state or 0, self._at_end)


def run_in_process(flow: Dataflow, *, workers: int = 1, recovery: Path | None = None) -> None:
    """Run a stream in this process until its end, with an epoch for each batch.

    :arg flow: The stream.

    :arg workers: Threads.

    :arg recovery: Its recovery directory.

    """
    config = recovery and RecoveryConfig(str(recovery), timedelta(0))  # type: ignore[no-untyped-call]  # as it ships
    cluster_main(  # type: ignore[no-untyped-call]  # as it ships
        flow,
        [],
        0,
        epoch_interval=timedelta(0),
        recovery_config=config,
        worker_count_per_proc=workers,
    )
