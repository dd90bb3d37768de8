"""Read a Kafka topic: Bytewax's `KafkaSource` with partitions of our own.

Partitions are the unit of parallelism. Exactly-once: the snapshot holds the position up to which
everything is durable, and so does the group's offset, so that a lost recovery directory loses
nothing.

The partitions of a worker share one consumer, and the first of them reads for all. The others are
only asked now and then whether the stream ends.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Final

from bytewax.connectors.kafka import KafkaSource
from bytewax.inputs import StatefulSourcePartition

from operators.dead_letters.writer import MOST_OPEN
from operators.engine import descriptors
from operators.engine.loop import WorkerLocal
from operators.errors import DependencyError, SourceError, fatal
from operators.kafka import client as topics
from operators.kafka.identity import TopicDescription, topic_id
from operators.kafka.metadata import NOTHING_KNOWN, State
from operators.kafka.rights import require_commits, require_reading, require_sole_use
from operators.kafka.start import begin_group
from operators.records import Message, partition_key
from operators.takeover import Assignment
from operators.workers import Worker
from settings import Settings, workers_per_process

__all__ = ["TransactionSource", "check"]

BUSY: Final = timedelta(milliseconds=2)  # nothing to read, but requests or writes are going on
SOON: Final = timedelta(milliseconds=10)  # nothing to do, but the epoch may be over soon
BESIDE: Final = 100  # descriptors for all else: the model, the database, recovery, HTTP, libraries
OTHERS: Final = 0.2  # seconds until a partition that does not read is asked again


def check(settings: Settings) -> str:
    """Read the topic and ask for the group, and see that this process may open what that takes.

    :returns: What was found.

    :raises DependencyError: Which setting to look at.

    """
    found = topics.check(settings, settings.kafka_topic)
    numbers, workers = topics.partitions(settings), workers_per_process()
    require_reading(settings, settings.kafka_topic, numbers[0])
    require_commits(settings, numbers[0])
    require_sole_use(settings)
    count = len(numbers)
    clients = 3 * workers + min(count, MOST_OPEN * workers)
    descriptors.require(BESIDE + clients * descriptors.CLIENT, f"reading {count} partitions")
    return found


class TransactionSource(KafkaSource):
    """Transactions from a Kafka topic."""

    def __init__(self, settings: Settings, workers: WorkerLocal[Worker]) -> None:
        super().__init__([settings.kafka_bootstrap_servers], [settings.kafka_topic])
        self._settings, self._workers = settings, workers
        self._described = WorkerLocal[list[TopicDescription]](list)
        self._readers = WorkerLocal(lambda: _Reading(workers(), self._described()[0]))

    def list_parts(self) -> list[str]:
        """Each Kafka partition is an input partition.

        Every worker lists them before any reads, so this is where a new group is begun.
        """
        settings, worker = self._settings, self._workers()
        try:
            numbers = topics.partitions(settings)
            found = topic_id(settings, give_up=lambda: worker.stop.requested)
        except DependencyError as error:
            raise fatal(SourceError(str(error))) from None
        topic = TopicDescription(found, len(numbers))
        self._described()[:] = [topic]
        begin_group(settings, numbers, topic.id, worker.stop)
        worker.progress.partitions = len(numbers)
        return [partition_key(settings.kafka_topic, number) for number in numbers]

    def build_part(  # type: ignore[override]
        self, step_id: str, for_part: str, resume_state: State | None
    ) -> "_Partition":
        """See ABC docstring."""
        del step_id
        reading = self._readers()
        number = int(for_part.split("-", 1)[0])
        reading.states[number] = resume_state
        return _Partition(reading, number)


class _Reading:
    """What the partitions of one worker share; they are taken over together."""

    def __init__(self, worker: Worker, topic: TopicDescription) -> None:
        self._worker, self._topic = worker, topic
        self.states: dict[int, State | None] = {}
        self._assignment: Assignment | None = None
        self.is_over = False
        self._epoch_ends = False
        self._is_idle = False
        self._called_at: float | None = None

    def read(self) -> list[Message]:
        """Read for all partitions.

        :raises StopIteration: The partitions are released.

        """
        self._note_turn()
        if self._worker.stop.requested:
            self._is_idle = False
            if self._assignment is None or self._assignment.release():
                self.is_over = True
                raise StopIteration
            return []
        if self._assignment is None:
            self._assignment = Assignment(self._worker, self._topic)
        # Bytewax may begin with those that have a snapshot, and build the others later.
        new = self.states.keys() - self._assignment.partitions.keys()
        if new:
            self._assignment.take_over({number: self.states[number] for number in sorted(new)})
        messages = self._assignment.read()
        self._is_idle = not messages and not self._assignment.waited
        return messages

    def pause(self) -> timedelta | None:
        """How long not to read; None to read on."""
        pause = self._worker.pacer.hold()
        if pause is None and self._is_idle:
            pause = BUSY if self._worker.loop.is_busy else SOON
        return pause

    def pause_of_others(self) -> timedelta:
        """How long not to ask the partitions that do not read."""
        return timedelta(seconds=self._worker.pacer.clear_of_end(OTHERS))

    def end_epoch(self) -> None:
        """Note that the engine closes an epoch."""
        self._worker.pacer.closed()
        self._epoch_ends = True

    def snapshot(self, number: int) -> State:
        """Take the position of a partition, up to which everything is durable."""
        if self._assignment is None or number not in self._assignment.partitions:
            return self.states[number] or NOTHING_KNOWN
        self._assignment.complete_epoch()
        point = self._assignment.partitions[number].resume_point()
        return point.state(keeps_metadata=self._assignment.keeps_metadata)

    def _note_turn(self) -> None:
        """Bytewax calls this again only after an epoch that ends has ended on every worker."""
        now = time.monotonic()
        if self._epoch_ends:
            self._epoch_ends = False
            for number in self.states:
                self._worker.progress.epoch_ended(number)
        elif self._called_at is not None:
            self._worker.pacer.turned(now - self._called_at)
        self._called_at = now


class _Partition(StatefulSourcePartition[Message, State]):
    def __init__(self, reading: _Reading, number: int) -> None:
        self._reading, self._number = reading, number
        self._reads = len(reading.states) == 1  # the first of its worker

    def next_batch(self) -> list[Message]:
        if self._reads:
            return self._reading.read()
        if self._reading.is_over:
            raise StopIteration
        return []

    def next_awake(self) -> datetime | None:
        pause = self._reading.pause() if self._reads else self._reading.pause_of_others()
        return None if pause is None else datetime.now(UTC) + pause

    def snapshot(self) -> State:
        if self._reads:
            self._reading.end_epoch()
        return self._reading.snapshot(self._number)
