"""Read a Kafka topic: Bytewax's `KafkaSource` with a partition of our own.

Partitions are the unit of parallelism. Exactly-once: the snapshot holds the position, and with the
consumer group's committed offsets a lost recovery directory loses nothing.

A partition starts from its snapshot, unless the group's offset was moved by hand since; without a
snapshot from the group's offset, else from `KAFKA_START_AT`. An offset is committed once everything
before it is durable: after the epoch that read it has ended everywhere, and never past what scoring
still has in flight. Our commits carry a mark, `operators.kafka.commits`; `kafka-consumer-groups
--reset-offsets` leaves none, which is how an operator's wish is known.

`assign()` is used, not `subscribe()`: the group shows offsets and lag, and has no members.
"""

import time
from collections.abc import Callable
from typing import Final

from bytewax.connectors.kafka import KafkaSource
from confluent_kafka import Consumer, KafkaException

from operators.dead_letters.already_written import ReadBack
from operators.engine.loop import Loop
from operators.engine.positions import Unfinished
from operators.engine.shutdown import Stop
from operators.kafka import client as topics
from operators.kafka.commits import Mark
from operators.kafka.partition import Partition, Shared, State, committer
from operators.records import partition_key
from settings import Settings
from telemetry import Progress, log

__all__ = ["LAST_CLOSE", "TransactionSource", "check"]

LAST_CLOSE: Final = 1.0  # seconds that the end waits for consumers to close


def check(settings: Settings) -> str:
    """Look for the topic that is read.

    :arg settings: Brokers and topic.

    :returns: What was found.

    :raises DependencyError: Which setting to look at.

    """
    return topics.check(settings, settings.kafka_topic)


class TransactionSource(KafkaSource):
    """Transactions from a Kafka topic.

    :arg settings: Brokers, topic, group and start.

    :arg loops: Gives the calling worker's loop, pumped here.

    :arg read_backs: Gives what the calling worker reads back from the error topic.

    :arg claim: Holds a partition's lock before it is read, or raises.

    :arg progress: Told of messages and lag.

    :arg unfinished: What scoring has in hand.

    :arg stop: When requested, every partition ends.

    """

    def __init__(
        self,
        settings: Settings,
        *,
        loops: Callable[[], Loop],
        read_backs: Callable[[], ReadBack],
        claim: Callable[[str], None],
        progress: Progress,
        unfinished: Unfinished,
        stop: Stop,
    ) -> None:
        super().__init__([settings.kafka_bootstrap_servers], [settings.kafka_topic])
        self._settings = settings
        self._topic_id = ""
        self._shared = Shared(loops, read_backs, claim, progress, unfinished, stop, [], [])

    def list_parts(self) -> list[str]:
        """Each Kafka partition is an input partition."""
        self._topic_id = topics.topic_id(self._settings)
        keys = topics.partition_keys(self._settings)
        self._shared.progress.partitions = len(keys)
        return keys

    def build_part(  # type: ignore[override]
        self, step_id: str, for_part: str, resume_state: State | None
    ) -> Partition:
        """See ABC docstring."""
        del step_id
        number = int(for_part.split("-", 1)[0])
        return Partition(
            self._settings, number, resume_state, topic_id=self._topic_id, shared=self._shared
        )

    def commit_ends(self) -> None:
        """Commit the last positions, after the stream has ended in good order."""
        if not self._shared.ended:
            return
        topic = self._settings.kafka_topic
        ends = []
        for partition, read, taken in self._shared.ended:
            offset = self._shared.unfinished.below(partition_key(topic, partition), read)
            ends.append(Mark(self._topic_id, taken).at(topic, partition, offset))
        consumer = Consumer(topics.client(self._settings, committer(self._settings)))
        try:
            consumer.commit(offsets=ends, asynchronous=False)
        except KafkaException as error:
            # Only the lag that others see is too high: the snapshot, or the commit before, counts.
            log.warning("source.commit_failed", error=error.args[0].str())
        finally:
            consumer.close()
        end = time.monotonic() + LAST_CLOSE
        for closing in self._shared.closing:
            closing.join(max(0, end - time.monotonic()))
