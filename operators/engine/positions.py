"""What the scoring step still had in hand at the end of an epoch.

A source partition may tell the outside (the consumer group) that it is done up to an offset only if
nothing before that offset is still in flight.
"""

import threading

__all__ = ["Unfinished"]


class Unfinished:
    """Lowest unfinished offset by partition, as it was when the last epoch ended.

    Written by each scoring lane when it takes its snapshot, read by each source partition when that
    epoch is durable; lanes and partitions may be on different threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_lane: dict[str, dict[str, int]] = {}

    def replace(self, lane: str, lowest: dict[str, int]) -> None:
        """Note what a lane has in hand: the lowest offset by partition key."""
        with self._lock:
            self._by_lane[lane] = lowest

    def below(self, partition_key: str, offset: int) -> int:
        """Bring a position down to what is finished.

        :arg partition_key: Of the source partition.

        :arg offset: The position that was read to.

        :returns: The lowest unfinished offset, if that is lower.

        """
        with self._lock:
            held = [low[partition_key] for low in self._by_lane.values() if partition_key in low]
        return min([offset, *held])
