"""Take source partitions over from whoever had them before, and release them.

Takeover: lock (others write no row any more), fence (others write no dead letter), resume point,
what the error topic holds already, read. Release: stop reading, drain, commit; the locks go with
the session. Whatever happens between the two, each message ends in one place: one that a
predecessor may have handled, before the `horizon` where its partition ended at the takeover, is
looked up on both sides before it is placed.
"""

import time
from collections.abc import Mapping
from functools import partial
from typing import Final

from confluent_kafka import KafkaException, TopicPartition

from operators.engine.positions import Tracker
from operators.errors import SourceError, fatal
from operators.kafka.client import CALL_TIMEOUT, ask
from operators.kafka.commits import Committer
from operators.kafka.identity import NEW_TOPIC, TopicDescription
from operators.kafka.metadata import ResumePoint, State
from operators.kafka.partition import Partition
from operators.kafka.reader import Reader
from operators.kafka.start import keeps_metadata, resume_points
from operators.records import Message, partition_key
from operators.workers import Worker
from telemetry import log

__all__ = ["Assignment"]

LOOK_EVERY: Final = 1.0  # seconds between looks at positions, locks and producers
BUSY_REST: Final = 0.001  # seconds that a worker with nothing to read waits for answers at a time
FULL_REST: Final = 0.01  # seconds that a worker with no room waits at a time
STOOD_STILL: Final = 3.0  # seconds between two calls, after which this process may be replaced
LAST_CLOSE: Final = 1.0  # seconds that the end waits for the consumer to close


class Assignment:
    """The partitions of one worker, from takeover to release.

    :arg topic: As it was when the stream started.

    """

    def __init__(self, worker: Worker, topic: TopicDescription) -> None:
        self._worker, self._topic = worker, topic
        self._committer = Committer(worker.settings)
        self._reader = Reader(
            worker.settings,
            in_hand=worker.in_hand,
            progress=worker.progress,
            on_commit=self._committer.on_commit,
        )
        self._looked_at = self._called_at = time.monotonic()
        self._stood_still = False
        if worker.stores_rows:
            worker.session.made_again = partial(self._committer.confirm, self._reader)
        self.partitions: dict[int, Partition] = {}
        self.keeps_metadata = False
        """Whether the broker keeps what commits carry."""
        self.waited = 0.0
        """Seconds for which the last `read` would have waited for a message."""

    def take_over(self, states: Mapping[int, State | None]) -> None:
        """Take partitions over, and begin to read them; it blocks.

        A stop ends the waiting for their locks, and nothing is taken over.

        :raises StreamError: They cannot be taken over.

        """
        worker = self._worker
        name = worker.settings.kafka_topic
        consumer = self._reader.consumer
        if not worker.claim([partition_key(name, number) for number in states]):
            return
        if not worker.rows_are_of(self._topic.id):
            raise fatal(SourceError(NEW_TOPIC.format(key=name)))
        if worker.sends_failures:
            worker.dead_letters.fence(states)
        points = resume_points(consumer, name, states, self._topic.id, worker.stop)
        if worker.sends_failures:
            worker.dead_letters.take_over(points)
        self.keeps_metadata = keeps_metadata(consumer, name, min(states), worker.stop)
        added = {number: self._partition(number, point) for number, point in points.items()}
        self.partitions |= added
        self._committer.begin(
            added, count=self._topic.partitions, keeps_metadata=self.keeps_metadata
        )
        self._reader.assign(added.values())
        worker.look()

    def read(self) -> list[Message]:
        """Read what is there, and go on with what is not done for each message.

        :raises StreamError: The stream cannot go on.

        """
        worker = self._worker
        self._note_call()
        worker.loop.pump()
        self._committer.tick(self._reader)
        if time.monotonic() - self._looked_at >= LOOK_EVERY:
            self._look()
        is_quiet = not worker.loop.is_busy and not worker.in_hand.messages
        self.waited = worker.idle.poll_timeout() if is_quiet else 0.0
        messages = self._reader.read(self.waited)
        if messages:
            worker.idle.came()
        elif not worker.in_hand.has_room:
            worker.loop.rest(FULL_REST)
        elif worker.loop.is_busy:
            worker.loop.rest(BUSY_REST)
        return messages

    def complete_epoch(self) -> None:
        """See that this process is still the one that may complete an epoch.

        Bytewax has no fence: the snapshot of a process that was frozen would spoil the recovery
        directory of its successor. Nothing is waited for unless this one stood still.

        :raises StreamError: Another process has taken over.

        """
        self._note_call()
        if self._stood_still:
            self._stood_still = not self._worker.confirm()

    def release(self) -> bool:
        """Go on with the release: nothing is read any more.

        :returns: Whether it is done. Then all that can be is committed.

        """
        worker = self._worker
        worker.loop.pump()
        if worker.in_hand.messages and not worker.stop.gives_up(worker.scorer.paused):
            worker.dead_letters.flush_soon()
            worker.loop.rest(FULL_REST)
            return False
        if worker.in_hand.messages:
            log.warning("score.interrupted", unfinished=worker.in_hand.messages)
        self._reader.look()
        self._committer.commit_last(self._reader)
        self._reader.close().join(LAST_CLOSE)
        return True

    def _note_call(self) -> None:
        now = time.monotonic()
        self._stood_still = self._stood_still or now - self._called_at > STOOD_STILL
        self._called_at = now

    def _look(self) -> None:
        self._looked_at = time.monotonic()
        self._reader.look()
        self._worker.look()

    def _partition(self, number: int, point: ResumePoint) -> Partition:
        worker = self._worker
        at = TopicPartition(worker.settings.kafka_topic, number)
        tracker = Tracker(number, point.offset, horizon=self._end(at), in_hand=worker.in_hand)
        worker.progress.assign(number)
        log.info("source.start", partition=number, offset=point.offset)
        return Partition(
            number,
            partition_key(at.topic, number),
            tracker,
            self._topic.id,
            point.metadata.generation,
            worker.dead_letters if worker.sends_failures else None,
        )

    def _end(self, at: TopicPartition) -> int:
        question = partial(self._reader.consumer.get_watermark_offsets, at, timeout=CALL_TIMEOUT)
        try:
            _, high = ask(question, give_up=lambda: self._worker.stop.requested)
        except KafkaException as error:
            key = partition_key(at.topic, at.partition)
            msg = f"{key}: cannot find where it ends: {error.args[0].str()}"
            raise fatal(SourceError(msg)) from None
        return int(high)
