"""What the error topic holds already is not written again."""

import asyncio
import pickle
import time
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from threading import Timer

import pytest
from bytewax.testing import TestingSink, TestingSource
from confluent_kafka import KafkaError, KafkaException, Producer

import operators.dead_letters.writer
from dataflow import build
from lab.servers import ApacheKafka, KafkaServer, ModelApi
from operators.dead_letters.already_written import ReadBack
from operators.dead_letters.envelope import seal
from operators.dead_letters.producer import FencedProducer, Letter
from operators.dead_letters.writer import DeadLetterWriter
from operators.engine.loop import Loop
from operators.engine.routing import lane_of
from operators.engine.shutdown import Stop
from operators.kafka.client import spans
from operators.records import Failure, Scored
from telemetry import Progress
from tests import factories
from tests.support import (
    Topics,
    environment,
    header,
    leave_state,
    make_recovery,
    read_all,
    run_in_process,
    settings_of,
)

KEY = "0-{}"


class Writing:
    """One run of the stream after the other, as its error topic sees it."""

    def __init__(self, broker: KafkaServer, topics: Topics) -> None:
        self.broker, self.topics = broker, topics
        self.settings = settings_of(
            environment(
                broker, topics, database_url="postgresql://unused", model_url="http://unused"
            )
        )

    def failure(
        self, offset: int, *, partition: int = 0, topic: str | None = None, restored: bool = False
    ) -> Failure:
        """Make a failure of a message."""
        of = factories.message(
            topic=topic or self.topics.transactions,
            partition=partition,
            offset=offset,
            restored=restored,
        )
        return factories.failure(of=of)

    def run(
        self,
        *failures: Failure,
        resumed: int | tuple[int, ...] | None = 0,
        begins: int | None = None,
    ) -> None:
        """Write failures as a process that was started anew; resumed says since when.

        One time, or one for each partition from 0 on. Where partition 0 begins to read is known
        only to a run that has read positions.
        """
        read_back = ReadBack(self.settings)
        if begins is not None:
            read_back.begin(f"0-{self.topics.transactions}", begins)
        for number, since in enumerate((resumed,) if isinstance(resumed, int) else resumed or ()):
            read_back.resume(f"{number}-{self.topics.transactions}", since)
        writer = DeadLetterWriter(
            self.settings,
            loop=Loop(),
            read_back=read_back,
            progress=Progress(),
            stop=Stop(timedelta(seconds=5)),
        )
        writer.write(failures)
        writer.flush()

    def records(self) -> list[str | None]:
        """Ids of what is in the error topic."""
        found = read_all(self.broker, self.topics.failed)
        return sorted(header(record, "dlq.id") or "" for record in found)  # type: ignore[return-value]


@pytest.fixture
def writing(broker: KafkaServer, topics: Topics) -> Writing:
    """Runs with topics of the test's own."""
    return Writing(broker, topics)


def test_after_a_restart_a_failure_is_not_written_twice(writing: Writing) -> None:
    """What is there is left out, what is not there is written."""
    writing.run(writing.failure(1), writing.failure(2), resumed=None)
    writing.run(writing.failure(2), writing.failure(3))
    topic = writing.topics.transactions
    assert writing.records() == [f"{topic}-0-1", f"{topic}-0-2", f"{topic}-0-3"]


def test_another_partition_or_topic_is_another_message(writing: Writing) -> None:
    """Only the same position is the same message."""
    writing.run(writing.failure(1, partition=1), writing.failure(2, topic="another"), resumed=None)
    writing.run(writing.failure(1), writing.failure(2))
    assert len(writing.records()) == 4


def test_a_stream_that_begins_reads_nothing_back(writing: Writing) -> None:
    """A group without offsets writes dead letters of its own."""
    writing.run(writing.failure(1), resumed=None)
    writing.run(writing.failure(1), resumed=None)
    assert len(writing.records()) == 2


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
    writing.run(writing.failure(1), resumed=None)
    with pytest.raises(TimeoutError, match="0 messages, the end of 0 of 4 partitions"):
        read_all(apache_kafka, writing.topics.failed, limit=timedelta(seconds=2))
    Timer(4, other.abort_transaction, [10]).start()
    writing.run(writing.failure(1), writing.failure(2))
    topic = writing.topics.transactions
    assert writing.records() == [f"{topic}-0-1", f"{topic}-0-2"]


@pytest.mark.apache_kafka
def test_a_look_begins_before_what_is_not_yet_marked_as_committed(
    writing: Writing, apache_kafka: ApacheKafka
) -> None:
    """The broker does that after a commit; by time, nobody else is told of such a record."""
    other = Producer({**apache_kafka.client_settings, "transactional.id": writing.topics.group})
    other.init_transactions(10)
    other.begin_transaction()
    before = round(time.time() * 1000)
    other.produce(writing.topics.failed, b"{}", partition=1)
    assert other.flush(10) == 0
    found = spans(writing.settings, writing.topics.failed, before - 1_000, timeout=10)
    assert found == {0: (0, 0), 1: (0, 1), 2: (0, 0), 3: (0, 0)}
    late = spans(writing.settings, writing.topics.failed, before + 600_000, timeout=10)
    assert late[1] == (1, 1)
    other.abort_transaction(10)


@pytest.mark.apache_kafka
def test_clocks_may_differ(writing: Writing) -> None:
    """A record counts that the broker dates before the position, by less than five minutes."""
    writing.run(writing.failure(1), resumed=None)
    soon = round(time.time() * 1000) + 120_000
    writing.run(writing.failure(1), resumed=soon)
    assert len(writing.records()) == 1


@pytest.mark.apache_kafka
def test_the_earliest_position_of_all_partitions_counts(writing: Writing) -> None:
    """A worker reads the topic once for all that it has."""
    writing.run(writing.failure(1), resumed=None)
    far_ahead = 4_000_000_000_000
    for since in ((0, far_ahead), (far_ahead, 0)):
        writing.run(writing.failure(1), resumed=since)
    assert len(writing.records()) == 1


@pytest.mark.apache_kafka
def test_only_what_is_newer_than_the_position_is_read(writing: Writing) -> None:
    """What was written long before the position was taken cannot be of messages after it."""
    writing.run(writing.failure(1), resumed=None)
    far_ahead = 4_000_000_000_000
    writing.run(writing.failure(1), resumed=far_ahead)
    assert len(writing.records()) == 2


class Unsure(FencedProducer):
    """Its first commit goes well, and is told to have failed."""

    told = False

    async def send(self, letters: Iterable[Letter], *, alone: bool = False) -> None:
        """Write, and say otherwise."""
        await super().send(letters, alone=alone)
        if not self.told:
            self.told = True
            error = KafkaError(KafkaError._TIMED_OUT, "gone", txn_requires_abort=True)  # noqa: SLF001 - librdkafka's own begin so
            raise KafkaException(error)

    async def abort(self) -> None:
        """Leave what is committed."""


def test_what_a_failed_transaction_has_committed_is_not_written_again(
    writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every broker hides what was aborted, and an answer may be lost."""
    monkeypatch.setattr(operators.dead_letters.writer, "FencedProducer", Unsure)
    writing.run(writing.failure(1), writing.failure(2))
    topic = writing.topics.transactions
    assert writing.records() == [f"{topic}-0-1", f"{topic}-0-2"]


@pytest.mark.apache_kafka
def test_what_was_known_stays_known_when_the_topic_is_read_once_more(writing: Writing) -> None:
    """The second look begins later than the first."""
    hour_ago = round(time.time() * 1000) - 3_600_000
    key, value, headers = seal(writing.failure(1))
    producer = Producer(writing.broker.client_settings)
    producer.produce(writing.topics.failed, value, key, headers=list(headers), timestamp=hour_ago)
    assert producer.flush(10) == 0
    read_back, message = ReadBack(writing.settings), writing.failure(1).message
    read_back.resume(message.partition_key, 0)
    asyncio.run(read_back.read())
    assert read_back.has(message)
    read_back.again(round(time.time() * 1000))
    assert not read_back.has(message)
    asyncio.run(read_back.read())
    assert read_back.has(message)


def test_a_restored_message_is_left_to_the_partition_that_reads_it_again(writing: Writing) -> None:
    """Whichever comes first, and those that the partition does not read are written."""
    copies = [writing.failure(number, restored=True) for number in (1, 2, 3)]
    writing.run(*copies, writing.failure(2), writing.failure(3), copies[2], begins=2)
    topic = writing.topics.transactions
    assert writing.records() == [f"{topic}-0-1", f"{topic}-0-2", f"{topic}-0-3"]


def test_a_message_that_two_lanes_restore_is_written_once(writing: Writing) -> None:
    """A lane of another number of workers may have held it as well, in an older state."""
    copies = [writing.failure(number, restored=True) for number in (1, 2, 1)]
    writing.run(*copies, writing.failure(1, partition=1, restored=True), begins=9)
    topic = writing.topics.transactions
    assert writing.records() == [f"{topic}-0-1", f"{topic}-0-2", f"{topic}-1-1"]


def test_a_restored_message_that_has_failed_already_is_not_scored_again(
    writing: Writing, model_api: ModelApi, tmp_path: Path
) -> None:
    """A killed run may leave its state in an epoch that did not count, and it is restored later."""
    topic = writing.topics.transactions
    messages = [
        factories.message(
            value=factories.transaction_json(id=offset), topic=topic, partition=0, offset=offset
        )
        for offset in (1, 2)
    ]
    stored: list[tuple[str, Scored]] = []
    settings = writing.settings.model_copy(update={"ml_api_url": model_api.url})
    recovery = make_recovery(tmp_path)

    def run() -> None:
        flow = build(settings, source=TestingSource([]), stored=TestingSink(stored))
        run_in_process(flow, recovery=recovery)

    run()
    lane = lane_of(2, 3)  # there is one worker now, and its lane has another key
    state = {"version": 1, "lane": lane, "taken": 0, "messages": [tuple(it) for it in messages]}
    leave_state(next(recovery.glob("part-*.sqlite3")), lane, 1, pickle.dumps(state))
    writing.run(writing.failure(1), resumed=None)
    run()
    assert [item.message.offset for _, item in stored] == [2]
    assert writing.records() == [f"{topic}-0-1"]
