"""Write failures to the error topic.

Bytewax's own `KafkaSink` never looks at the result of a delivery. This one does: delivered means
committed, acknowledged by all in-sync replicas, and an epoch does not end before every failure of
it is.

The sink has the source's partitions, so each stays on the worker of its source partition. Exactly
once: each partition has a producer that fences those of its predecessors (see
`operators.fenced_producer`), and what they had committed is read back and not written again (see
`operators.read_back`).

Failures go out in short transactions: when there are many, when one has waited for `LINGER`, and at
the end of an epoch, which waits for them.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from bytewax.outputs import StatefulSinkPartition
from confluent_kafka import KafkaError, KafkaException

from operators import topics
from operators.aligned import SourceAlignedSink
from operators.errors import DeliveryError, DependencyError
from operators.fenced_producer import FencedProducer, Letter, TooLargeError
from operators.read_back import ReadBack
from operators.records import Failure
from operators.stop import Stop
from operators.worker import Loop
from settings import Settings
from telemetry import Progress, log

__all__ = ["DeadLetterSink", "DeadLetterWriter", "check"]

MOST: Final = 500  # failures in one transaction
WAITING: Final = 2 * MOST  # failures of a partition; with more than these the stream waits
LINGER: Final = 1.0  # seconds until a failure is written, if there are few
ATTEMPTS: Final = 4  # to write the same records, if the transaction has to be aborted
PATIENCE: Final = 0.1  # seconds between looks at the wish to stop, while waiting
WARN_EVERY: Final = 10.0  # seconds between words about acknowledgements that do not come
SIZE: Final = {
    KafkaError.MSG_SIZE_TOO_LARGE,
    # What librdkafka meets in the transaction after, since numbers of refused records are missing.
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
}


def check(settings: Settings) -> str:
    """Look for the error topic, and whether it may be written to in transactions.

    :arg settings: Brokers and topic.

    :returns: What was found.

    :raises DependencyError: Which setting to look at.

    """
    found = topics.check(settings, settings.kafka_error_topic)
    try:
        FencedProducer(settings, "check").open(settings.start_timeout)
    except KafkaException as error:
        raise DependencyError(_no_producer(settings, error)) from None
    return found


def _no_producer(settings: Settings, error: KafkaException) -> str:
    reason = error.args[0].str()
    if error.args[0].code() == KafkaError._TIMED_OUT:  # noqa: SLF001 - librdkafka's own begin so
        reason = f"no answer within {settings.start_timeout.total_seconds():g} s"
    group = settings.kafka_consumer_group
    return f"KAFKA_ERROR_TOPIC: no producer with a transactional.id such as {group}:…: {reason}"


class DeadLetterWriter:
    """Writes failures of one worker to the error topic, while the stream goes on.

    :arg settings: Brokers and topic.

    :arg loop: Of this worker.

    :arg read_back: Knows what is there already.

    :arg progress: Told of what is committed.

    :arg stop: When overdue, acknowledgements are not waited for any more.

    """

    def __init__(
        self,
        settings: Settings,
        *,
        loop: Loop,
        read_back: ReadBack,
        progress: Progress,
        stop: Stop,
    ) -> None:
        self._settings = settings
        self._loop, self._read_back = loop, read_back
        self._progress, self._stop = progress, stop
        self._lanes: dict[str, _Lane] = {}

    def open(self, partition_key: str) -> None:
        """Fence all who wrote for a partition before, when it is taken over; nothing later.

        :arg partition_key: Of the source partition, whose lock is held.

        :raises DeliveryError: The broker refuses.

        """
        if partition_key in self._lanes:
            return
        try:
            producer = FencedProducer(self._settings, partition_key)
            producer.open(self._settings.start_timeout)
        except KafkaException as error:
            raise _stopped(_no_producer(self._settings, error)) from None
        self._lanes[partition_key] = _Lane(
            partition_key,
            producer,
            topic=self._settings.kafka_error_topic,
            loop=self._loop,
            read_back=self._read_back,
            progress=self._progress,
        )

    def write(self, failures: Iterable[Failure]) -> None:
        """Take failures; waits while too many are waiting already.

        :arg failures: Of this worker.

        :raises DeliveryError: An earlier one could not be delivered.

        """
        if self._read_back.is_due:
            self._loop.run(self._read_back.read())
        self._take(failures)
        self._wait(lambda lane: lane.is_full)

    async def send(self, failures: Iterable[Failure]) -> None:
        """Do the same on the worker's loop.

        :arg failures: Of this worker.

        :raises DeliveryError: An earlier one could not be delivered.

        """
        await self._read_back.read()
        self._take(failures)
        while tasks := [lane.task for lane in self._lanes.values() if lane.task and lane.is_full]:
            await asyncio.wait(tasks, timeout=PATIENCE)

    def flush(self) -> None:
        """Wait until every failure is committed.

        :raises DeliveryError: One could not be delivered, or not before the end of a stop.

        """
        for lane in self._lanes.values():
            lane.hurry()
        self._wait(lambda _lane: True)

    def _take(self, failures: Iterable[Failure]) -> None:
        self._raise_error()
        for failure in failures:
            if not self._read_back.has(failure.message):
                key = failure.message.partition_key
                self.open(key)  # a stream on another source has not done so
                self._lanes[key].put(Letter(failure))

    def _wait(self, concerns: Callable[["_Lane"], bool]) -> None:
        warned = time.monotonic()
        while True:
            self._raise_error()
            waiting = [lane for lane in self._lanes.values() if lane.task and concerns(lane)]
            tasks = [lane.task for lane in waiting if lane.task]
            if not tasks:
                return
            if self._stop.overdue():
                reason = "no acknowledgement before the end of the stop"
                raise _stopped(_not_written(self._settings.kafka_error_topic, reason))
            if time.monotonic() - warned > WARN_EVERY:
                warned = time.monotonic()
                count = sum(lane.unacknowledged for lane in waiting)
                log.warning("dead_letters.waiting", unacknowledged=count)
            self._loop.wait_any(tasks, PATIENCE)

    def _raise_error(self) -> None:
        for lane in self._lanes.values():
            if lane.error is not None:
                raise lane.error


class _Lane:
    """The failures of one partition, and the task that writes them."""

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
        self.error: DeliveryError | None = None

    @property
    def unacknowledged(self) -> int:
        return len(self._waiting) + len(self._sent)

    @property
    def is_full(self) -> bool:
        return len(self._waiting) > WAITING

    def put(self, letter: Letter) -> None:
        self._waiting.append(letter)
        if self.task is None:
            self.task = self._loop.spawn(self._drain())
        if len(self._waiting) >= MOST:
            self._hurry.set()

    def hurry(self) -> None:
        if self.task is not None:
            self._hurry.set()

    async def _drain(self) -> None:
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), LINGER)
            while self._waiting:
                self._sent, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                await self._deliver()
        except DeliveryError as error:
            self.error = error
        finally:
            self._hurry.clear()
            self.task = None

    async def _deliver(self) -> None:
        began = round(time.time() * 1000)
        kinds = Counter(letter.failure[1:4] for letter in self._sent)
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
            self._progress.count("failed", number, stage=stage, disposition=disposition, code=code)

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
        return _stopped(_not_written(self._topic, reason))


def _not_written(topic: str, reason: str) -> str:
    return f"KAFKA_ERROR_TOPIC: cannot write to {topic}: {reason}"


def _stopped(msg: str) -> DeliveryError:
    # In a cluster the traceback of a worker does not reach the terminal.
    log.error("dead_letters.stopped", error=msg)
    return DeliveryError(msg)


class _Partition(StatefulSinkPartition[Failure, None]):
    def __init__(self, key: str, writer: DeadLetterWriter, claim: Callable[[str], None]) -> None:
        self._key, self._writer, self._claim = key, writer, claim

    def write_batch(self, values: list[Failure]) -> None:
        self._claim(self._key)
        self._writer.write(values)

    def snapshot(self) -> None:
        self._writer.flush()


class DeadLetterSink(SourceAlignedSink[Failure]):
    """Failures to the error topic; see the module.

    :arg settings: Brokers and topics.

    :arg writers: Gives the calling worker's writer.

    :arg claim: Holds a partition's lock, or raises.

    """

    def __init__(
        self,
        settings: Settings,
        *,
        writers: Callable[[], DeadLetterWriter],
        claim: Callable[[str], None],
    ) -> None:
        super().__init__(settings)
        self._writers, self._claim = writers, claim

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Partition:
        """See ABC docstring."""
        del step_id, resume_state
        return _Partition(for_part, self._writers(), self._claim)
