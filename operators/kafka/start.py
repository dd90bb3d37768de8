"""Where a partition begins: the snapshot, the group's offset, or `KAFKA_START_AT`.

Before anything is read, every partition has an offset in the group (`begin_group`). A group without
any begins where `KAFKA_START_AT` says. A partition that was added to the topic is new to a group
which has offsets, and begins at its beginning: else its first messages would be skipped.

Snapshot and group both say that everything before an offset is durable, so the later one counts: of
the later takeover, and of one takeover the higher offset. But a group that has only been begun says
nothing, since its offsets may have expired or been deleted. And if somebody has set the group's
offset since, which leaves it without our metadata, that is an operator's wish, and takes precedence
over the snapshot.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from operators.engine.shutdown import Stop
from operators.errors import SourceError, fatal
from operators.kafka.client import CALL_TIMEOUT, ask, client, committer
from operators.kafka.identity import NEW_TOPIC
from operators.kafka.metadata import CommitMetadata, ResumePoint, State
from operators.records import partition_key
from settings import Settings
from telemetry import log

__all__ = ["begin_group", "keeps_metadata", "resume_points"]


def begin_group(settings: Settings, partitions: Iterable[int], topic_id: str, stop: Stop) -> None:
    """Give each partition an offset in the group, where it has none.

    Every worker of a cluster does so before any of them reads: what one commits as it reads cannot
    be taken by another for the offsets of an earlier run.

    :raises SourceError: It cannot be found out.

    """
    topic = settings.kafka_topic
    every = [TopicPartition(topic, number) for number in partitions]
    consumer = Consumer(client(settings, committer(settings)))
    try:
        committed = _committed(consumer, every, stop)
        missing = [at for at in committed if at.offset < 0]
        is_new = len(missing) == len(committed)
        starts = [
            ResumePoint(
                _first(settings, consumer, at, stop, at_beginning=not is_new),
                CommitMetadata(topic_id, begun=True),
            ).commit(topic, at.partition)
            for at in missing
        ]
        if starts:
            _ask(partial(_commit, consumer), starts, stop)
    except KafkaException as error:
        msg = f"{topic}: cannot find where to start: {error.args[0].str()}"
        raise fatal(SourceError(msg)) from None
    finally:
        consumer.close()
    for start in starts:
        if not is_new:
            log.warning("source.new_partition", partition=start.partition, offset=start.offset)


def resume_points(
    consumer: Consumer,
    topic: str,
    states: Mapping[int, State | None],
    topic_id: str,
    stop: Stop,
) -> dict[int, ResumePoint]:
    """Find out where partitions are read on.

    :returns: By partition.

    :raises SourceError: It cannot be known, or the topic is another one.

    """
    wanted = [TopicPartition(topic, number) for number in states]
    try:
        points = {}
        for at in _committed(consumer, wanted, stop):
            point = _resume_point(at, states[at.partition], topic_id)
            # By the clock too, in case that nothing is known of earlier ones.
            generation = max(point.metadata.generation + 1, int(time.time()))
            metadata = point.metadata._replace(generation=generation)
            points[at.partition] = point._replace(metadata=metadata)
        # Now, so that a successor knows what was decided, however short this run is.
        _ask(partial(_commit, consumer), [points[at].commit(topic, at) for at in points], stop)
    except KafkaException as error:
        msg = f"{topic}: cannot find where to start: {error.args[0].str()}"
        raise fatal(SourceError(msg)) from None
    return points


def keeps_metadata(consumer: Consumer, topic: str, partition: int, stop: Stop) -> bool:
    """Whether the broker keeps what our commits carry, as Kafka does."""
    [kept] = _committed(consumer, [TopicPartition(topic, partition)], stop)
    return CommitMetadata.read(kept.metadata) is not None


def _resume_point(committed: TopicPartition, state: State | None, topic_id: str) -> ResumePoint:
    key = partition_key(committed.topic, committed.partition)
    try:
        saved = ResumePoint.read(key, state)
    except SourceError as error:
        raise fatal(error) from None
    metadata = CommitMetadata.read(committed.metadata)
    for known in (saved and saved.metadata, metadata):
        if known and known.topic_id and topic_id and known.topic_id != topic_id:
            raise fatal(SourceError(NEW_TOPIC.format(key=key)))
    if metadata is not None:
        if metadata.begun and saved is not None:
            log.warning("source.begun", partition=committed.partition, snapshot=saved.offset)
            return saved
        known_now = metadata._replace(topic_id=topic_id or metadata.topic_id, begun=False)
        in_group = ResumePoint(committed.offset, known_now)
        return max(
            (saved or in_group, in_group), key=lambda at: (at.metadata.generation, at.offset)
        )
    by_hand = ResumePoint(committed.offset, CommitMetadata(topic_id))
    if saved is None or state is None:
        return by_hand
    if not state["keeps_metadata"] or saved.offset == committed.offset:
        return saved
    log.warning(
        "source.moved",
        partition=committed.partition,
        snapshot=saved.offset,
        offset=committed.offset,
        reason="the group's offset was set by hand",
    )
    generation = saved.metadata.generation
    return by_hand._replace(metadata=by_hand.metadata._replace(generation=generation))


def _first(
    settings: Settings, consumer: Consumer, at: TopicPartition, stop: Stop, *, at_beginning: bool
) -> int:
    start = settings.kafka_start_time()
    if start is not None and not at_beginning:
        wanted = TopicPartition(at.topic, at.partition, int(start.timestamp() * 1000))
        [found] = _ask(consumer.offsets_for_times, [wanted], stop)
        if found.offset >= 0:
            return int(found.offset)
    low, high = _ask(consumer.get_watermark_offsets, at, stop)
    return int(low if at_beginning or settings.kafka_start_at == "earliest" else high)


def _committed(
    consumer: Consumer, wanted: list[TopicPartition], stop: Stop
) -> list[TopicPartition]:
    found: list[TopicPartition] = _ask(consumer.committed, wanted, stop)
    for at in found:
        if at.error is not None:  # else it would look as if there was no offset
            raise KafkaException(at.error)
    return found


def _ask(question: Callable[..., Any], about: Any, stop: Stop) -> Any:
    return ask(lambda: question(about, timeout=CALL_TIMEOUT), give_up=lambda: stop.requested)


def _commit(consumer: Consumer, offsets: list[TopicPartition], *, timeout: float) -> None:
    del timeout  # librdkafka's own
    consumer.commit(offsets=offsets, asynchronous=False)
