"""The failures of one partition on their way to the error topic.

They gather while a transaction is under way, and go out in the next one: when there are many, when
one has waited for `LINGER`, or when the end of an epoch is in a hurry. A transaction that has to be
aborted is done again; a letter that is too large is found by sending each alone, and is cut.
"""

import asyncio
import time
from collections import Counter
from contextlib import suppress
from typing import Final

from confluent_kafka import KafkaError, KafkaException

from operators.dead_letters.already_written import ReadBack
from operators.dead_letters.producer import FencedProducer, Letter, TooLargeError
from operators.engine.loop import Loop
from operators.errors import DeliveryError
from operators.records import Failure
from telemetry import LATEST_FAILURES, FailureNote, Progress, log, metrics

__all__ = ["LetterLane", "not_written", "stopped"]

MOST: Final = 500  # failures in one transaction
WAITING: Final = 2 * MOST  # failures of a partition; with more than these the stream waits
LINGER: Final = 1.0  # seconds until a failure is written, if there are few
ATTEMPTS: Final = 4  # to write the same records, if the transaction has to be aborted
SIZE: Final = {
    KafkaError.MSG_SIZE_TOO_LARGE,
    # What librdkafka meets in the transaction after, since numbers of refused records are missing.
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
}


def not_written(topic: str, reason: str) -> str:
    """Say that the error topic cannot be written to."""
    return f"KAFKA_ERROR_TOPIC: cannot write to {topic}: {reason}"


def stopped(msg: str) -> DeliveryError:
    """Log why the stream stops, and make the error that says it."""
    # In a cluster the traceback of a worker does not reach the terminal.
    log.error("dead_letters.stopped", error=msg)
    return DeliveryError(msg)


class LetterLane:
    """The failures of one partition, and the task that writes them.

    :arg key: Of the source partition.

    :arg producer: Of this partition, open.

    :arg topic: The error topic, for messages.

    :arg loop: Of this worker.

    :arg read_back: Of this worker: knows what is there already.

    :arg progress: Told of what is committed.

    """

    def __init__(
        self,
        key: str,
        producer: FencedProducer,
        *,
        topic: str,
        loop: Loop,
        read_back: ReadBack,
        progress: Progress,
    ) -> None:
        self._key, self._producer, self._topic = key, producer, topic
        self._loop, self._read_back, self._progress = loop, read_back, progress
        self._waiting: list[Letter] = []
        self._sent: list[Letter] = []
        self._hurry = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        """That writes; None if nothing waits."""
        self.error: Exception | None = None
        """Why it ended, if it did."""

    @property
    def unacknowledged(self) -> int:
        """Failures that are not committed."""
        return len(self._waiting) + len(self._sent)

    @property
    def is_full(self) -> bool:
        """Whether the stream has to wait."""
        return len(self._waiting) > WAITING

    def put(self, letter: Letter) -> None:
        """Take one."""
        self._waiting.append(letter)
        if self.task is None:
            self.task = self._loop.spawn(self._drain())
        if len(self._waiting) >= MOST:
            self._hurry.set()

    def hurry(self) -> None:
        """Write what waits now."""
        if self.task is not None:
            self._hurry.set()

    async def _drain(self) -> None:
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), LINGER)
            while self._waiting:
                self._sent, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                await self._deliver()
        except Exception as error:  # noqa: BLE001 - raised where the stream asks next
            self.error = error
        finally:
            self._hurry.clear()
            self.task = None

    async def _deliver(self) -> None:
        began = round(time.time() * 1000)
        kinds = Counter(letter.failure[1:4] for letter in self._sent)
        latest = [_note(letter.failure) for letter in self._sent[-LATEST_FAILURES:]]
        alone, failed = False, 0
        while self._sent:
            try:
                await self._producer.send(self._sent, alone=alone)
            except TooLargeError as error:
                if error.letter.is_cut:
                    raise self._stopped(str(error)) from None
                error.letter.cut()
                failed = 0
                await self._abort()
            except KafkaException as error:
                reason, failed = error.args[0], failed + 1
                if not reason.txn_requires_abort() or failed == ATTEMPTS:
                    raise self._stopped_by(reason) from None
                log.warning("dead_letters.retry", partition=self._key, reason=reason.str())
                await self._abort()
                alone = alone or reason.code() == KafkaError.MSG_SIZE_TOO_LARGE
                if reason.code() not in SIZE:
                    await self._leave_out(began)
            else:
                self._sent = []
        for (stage, disposition, code), number in kinds.items():
            self._progress.count("failed", number, stage=stage, disposition=disposition)
            metrics.DEAD_LETTER_CODES.labels(stage, code).inc(number)
        self._progress.note_failures(latest)

    async def _abort(self) -> None:
        try:
            await self._producer.abort()
        except KafkaException as error:
            raise self._stopped_by(error.args[0]) from None

    async def _leave_out(self, since: int) -> None:
        """Look what is there: not every broker hides what was aborted, as Kafka does."""
        self._read_back.again(since)
        await self._read_back.read()
        self._sent = [
            letter for letter in self._sent if not self._read_back.has(letter.failure.message)
        ]

    def _stopped_by(self, error: KafkaError) -> DeliveryError:
        if error.code() == KafkaError._FENCED:  # noqa: SLF001 - librdkafka's own codes begin so
            return self._stopped(
                f"another process has taken {self._key} over, or this one stood still for too long"
            )
        return self._stopped(error.str())

    def _stopped(self, reason: str) -> DeliveryError:
        return stopped(not_written(self._topic, reason))


def _note(failure: Failure) -> FailureNote:
    message = failure.message
    return FailureNote(
        failure.stage, failure.disposition, failure.code, message.partition, message.offset
    )
