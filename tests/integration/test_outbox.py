"""Failures on their way to the error topic: when they are written, and that each is, once."""

import asyncio
from collections.abc import Callable, Iterable
from datetime import timedelta
from threading import Event, Timer
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from structlog.testing import capture_logs

from lab.servers import ApacheKafka, KafkaServer, wait_until
from operators.dead_letters import outbox, writer
from operators.dead_letters.producer import DeadLetter, TransactionalProducer
from operators.errors import DeliveryError
from operators.records import partition_key
from tests.kit.kafka import Topics, header, read_all
from tests.kit.letters import PARTITION, Writing, noise

LONG = timedelta(seconds=30)


@pytest.fixture
def writing(broker: KafkaServer, topics: Topics) -> Writing:
    """A writer to the test's own error topic."""
    return Writing(broker, topics)


def test_what_is_written_is_counted_when_it_is_committed(writing: Writing) -> None:
    """Each once, however many there are."""
    writing.write(*writing.failures(*range(1_200)))
    assert writing.progress.totals()["failed"] == 1_200
    assert writing.offsets() == list(range(1_200))


def test_few_failures_are_written_after_a_moment(writing: Writing) -> None:
    """While the worker's loop is pumped; nobody has to ask for it."""
    writing.writer.put(writing.failures(0))
    assert not writing.writer.is_idle

    def is_written() -> bool:
        writing.loop.pump()
        return writing.writer.is_idle

    wait_until(is_written, LONG, what="the record")
    assert writing.offsets() == [0]


def test_a_message_is_done_when_its_transaction_is_committed(writing: Writing) -> None:
    """Not when it is taken."""
    tracker, failures = writing.tracked(3, 4, 5, horizon=0)
    writing.writer.put(failures)
    assert (tracker.done, tracker.in_hand.messages) == (3, 3)
    writing.flush()
    assert (tracker.done, tracker.in_hand.messages) == (6, 0)
    assert writing.offsets() == [3, 4, 5]


def test_a_full_queue_of_the_client_drops_nothing(writing: Writing) -> None:
    """What does not fit waits."""
    by = writing.writer_of(KAFKA_PROPERTIES='{"queue.buffering.max.messages": 10}')
    writing.write(*writing.failures(*range(200)), by=by)
    assert writing.offsets() == list(range(200))


def test_a_broker_that_hangs_holds_nobody_up(
    writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in flight waits for it and is said to; when it goes on everything is there."""
    monkeypatch.setattr(writer, "WARN_EVERY", 0.0)
    writing.write(*writing.failures(0))
    writing.broker.pause()
    writing.writer.put(writing.failures(1))
    writing.writer.flush_soon()
    with capture_logs() as lines:

        def is_told() -> bool:
            writing.loop.pump()
            writing.writer.tick()
            return any(line["event"] == "dead_letters.waiting" for line in lines)

        wait_until(is_told, LONG, what="a warning")
    assert writing.progress.totals()["failed"] == 1
    writing.broker.resume()
    writing.flush()
    assert writing.offsets() == [0, 1]


def test_a_topic_that_is_not_there_is_named(writing: Writing) -> None:
    """It is not worth waiting for."""
    with pytest.raises(DeliveryError, match=r"^KAFKA_ERROR_TOPIC: there is no topic nowhere"):
        writing.writer_of(KAFKA_ERROR_TOPIC="nowhere").put(writing.failures(0))


def test_the_locks_are_looked_at_before_a_new_producer_writes(writing: Writing) -> None:
    """It fences others: a process whose partition was taken over must not gain by that."""
    writing.write(*writing.failures(0))
    writing.write(*writing.failures(1))
    assert writing.confirmed == 1

    async def refuse() -> None:
        msg = "taken over"
        raise LookupError(msg)

    other = writing.writer_of()
    other._confirm = refuse  # noqa: SLF001 - what a session would say
    with pytest.raises(LookupError):
        writing.write(*writing.failures(2), by=other)
    assert writing.offsets() == [0, 1]


def test_producers_that_are_not_used_are_closed(
    writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And opened again when they are."""
    writing.write(*writing.failures(0))
    writing.writer.tick()
    writing.write(*writing.failures(1))
    assert writing.confirmed == 1
    monkeypatch.setattr(writer, "CLOSE_AFTER", 0.0)
    writing.writer.tick()
    writing.write(*writing.failures(2))
    assert writing.confirmed == 2


def test_a_zombie_writes_nothing_once_it_has_a_successor(writing: Writing) -> None:
    """What waits in a process that was frozen does not follow what its successor wrote."""
    zombie = writing.writer
    writing.write(*writing.failures(0), by=zombie)
    zombie.put(writing.failures(1))
    successor = writing.take_over()
    writing.write(*writing.failures(1, 2), by=successor)
    expected = f"cannot write to {writing.topics.failed}: another process has taken {PARTITION}-"
    with pytest.raises(DeliveryError, match=expected):
        writing.flush(zombie)
    assert writing.offsets() == [0, 1, 2]


@pytest.mark.apache_kafka
def test_what_a_zombie_has_sent_and_not_committed_is_aborted(
    writing: Writing, apache_kafka: ApacheKafka
) -> None:
    """Its records are in the topic, and are never seen by those who read committed ones."""
    key = partition_key(writing.topics.transactions, PARTITION)
    zombie = TransactionalProducer(writing.settings(), key, PARTITION)
    zombie.open(timedelta(seconds=10))
    commit, frozen = zombie._finish, Event()  # noqa: SLF001 - to hold it before its last step

    async def held(call: Callable[[float], Any]) -> None:
        await zombie._deliver()  # noqa: SLF001 - the records, to the topic
        await asyncio.to_thread(frozen.wait)
        await commit(call)

    zombie._finish = held  # type: ignore[method-assign]  # noqa: SLF001
    letter = DeadLetter(writing.failure(offset=0), writing.topics.group)
    task = writing.loop.spawn(zombie.send([letter]))

    def is_there() -> bool:
        writing.loop.wait_any([task], 0.1)
        return sum(apache_kafka.ends(writing.topics.failed).values()) > 0

    wait_until(is_there, LONG, what="the record")
    successor = writing.take_over()
    writing.write(*writing.failures(0), by=successor)
    frozen.set()
    with pytest.raises(KafkaException, match="fenced"):
        writing.loop.run(asyncio.wait_for(task, 10))
    assert writing.offsets() == [0]


class Unsure(TransactionalProducer):
    """Its first transaction fails for a reason that an abort mends."""

    has_failed = False

    async def send(self, letters: Iterable[DeadLetter], *, alone: bool = False) -> None:
        """Fail, then write."""
        if not Unsure.has_failed:
            Unsure.has_failed = True
            self._producer.begin_transaction()
            error = KafkaError(KafkaError._TIMED_OUT, "gone", txn_requires_abort=True)  # noqa: SLF001 - librdkafka's own begin so
            raise KafkaException(error)
        await super().send(letters, alone=alone)


def test_a_transaction_that_has_to_be_aborted_is_written_again(
    writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same records, and that is told."""
    monkeypatch.setattr(outbox, "TransactionalProducer", Unsure)
    monkeypatch.setattr(Unsure, "has_failed", False)
    with capture_logs() as lines:
        writing.write(*writing.failures(1, 2))
    assert [line["event"] for line in lines] == ["dead_letters.retry"]
    assert writing.offsets() == [1, 2]


@pytest.mark.apache_kafka
def test_after_the_brokers_restart_everything_is_there_once(
    writing: Writing, apache_kafka: ApacheKafka
) -> None:
    """What was not acknowledged when it was killed is sent again."""
    failures = [writing.failure(noise(2_000), offset=number) for number in range(2_000)]
    writing.write(failures[0])
    writing.writer.put(failures[1:])
    writing.loop.rest(0.1)
    apache_kafka.kill()
    apache_kafka.start()
    writing.flush()
    assert writing.offsets() == list(range(2_000))


@pytest.mark.apache_kafka
def test_what_is_sent_again_is_no_second_copy(writing: Writing) -> None:
    """A broker that hangs past the time limit of a request has both in the end, and keeps one."""
    limits = '{"socket.timeout.ms": 500, "request.timeout.ms": 500, "retry.backoff.ms": 50}'
    by = writing.writer_of(KAFKA_PROPERTIES=limits)
    writing.write(*writing.failures(0), by=by)
    writing.broker.pause()
    Timer(2, writing.broker.resume).start()
    writing.write(*writing.failures(*range(1, 50)), by=by)
    found = read_all(writing.broker, writing.topics.failed, at_least=50)
    assert sorted(int(header(each, "dlq.offset") or -1) for each in found) == list(range(50))
