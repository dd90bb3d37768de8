"""What was placed before a takeover is not placed again."""

from threading import Timer

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from lab.servers import ApacheKafka, KafkaServer
from operators.kafka.metadata import LettersPosition
from tests.kit.kafka import Topics, read_all
from tests.kit.letters import PARTITION, Writing, ids


@pytest.fixture
def writing(broker: KafkaServer, topics: Topics) -> Writing:
    """Writers to the test's own error topic, one after the other."""
    return Writing(broker, topics)


def test_after_a_restart_a_failure_is_not_written_twice(writing: Writing) -> None:
    """What is there is left out and is done, what is not there is written."""
    writing.write(*writing.failures(1, 2))
    successor = writing.take_over(offset=1)
    tracker, failures = writing.tracked(1, 2, 3, horizon=4)
    assert [successor.has(each.message) for each in failures] == [True, True, False]
    writing.write(*failures, by=successor)
    assert tracker.done == 4
    assert writing.offsets() == [1, 2, 3]


def test_another_partition_topic_or_group_is_another_message(writing: Writing) -> None:
    """Only the same position of the same stream is the same message."""
    writing.write(*writing.failures(1, partition=2))
    writing.write(*writing.failures(1, topic="another"))
    stranger = writing.writer_of(KAFKA_CONSUMER_GROUP=f"{writing.topics.group}-2")
    writing.write(*writing.failures(1), by=stranger)
    writing.write(*writing.failures(1), by=writing.take_over())
    assert len(writing.offsets()) == 4


def test_the_whole_topic_is_read_where_no_position_is_known(writing: Writing) -> None:
    """Also partitions in which a dead letter of this one should not be: of version 0.1.0."""
    writing.write(*writing.failures(5))
    elsewhere = writing.take_over(letters=LettersPosition(3, 0))
    writing.write(*writing.failures(6), by=elsewhere)
    successor = writing.take_over(offset=5)
    writing.write(*writing.failures(5, 6), by=successor)
    assert writing.offsets() == [5, 6]


def test_a_known_position_spares_what_is_before_it(writing: Writing) -> None:
    """Dead letters before it are of messages that are done: they are not looked at."""
    writing.write(*writing.failures(1, 2))
    writing.write(*writing.failures(3))
    at = writing.writer.position(PARTITION, 3)
    assert at is not None
    successor = writing.take_over(offset=1, letters=at)
    known = [successor.has(each.message) for each in writing.failures(1, 2, 3)]
    assert known == [False, False, True]


def test_a_position_moves_with_what_is_done(writing: Writing) -> None:
    """To the first dead letter that a successor may meet again, or behind the last."""
    writing.take_over(writing.writer)
    first = writing.writer.position(PARTITION, 0)
    writing.write(*writing.failures(1))
    writing.write(*writing.failures(2))
    assert writing.writer.position(PARTITION, 1) == first
    behind_one = writing.writer.position(PARTITION, 2)
    behind_all = writing.writer.position(PARTITION, 3)
    assert first is not None
    assert behind_one is not None
    assert behind_all is not None
    assert first < behind_one < behind_all
    successor = writing.take_over(offset=2, letters=behind_one)
    assert successor.has(writing.failure(offset=2).message)
    assert successor.position(PARTITION, 2) == behind_one


def test_what_has_a_row_is_not_written(writing: Writing) -> None:
    """A predecessor stored it: its offset is before the end that was seen at the takeover."""
    asked: list[list[int]] = []

    async def is_stored(partition: int, offsets: list[int]) -> set[int]:
        assert partition == PARTITION
        asked.append(offsets)
        return {2}

    by = writing.take_over(writing.writer_of(is_stored=is_stored))
    tracker, failures = writing.tracked(1, 2, 3, 4, horizon=4)
    writing.write(*failures, by=by)
    assert asked == [[1, 2, 3]]
    assert tracker.done == 5
    assert writing.offsets() == [1, 3, 4]


@pytest.mark.apache_kafka
def test_what_an_open_transaction_hides_is_waited_for(
    writing: Writing, apache_kafka: ApacheKafka
) -> None:
    """Another process may have begun one and be gone; behind it there are committed records."""
    other = Producer({**apache_kafka.client_settings, "transactional.id": writing.topics.group})
    other.init_transactions(10)
    other.begin_transaction()
    for number in range(4):
        other.produce(writing.topics.failed, b"{}", partition=number)
    other.flush(10)
    writing.write(*writing.failures(1))
    Timer(3, other.abort_transaction, [10]).start()
    writing.write(*writing.failures(1, 2), by=writing.take_over())
    topic = writing.topics.transactions
    found = read_all(apache_kafka, writing.topics.failed, at_least=2)
    assert ids(found) == [f"{topic}-1-1", f"{topic}-1-2"]


@pytest.mark.apache_kafka
def test_what_retention_removed_is_passed(writing: Writing, apache_kafka: ApacheKafka) -> None:
    """The position may lie before what the error topic still holds."""
    writing.write(*writing.failures(1))
    writing.write(*writing.failures(2))
    behind_one = writing.writer.position(PARTITION, 2)
    assert behind_one is not None
    admin = AdminClient(apache_kafka.client_settings)
    at = TopicPartition(writing.topics.failed, *behind_one)
    for answer in admin.delete_records([at]).values():
        answer.result(10)
    successor = writing.take_over(offset=1, letters=behind_one._replace(offset=0))
    assert [successor.has(each.message) for each in writing.failures(1, 2)] == [False, True]
