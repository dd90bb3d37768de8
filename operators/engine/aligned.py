"""Sinks with the partitions of the source."""

from typing import Generic, TypeVar

from bytewax.outputs import FixedPartitionedSink

from operators.kafka import client as topics
from settings import Settings

__all__ = ["SourceAlignedSink"]

X = TypeVar("X")


class SourceAlignedSink(FixedPartitionedSink[X, None], Generic[X]):
    """A sink whose partitions are the source's, for items keyed by `partition_key`.

    Bytewax gives sink partitions to the same workers as the source partitions of the same keys, so
    what a worker reads it also writes. It calls `snapshot` on a sink partition at the end of each
    epoch in which that was written to, and takes the epoch for done only after that returns;
    `DynamicSink` has no such hook.

    :arg settings: Brokers and topic.

    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._index: dict[str, int] = {}

    def list_parts(self) -> list[str]:
        """Each partition of the source is an output partition."""
        keys = topics.partition_keys(self._settings)
        # Bytewax takes what `part_fn` gives as an index into the sorted keys.
        self._index = {key: index for index, key in enumerate(sorted(keys))}
        return keys

    def part_fn(self, item_key: str) -> int:
        """Position of a partition's key among all, sorted."""
        return self._index[item_key]
