"""What the audit reads of topics and tables: gaps, markers, open transactions; and how little."""

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import psycopg
import pytest
from confluent_kafka import Message, Producer
from psycopg import sql

import operators.kafka.topic_reader
import ops.audit.letters
import ops.audit.tables
import ops.audit.topic
from lab.servers import ApacheKafka
from operators.kafka.topic_reader import TopicReader, is_end
from ops.audit.spans import Span
from ops.audit.tables import SPANS
from ops.audit.topic import Topic
from tests.integration.audit.world import World
from tests.kit.environment import settings_of
from tests.kit.kafka import committed
from tests.kit.postgres import query

SEED = 4711


def test_a_topic_without_gaps_is_not_read(healthy: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its length costs nothing as long as the stores know every offset."""
    looked: list[Span] = []

    def look(_topic: Topic, _partition: int, gaps: Iterable[Span]) -> Iterator[Any]:
        looked.extend(gaps)
        return iter(())

    monkeypatch.setattr(Topic, "look", look)
    assert healthy.audited().status == 0
    assert looked == []


@pytest.mark.apache_kafka
def test_offsets_of_markers_and_aborted_messages_are_no_loss(
    world: World, apache_kafka: ApacheKafka
) -> None:
    """They hold no record for the stream; a message among them that is missing is found."""
    producer = Producer(
        {**apache_kafka.client_settings, "transactional.id": f"audit-{world.topics.group}"}
    )
    producer.init_transactions(20)
    offsets: list[int] = []

    def delivered(_error: Any, sent: Any) -> None:
        offsets.append(sent.offset())

    for number in range(6):
        producer.begin_transaction()
        for _ in range(3):
            told: Callable[[Any, Any], None] | None = None if number % 2 else delivered
            producer.produce(world.topics.transactions, b"{}", partition=0, on_delivery=told)
        producer.flush(10)
        (producer.abort_transaction if number % 2 else producer.commit_transaction)(20)
    end = 6 * 4
    assert len(offsets) == 9
    world.store(offsets)
    world.commit(end)
    result = world.audited()
    assert result.status == 0
    assert result.total == {"settled": 9, "stored": 9, "no_record": end - 9}

    lost = offsets[4]
    query(world.database_url, "DELETE FROM transactions WHERE source_offset = %s", lost)
    result = world.audited()
    assert result.partition()["missing_at"] == [{"first": lost, "last": lost}]
    assert result.total["no_record"] == end - 9

    # One by one: a record that comes for a gap before its own is kept until that is looked at.
    with TopicReader(
        settings_of(world.variables), world.topics.transactions, reset="error"
    ) as reader:
        gaps = [Span(at, at) for at in range(end)]
        found = list(Topic(settings_of(world.variables), reader).look(0, gaps))
    assert found == [("record", Span(at, at)) for at in offsets]


@pytest.mark.apache_kafka
def test_an_open_transaction_is_not_waited_for(world: World, apache_kafka: ApacheKafka) -> None:
    """The stream cannot read it yet, so for the audit too the topic ends before it."""
    producer = Producer(
        {**apache_kafka.client_settings, "transactional.id": f"audit-{world.topics.group}"}
    )
    world.send(3)
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(world.topics.transactions, b"{}", partition=0)
    producer.flush(10)
    world.store([0, 2])
    world.commit(3)
    assert world.audited().total == {"settled": 2, "stored": 2, "missing": 1}
    producer.abort_transaction(20)


@pytest.mark.apache_kafka
def test_dead_letters_behind_an_open_transaction_are_not_missing(
    world: World, apache_kafka: ApacheKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are committed, and are seen when the other transaction ends: that is waited for."""
    producer = Producer(
        {**apache_kafka.client_settings, "transactional.id": f"audit-{world.topics.group}"}
    )
    producer.init_transactions(20)
    producer.begin_transaction()
    for number in range(4):
        producer.produce(world.topics.failed, b"{}", partition=number)
    producer.flush(10)
    world.send(3)
    world.bury(0, 1, 2)
    world.commit(3)
    waiting = iter([True])

    def take_until_it_ends(reader: TopicReader) -> list[Message]:
        taken = take(reader)
        if any(map(is_end, taken)) and next(waiting, False):
            producer.abort_transaction(20)
        return taken

    take = TopicReader.take
    monkeypatch.setattr(TopicReader, "take", take_until_it_ends)
    assert world.audited().total == {"settled": 3, "dead_letters": 3}


def test_gaps_are_found_however_far_apart(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slice by slice, and in one go or by jumps."""
    lost = {0, 1, 7, 8, 30, 31, 32, 60, 118, 119, 199}
    world.send(200)
    world.store(set(range(200)) - lost)
    world.commit(200)
    for far, piece in ((0, 1), (25, 7), (10_000, 100_000)):
        monkeypatch.setattr(ops.audit.topic, "FAR", far)
        monkeypatch.setattr(ops.audit.tables, "SLICE", piece)
        named = world.audited("--limit", "100").partition()["missing_at"]
        found = {at for span in named for at in range(span["first"], span["last"] + 1)}
        assert found == lost, (far, piece)


@pytest.mark.parametrize("far", [0, 5, 25, 10_000])
@pytest.mark.parametrize("at_once", [1, 7, 1_000])
def test_what_is_in_a_gap_is_told_once(
    world: World, monkeypatch: pytest.MonkeyPatch, far: int, at_once: int
) -> None:
    """Wherever reading and jumping begin and end, also in gaps that follow each other."""
    monkeypatch.setattr(ops.audit.topic, "FAR", far)
    monkeypatch.setattr(operators.kafka.topic_reader, "AT_ONCE", at_once)
    print("seed", SEED)  # noqa: T201 - to repeat it
    rng = random.Random(SEED)  # noqa: S311 - chance that can be repeated
    world.send(300)
    settings = settings_of(world.variables)
    with TopicReader(settings, world.topics.transactions, reset="error") as reader:
        for _ in range(5):
            wanted = set(rng.sample(range(300), 20)) | {*range(100, 110), *range(200, 230)}
            gaps = [Span(at, at) for at in sorted(wanted - {105, 106, 107})]
            gaps = sorted([*gaps, Span(105, 107)])
            found = list(Topic(settings, reader).look(0, gaps))
            assert found == [("record", Span(at, at)) for at in sorted(wanted)]


def test_the_error_topic_is_read_to_its_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the last batch is a large one too, of which some brokers count only one record."""
    monkeypatch.setattr(operators.kafka.topic_reader, "AT_ONCE", 1)
    world.send(50)
    last = 3 if world.broker.keeps_data else 0  # the embedded broker has no others
    world.bury(*range(50), record_partition=last)
    world.commit(50)
    assert world.audited().total == {"settled": 50, "dead_letters": 50}


def test_it_commits_nothing(world: World) -> None:
    """The stream's offsets are as before, though it reads under the group's name."""
    world.send(5)
    world.store(range(3))
    world.commit(4)
    assert world.audited().total["missing"] == 1
    assert committed(world.broker, world.topics) == {0: 4}


def test_slices_are_read_from_the_index_alone(world: World) -> None:
    """However large the tables are: no table is read, nothing is sorted."""
    for table in ("transactions", "duplicates"):
        for number in range(4):
            world.store(range(5_000), number, table=table)
        with psycopg.connect(world.database_url, autocommit=True) as connection:
            connection.execute(sql.SQL("VACUUM ANALYZE {}").format(sql.Identifier(table)))
            statement = sql.SQL("EXPLAIN {}").format(SPANS.format(table=sql.Identifier(table)))
            values = [world.topics.transactions, 1, 2_000, 1_000]
            plan = "\n".join(line for (line,) in connection.execute(statement, values))
        assert "Index Only Scan" in plan
        assert "Seq Scan" not in plan
        scan = plan.partition("Index Only Scan")[2]
        assert "source_offset >=" in scan
        assert "Sort" not in plan.partition("WindowAgg")[2]
