"""The failures of one source partition on their way to the error topic.

They gather while a transaction is under way, and go out in the next one: when there are many, when
one has waited for `LINGER`, or when the stream ends. A transaction that has to be aborted is done
again; a dead letter that is too large is found by sending each alone, and is truncated.

What a predecessor may have handled is looked up first: in what the error topic held when the
partition was taken over, and in the tables. A message that is there already is done.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

from confluent_kafka import KafkaError, KafkaException

from operators.dead_letters.already_written import Written
from operators.dead_letters.producer import DeadLetter, TooLargeError, TransactionalProducer
from operators.engine.loop import EventLoop
from operators.engine.positions import finish
from operators.errors import DeliveryError, fatal
from operators.kafka.metadata import LettersPosition
from operators.records import Failure, Message, partition_key
from settings import Settings
from telemetry import LATEST_FAILURES, FailureNote, Progress, log, metrics

__all__ = ["Confirm", "IsStored", "Outbox"]

MOST: Final = 500  # failures in one transaction
MOST_BYTES: Final = 4_000_000  # of their messages; a record may be larger by a third
LINGER: Final = 1.0  # seconds until a failure is written, if there are few
ATTEMPTS: Final = 4  # to write the same records, if the transaction has to be aborted
FENCED: Final = "another process has taken {key} over, or this one stood still for too long"

Confirm = Callable[[], Awaitable[None]]
"""Looks whether this worker still holds its locks, and raises if it does not."""
IsStored = Callable[[int, list[int]], Awaitable[set[int]]]
"""Tells of offsets of a source partition which are in the tables."""


class Outbox:
    """The failures of one source partition, and the task that writes them.

    :arg error_partition: Of the error topic, which has all dead letters of this partition.

    :arg written: What is there already, in the order of its positions.

    :arg end: Behind the last of them.

    :arg turns: Bounds how many outboxes of the worker write at once.

    :arg confirm: Called after a producer is opened, see `operators.dead_letters.producer`.

    :arg is_stored: None if rows do not go to the tables.

    """

    def __init__(
        self,
        settings: Settings,
        partition: int,
        *,
        error_partition: int,
        written: Sequence[Written],
        end: int,
        loop: EventLoop,
        turns: asyncio.Semaphore,
        progress: Progress,
        confirm: Confirm,
        is_stored: IsStored | None,
    ) -> None:
        self._settings, self._loop, self._turns = settings, loop, turns
        self._progress, self._confirm, self._is_stored = progress, confirm, is_stored
        self._partition, self._error_partition = partition, error_partition
        self._key = partition_key(settings.kafka_topic, partition)
        self._written = {each[1:] for each in written}
        self._recent = deque(each for each in written if each.at.partition == error_partition)
        # Version 0.1.0 wrote to all partitions of the error topic.
        elsewhere = [each.source_offset for each in written if each.at.partition != error_partition]
        self._elsewhere_until = max(elsewhere, default=-1)
        self._end = end
        self._waiting: deque[Failure] = deque()
        self._unacknowledged = 0
        self._soon = asyncio.Event()
        self._producer: TransactionalProducer | None = None
        self.used_at = time.monotonic()
        self.began: float | None = None
        """When the writing of what is under way began."""

    @property
    def unacknowledged(self) -> int:
        """Failures that are not committed."""
        return len(self._waiting) + self._unacknowledged

    def has(self, message: Message) -> bool:
        """Whether a message's dead letter was there when the partition was taken over."""
        return (message.offset, message.timestamp) in self._written

    def put(self, failures: Iterable[Failure]) -> None:
        """Take failures."""
        is_writing = self.unacknowledged > 0
        self._waiting.extend(failures)
        if not is_writing:
            self._loop.start(self._drain())
        if len(self._waiting) >= MOST:
            self._soon.set()

    def flush_soon(self) -> None:
        """Write what waits now."""
        if self._waiting:
            self._soon.set()

    def position(self, done: int) -> LettersPosition | None:
        """Where the dead letters begin that a successor may need; None for anywhere.

        :arg done: What the source partition has done: those of earlier messages are of no use.

        """
        if done <= self._elsewhere_until:
            return None
        while self._recent and self._recent[0].source_offset < done:
            self._recent.popleft()
        return self._recent[0].at if self._recent else self._at(self._end)

    @property
    def is_open(self) -> bool:
        """Whether it has a producer."""
        return self._producer is not None

    def close_producer(self) -> None:
        """Close the producer, unless it is writing."""
        if not self.unacknowledged:
            self._producer = None

    async def _drain(self) -> None:
        # Counted before the first wait, so that nobody starts a second task.
        self._unacknowledged += 1
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._soon.wait(), LINGER)
            while self._waiting:
                failures = self._take()
                self._unacknowledged, self.began = len(failures), time.monotonic()
                async with self._turns:
                    await self._place(failures)
        finally:
            self._unacknowledged, self.began = 0, None
            self._soon.clear()

    def _take(self) -> list[Failure]:
        taken: list[Failure] = []
        size = 0
        while self._waiting and len(taken) < MOST and size < MOST_BYTES:
            failure = self._waiting.popleft()
            size += len(failure.message.value or b"")
            taken.append(failure)
        return taken

    async def _place(self, failures: list[Failure]) -> None:
        known = await self._placed_before(failures)
        new = [failure for failure in failures if failure.message.offset not in known]
        if new:
            letters = [DeadLetter(failure, self._settings.kafka_consumer_group) for failure in new]
            await self._write(letters)
            self._note(letters)
        finish(failure.message for failure in failures)

    async def _placed_before(self, failures: list[Failure]) -> set[int]:
        """Offsets of messages that are in the error topic or in the tables already."""
        known = {each.message.offset for each in failures if self.has(each.message)}
        unclear = [
            failure.message.offset
            for failure in failures
            if failure.message.fetch is not None
            and failure.message.offset < failure.message.fetch.tracker.horizon
            and failure.message.offset not in known
        ]
        if unclear and self._is_stored is not None:
            known |= await self._is_stored(self._partition, unclear)
        return known

    async def _write(self, letters: list[DeadLetter]) -> None:
        alone, failed = False, 0
        while True:
            producer = await self._open()
            try:
                await producer.send(letters, alone=alone)
            except TooLargeError as error:
                if error.letter.is_truncated:
                    raise self._stopped(str(error)) from None
                error.letter.truncate()
                await self._abort(producer)
            except KafkaException as error:
                reason, failed = error.args[0], failed + 1
                if not reason.txn_requires_abort() or failed == ATTEMPTS:
                    raise self._stopped_by(reason) from None
                log.warning("dead_letters.retry", partition=self._key, reason=reason.str())
                await self._abort(producer)
                alone = alone or reason.code() == KafkaError.MSG_SIZE_TOO_LARGE
            else:
                return

    async def _open(self) -> TransactionalProducer:
        self.used_at = time.monotonic()
        if self._producer is None:
            producer = TransactionalProducer(self._settings, self._key, self._error_partition)
            try:
                await producer.reopen(self._settings.start_timeout)
            except KafkaException as error:
                raise self._stopped_by(error.args[0]) from None
            await self._confirm()
            self._producer = producer
        return self._producer

    async def _abort(self, producer: TransactionalProducer) -> None:
        try:
            await producer.abort()
        except KafkaException as error:
            raise self._stopped_by(error.args[0]) from None

    def _note(self, letters: list[DeadLetter]) -> None:
        for letter in letters:
            offset = self._end if letter.offset is None else letter.offset
            self._end = max(self._end, offset + 1)
            source = letter.failure.message
            self._recent.append(Written(self._at(offset), source.offset, source.timestamp))
        kinds = Counter(letter.failure[1:4] for letter in letters)
        for (stage, disposition, code), number in kinds.items():
            self._progress.count("failed", number, stage=stage, disposition=disposition)
            metrics.DEAD_LETTER_CODES.labels(stage, code).inc(number)
        latest = [_note(letter.failure) for letter in letters[-LATEST_FAILURES:]]
        self._progress.note_failures(latest)

    def _at(self, offset: int) -> LettersPosition:
        return LettersPosition(self._error_partition, offset)

    def _stopped_by(self, error: KafkaError) -> DeliveryError:
        fenced = error.code() == KafkaError._FENCED  # noqa: SLF001 - librdkafka's own codes begin so
        return self._stopped(FENCED.format(key=self._key) if fenced else error.str())

    def _stopped(self, reason: str) -> DeliveryError:
        topic = self._settings.kafka_error_topic
        return fatal(DeliveryError(f"KAFKA_ERROR_TOPIC: cannot write to {topic}: {reason}"))


def _note(failure: Failure) -> FailureNote:
    message = failure.message
    return FailureNote(
        failure.stage, failure.disposition, failure.code, message.partition, message.offset
    )
