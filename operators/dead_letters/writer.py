"""Write failures to the error topic.

Bytewax's own `KafkaSink` never looks at the result of a delivery. This one does: a failure is done
when its transaction is committed, acknowledged by all in-sync replicas.

Exactly once: each source partition has a producer that fences those of its predecessors
(`operators.dead_letters.producer`), and what they had committed is read back and not written again
(`operators.dead_letters.already_written`).
"""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from types import MappingProxyType
from typing import Final

from confluent_kafka import KafkaException

from operators.dead_letters.already_written import Written, read_back
from operators.dead_letters.check import no_producer
from operators.dead_letters.outbox import Confirm, IsStored, Outbox
from operators.dead_letters.producer import TransactionalProducer
from operators.engine.loop import EventLoop
from operators.engine.shutdown import Stop
from operators.errors import DeliveryError, DependencyError, fatal
from operators.kafka import client as topics
from operators.kafka.metadata import LettersPosition, ResumePoint
from operators.records import Failure, Message, partition_key
from settings import Settings
from telemetry import Progress, log

__all__ = ["MOST_OPEN", "DeadLetterWriter"]

AT_ONCE: Final = 8  # outboxes that write, or producers that are opened
MOST_OPEN: Final = 64  # producers that are kept open
CLOSE_AFTER: Final = 60.0  # seconds without a failure
WARN_EVERY: Final = 10.0  # seconds between words about acknowledgements that do not come


class DeadLetterWriter:
    """Writes failures of one worker to the error topic, while the stream goes on.

    :arg confirm: Looks whether this worker still holds its locks.

    :arg is_stored: Looks into the tables; None if rows do not go there.

    """

    def __init__(
        self,
        settings: Settings,
        *,
        loop: EventLoop,
        progress: Progress,
        stop: Stop,
        confirm: Confirm,
        is_stored: IsStored | None,
    ) -> None:
        self._settings, self._loop, self._progress = settings, loop, progress
        self._stop = stop
        self._confirm, self._is_stored = confirm, is_stored
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._outboxes: dict[int, Outbox] = {}
        self._knows_any = False
        self._warned_at = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether every failure is committed."""
        return not any(outbox.unacknowledged for outbox in self._outboxes.values())

    def fence(self, partitions: Iterable[int]) -> None:
        """Fence all who wrote for partitions before, when they are taken over; it blocks.

        :arg partitions: Of the source, whose locks are held.

        :raises DeliveryError: The broker refuses.

        """
        keys = [partition_key(self._settings.kafka_topic, number) for number in partitions]

        def fence(key: str) -> None:
            TransactionalProducer(self._settings, key).open(self._settings.start_timeout)

        try:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(fence, keys))
        except KafkaException as error:
            raise fatal(DeliveryError(no_producer(self._settings, error.args[0]))) from None

    def take_over(self, points: Mapping[int, ResumePoint]) -> None:
        """Look what the error topic has of partitions that are fenced; it blocks.

        :raises DeliveryError: It cannot be read.

        """
        found = read_back(self._settings, points, self._stop)
        for number, point in points.items():
            written = found.written[number]
            self._outboxes[number] = self._outbox(
                number, point.metadata.letters, written, found.ends
            )
            self._knows_any = self._knows_any or bool(written)

    def has(self, message: Message) -> bool:
        """Whether a message is a dead letter that was there when its partition was taken over."""
        if not self._knows_any:
            return False
        outbox = self._outboxes.get(message.partition)
        return outbox is not None and outbox.has(message)

    def put(self, failures: Iterable[Failure]) -> None:
        """Take failures."""
        by_partition: dict[int, list[Failure]] = {}
        for failure in failures:
            by_partition.setdefault(failure.message.partition, []).append(failure)
        for number, those in by_partition.items():
            if number not in self._outboxes:  # a stream on another source takes nothing over
                self._outboxes[number] = self._outbox(number, None)
            self._outboxes[number].put(those)

    def position(self, partition: int, done: int) -> LettersPosition | None:
        """Where the dead letters of a source partition begin that a successor may need.

        :returns: None for anywhere.

        """
        return self._outboxes[partition].position(done)

    def flush_soon(self) -> None:
        """Write what waits now."""
        for outbox in self._outboxes.values():
            outbox.flush_soon()

    def tick(self) -> None:
        """Close producers that are not used, and say so when acknowledgements do not come."""
        now = time.monotonic()
        by_use = sorted(self._outboxes.values(), key=lambda outbox: outbox.used_at, reverse=True)
        opened = [outbox for outbox in by_use if outbox.is_open]
        for place, outbox in enumerate(opened):
            if place >= MOST_OPEN or now - outbox.used_at > CLOSE_AFTER:
                outbox.close_producer()
        late = 0
        for outbox in opened:
            if outbox.began is not None and now - outbox.began > WARN_EVERY:
                late += outbox.unacknowledged
        if late and now - self._warned_at > WARN_EVERY:
            self._warned_at = now
            log.warning("dead_letters.waiting", unacknowledged=late)

    @cached_property
    def _error_partitions(self) -> int:
        try:
            return topics.partition_count(self._settings, self._settings.kafka_error_topic)
        except DependencyError as error:
            raise fatal(DeliveryError(str(error))) from None

    def _outbox(
        self,
        number: int,
        letters: LettersPosition | None,
        written: Sequence[Written] = (),
        ends: Mapping[int, int] = MappingProxyType({}),
    ) -> Outbox:
        # Where they were before, as long as there is such a partition.
        at = letters or LettersPosition(number, 0)
        error_partition = at.partition % self._error_partitions
        return Outbox(
            self._settings,
            number,
            error_partition=error_partition,
            written=written,
            end=ends.get(error_partition, 0),
            loop=self._loop,
            turns=self._turns,
            progress=self._progress,
            confirm=self._confirm,
            is_stored=self._is_stored,
        )
