"""What retention has removed is not judged."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from lab.servers import ApacheKafka, KafkaServer
from ops.audit.spans import Span
from ops.audit.topic import Topic
from tests.integration.audit.world import World


def delete_before(kafka: KafkaServer, topic: str, offset: int) -> None:
    """Remove what is before an offset, as retention would."""
    admin = AdminClient(kafka.client_settings)
    for answer in admin.delete_records([TopicPartition(topic, 0, offset)]).values():
        answer.result(10)


@pytest.mark.apache_kafka
def test_gaps_below_the_log_start_are_told_and_not_judged(
    world: World, apache_kafka: ApacheKafka
) -> None:
    """From the lowest offset that a store knows; a gap after the log start is judged."""
    world.send(20)
    world.store([3, 4, 7, *range(9, 20)])
    world.commit(20)
    delete_before(apache_kafka, world.topics.transactions, 8)
    result = world.audited()
    assert result.status == 1
    assert result.partition()["from"] == 3
    assert result.total == {"settled": 14, "stored": 14, "missing": 1, "gone": 2}
    assert result.partition()["missing_at"] == [{"first": 8, "last": 8}]

    world.store([8])
    assert world.audited().status == 0
    last = world.audit().output.splitlines()[-1]
    assert last == "Not judged: 2 offsets that have expired in the topic and are in no store."


@pytest.mark.apache_kafka
def test_messages_that_expired_before_they_were_consumed_are_gone(
    world: World, apache_kafka: ApacheKafka
) -> None:
    """Between the committed offset and the log start; they are not in progress any more."""
    world.send(20)
    world.store(range(5))
    world.commit(5)
    delete_before(apache_kafka, world.topics.transactions, 12)
    result = world.audited()
    assert result.status == 0
    assert result.total == {"settled": 5, "stored": 5, "gone": 7, "in_progress": 8}


@pytest.mark.apache_kafka
def test_a_log_that_began_later_than_the_stream_has_nothing_gone(
    world: World, apache_kafka: ApacheKafka
) -> None:
    """What nobody knows of below the log start was perhaps never there."""
    world.send(10)
    delete_before(apache_kafka, world.topics.transactions, 4)
    world.store(range(4, 10))
    world.commit(10)
    result = world.audited()
    assert result.partition()["from"] == 4
    assert result.total == {"settled": 6, "stored": 6}


@pytest.mark.apache_kafka
def test_what_expires_while_it_is_looked_for_is_gone(
    world: World, apache_kafka: ApacheKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention does not wait for the audit: no error, and nothing is skipped."""
    world.send(40)
    world.store({*range(40)} - {5, 6, 9, 11, 12, 30})
    world.commit(40)
    wait = world.topics.transactions
    look = Topic.look

    def late(topic: Topic, partition: int, gaps: Iterable[Span]) -> Iterator[Any]:
        if partition == 0:
            delete_before(apache_kafka, wait, 12)
        return look(topic, partition, gaps)

    monkeypatch.setattr(Topic, "look", late)
    result = world.audited()
    assert result.total == {"settled": 34, "stored": 34, "missing": 2, "gone": 4}
    named = result.partition()["missing_at"]
    assert named == [{"first": 12, "last": 12}, {"first": 30, "last": 30}]
