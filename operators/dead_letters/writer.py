"""Write failures to the error topic.

Bytewax's own `KafkaSink` never looks at the result of a delivery. This one does: delivered means
committed, acknowledged by all in-sync replicas, and an epoch does not end before every failure of
it is.

The sink has the source's partitions, so each stays on the worker of its source partition. Exactly
once: each partition has a producer that fences those of its predecessors (
`operators.dead_letters.producer`), and what they had committed is read back, not written again (
`operators.dead_letters.already_written`).

Failures go out in short transactions (`operators.dead_letters.outbox`); the end of an epoch waits
for them.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final

from bytewax.outputs import StatefulSinkPartition
from confluent_kafka import KafkaError, KafkaException

from operators.dead_letters.already_written import ReadBack
from operators.dead_letters.outbox import LetterLane, not_written, stopped
from operators.dead_letters.producer import FencedProducer, Letter
from operators.engine.aligned import SourceAlignedSink
from operators.engine.loop import Loop
from operators.engine.shutdown import Stop
from operators.errors import DependencyError
from operators.kafka import client as topics
from operators.records import Failure, Message
from settings import Settings
from telemetry import Progress, log

__all__ = ["DeadLetterSink", "DeadLetterWriter", "check"]

PATIENCE: Final = 0.1  # seconds between looks at the wish to stop, while waiting
WARN_EVERY: Final = 10.0  # seconds between words about acknowledgements that do not come


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
        self._lanes: dict[str, LetterLane] = {}
        self._restored: set[tuple[int, int]] = set()

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
            raise stopped(_no_producer(self._settings, error)) from None
        self._lanes[partition_key] = LetterLane(
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
            if not self._is_elsewhere(failure.message):
                key = failure.message.partition_key
                self.open(key)  # a stream on another source has not done so
                self._lanes[key].put(Letter(failure))

    def _is_elsewhere(self, message: Message) -> bool:
        """Whether another copy of the message is in the topic already, or is on its way there."""
        if self._read_back.has(message) or self._read_back.reads_again(message):
            return True
        if message.restored:
            # Two lanes may have held it, when the number of workers has changed.
            position = (message.partition, message.offset)
            if position in self._restored:
                return True
            self._restored.add(position)
        return False

    def _wait(self, concerns: Callable[[LetterLane], bool]) -> None:
        warned = time.monotonic()
        while True:
            self._raise_error()
            waiting = [lane for lane in self._lanes.values() if lane.task and concerns(lane)]
            tasks = [lane.task for lane in waiting if lane.task]
            if not tasks:
                return
            if self._stop.overdue():
                reason = "no acknowledgement before the end of the stop"
                raise stopped(not_written(self._settings.kafka_error_topic, reason))
            if time.monotonic() - warned > WARN_EVERY:
                warned = time.monotonic()
                count = sum(lane.unacknowledged for lane in waiting)
                log.warning("dead_letters.waiting", unacknowledged=count)
            self._loop.wait_any(tasks, PATIENCE)

    def _raise_error(self) -> None:
        for lane in self._lanes.values():
            if lane.error is not None:
                raise lane.error


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
