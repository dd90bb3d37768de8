"""Tell the consumer group what is done, at least once a second while that moves.

Before each commit the broker is asked for what is believed: that the group's offsets are still the
ones that were committed here, since somebody may have set or deleted them by hand, and that the
topic is still the same, since it may have been deleted and created again. If not, nothing is
committed any more and the stream stops; its next start follows the wish.
"""

import asyncio
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Final

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from operators.errors import SourceError, fatal
from operators.kafka.client import (
    CALL_TIMEOUT,
    COMMIT_TIMEOUT,
    UNKNOWN_TOPIC,
    client,
)
from operators.kafka.identity import NEW_TOPIC, describe
from operators.kafka.metadata import CommitMetadata
from operators.kafka.partition import Partition
from operators.kafka.reader import Reader
from settings import Settings
from telemetry import log, metrics

__all__ = ["Committer"]

EVERY: Final = 1.0  # seconds between commits while something moves
AT_LEAST: Final = 10.0
"""Seconds between commits of what has not moved: brokers forget offsets of a group without members
that nobody commits, and an alert looks at when the last one was taken."""

NO_MEMBER: Final = {
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.REBALANCE_IN_PROGRESS,
}
SUBSCRIBED: Final = (
    "KAFKA_CONSUMER_GROUP: another program subscribes with this group, and Kafka takes commits from"
    " its members alone: end it, or give one of the two another group. Nothing is lost meanwhile"
)

BY_HAND: Final = (
    "{key}: the group's position was {now} by hand while the stream ran, which had committed offset"
    " {ours}. It stops; its next start {then}"
)

TAKEN_OVER: Final = (
    "{key}: another process had taken the partition over meanwhile: this one was frozen or cut off,"
    " and ends"
)

Committed = dict[int, TopicPartition]
"""What the group has, by partition."""


class Committer:
    """Commits the positions of one worker's partitions."""

    def __init__(self, settings: Settings) -> None:
        self._topic = settings.kafka_topic
        silent = {"log_level": 0, "error_cb": lambda _error: None}
        self._admin = AdminClient(client(settings, silent))
        self._partitions: dict[int, Partition] = {}
        self._committed: dict[int, int] = {}
        self._keeps_metadata = self._is_unknown = False
        self._is_silent = self._is_refused = False
        self._read = self._count = 0
        self._look: Future[Committed | None] | None = None
        self._asked_at = time.monotonic()

    def begin(
        self, partitions: Mapping[int, Partition], *, count: int, keeps_metadata: bool
    ) -> None:
        """Begin to commit partitions, whose resume points are committed.

        :arg keeps_metadata: Whether the broker keeps what commits carry.

        """
        self._partitions |= partitions
        self._read = self._count = count
        self._keeps_metadata = keeps_metadata
        for number, partition in partitions.items():
            self._committed[number] = partition.tracker.done

    def on_commit(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        """Take the outcome of a commit."""
        for at in offsets:
            failure = error or at.error
            if failure is not None and failure.code() in NO_MEMBER:
                if not self._is_refused:
                    self._is_refused = True
                    log.warning("source.commit_failed", partition=at.partition, error=SUBSCRIBED)
            elif failure is not None:
                # The next one says the same; until then the lag that others see is too high.
                log.warning("source.commit_failed", partition=at.partition, error=failure.str())
            else:
                self._is_refused = False
                self._committed[at.partition] = at.offset
                metrics.COMMIT_TIME.labels(at.partition).set_to_current_time()

    def tick(self, reader: Reader) -> None:
        """Go on with commits; quick, since questions are asked in a thread.

        :raises SourceError: The group's offset was set by hand, or the topic is another one.

        """
        if self._look is not None:
            if self._look.done():
                look, self._look = self._look, None
                found = look.result()
                if found is not None:
                    reader.outage.answered()
                if self._agrees(found):
                    reader.consumer.commit(offsets=self._offsets(), asynchronous=True)
            return
        silence = time.monotonic() - self._asked_at
        if silence >= EVERY and (silence >= AT_LEAST or self._has_moved()):
            self._asked_at = time.monotonic()
            self._look = self._ask(reader, CALL_TIMEOUT)

    async def confirm(self, reader: Reader) -> None:
        """See that nobody had the partitions since they were taken over, however long it takes.

        :raises SourceError: As `tick`, or somebody had.

        """
        while True:
            found = await asyncio.wrap_future(self._ask(reader, CALL_TIMEOUT))
            if self._agrees(found):
                return
            await asyncio.sleep(EVERY)

    def commit_last(self, reader: Reader) -> None:
        """Commit once more and wait for it, as far as the broker answers: for a release.

        :raises SourceError: As `tick`.

        """
        try:
            if self._look is not None:
                self._agrees(self._look.result(COMMIT_TIMEOUT))
                self._look = None
            if self._has_moved() and self._agrees(
                self._ask(reader, COMMIT_TIMEOUT).result(2 * COMMIT_TIMEOUT)
            ):
                reader.consumer.commit(offsets=self._offsets(), asynchronous=False)
        except (KafkaException, TimeoutError) as error:
            # Only the lag that others see is too high: the snapshot, or the commit before, counts.
            log.warning("source.commit_failed", error=str(error) or type(error).__name__)

    def _has_moved(self) -> bool:
        return any(
            partition.tracker.done != self._committed[number]
            for number, partition in self._partitions.items()
        )

    def _offsets(self) -> list[TopicPartition]:
        return [
            partition.resume_point().commit(self._topic, number)
            for number, partition in self._partitions.items()
        ]

    def _ask(self, reader: Reader, seconds: float) -> Future[Committed | None]:
        """Ask in a thread that the end of the process does not wait for."""
        answer: Future[Committed | None] = Future()

        def ask() -> None:
            try:
                answer.set_result(self._look_around(reader, seconds))
            except BaseException as error:  # noqa: BLE001 - raised where the answer is taken
                answer.set_exception(error)

        threading.Thread(target=ask, name="commits", daemon=True).start()
        return answer

    def _look_around(self, reader: Reader, seconds: float) -> Committed | None:
        """Look at topic and group; None if there is no answer now."""
        wanted = [TopicPartition(self._topic, number) for number in self._partitions]
        try:
            self._look_at_topic(seconds)
            with reader.in_use:
                found = reader.consumer.committed(wanted, timeout=seconds)
        except KafkaException as error:
            self._no_answer(error.args[0])
            return None
        for at in found:
            if at.error is not None:
                self._no_answer(at.error)
                return None
        self._is_silent = False
        return {at.partition: at for at in found}

    def _no_answer(self, error: KafkaError) -> None:
        if not self._is_silent:
            self._is_silent = True  # the next look says the same
            log.warning("source.no_answer", error=error.str())

    def _look_at_topic(self, seconds: float) -> None:
        known = {each.topic_id for each in self._partitions.values()}
        if known == {""}:
            return  # the broker tells none
        try:
            topic = describe(self._admin, self._topic, seconds)
        except KafkaException as error:
            # A broker that has just come back may not know of it yet: so only the second time.
            was_unknown, self._is_unknown = self._is_unknown, error.args[0].code() in UNKNOWN_TOPIC
            if was_unknown and self._is_unknown:
                msg = f"{self._topic}: cannot read on: the topic is gone"
                raise fatal(SourceError(msg)) from None
            raise
        self._is_unknown = False
        for partition in self._partitions.values():
            if partition.topic_id != topic.id:
                raise fatal(SourceError(NEW_TOPIC.format(key=partition.key)))
        if topic.partitions > self._count:
            log.warning(
                "source.new_partitions",
                read=self._read,
                found=topic.partitions,
                reason="the topic has partitions that are read only after the next start",
            )
            metrics.NEW_PARTITIONS.set(topic.partitions - self._read)
            self._count = topic.partitions

    def _agrees(self, found: Committed | None) -> bool:
        """Whether the group has what was committed here; not if the broker has not answered."""
        for number, at in (found or {}).items():
            metadata = CommitMetadata.read(at.metadata)
            if metadata is not None and metadata.generation > self._partitions[number].generation:
                key = self._partitions[number].key
                raise fatal(SourceError(TAKEN_OVER.format(key=key)))
            if at.offset < 0:
                now, then = (
                    "deleted",
                    "goes on from its snapshot or, without one, as a new group does",
                )
            elif self._keeps_metadata and metadata is None:
                now, then = f"set to offset {at.offset}", "goes on from there"
            else:
                continue
            key, ours = self._partitions[number].key, self._committed[number]
            raise fatal(SourceError(BY_HAND.format(key=key, now=now, ours=ours, then=then)))
        return found is not None
