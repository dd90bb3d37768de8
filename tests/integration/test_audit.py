"""The audit against broker and database: what adds up, what differs, what cannot be looked at."""

import itertools
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread, Timer
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import typer
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql
from typer.testing import CliRunner

import ops.audit.letters
import ops.audit.reader
import ops.audit.tables
import ops.audit.topic
from lab.sample import transactions
from lab.servers import ApacheKafka, KafkaServer, ModelApi, Postgres, free_port
from operators.dead_letters.envelope import seal
from ops.audit import audit
from ops.audit.letters import Letters
from ops.audit.reader import Reader
from ops.audit.spans import Span, sweep
from ops.audit.tables import SPANS, Tables
from ops.audit.topic import Topic
from settings import Settings
from tests.factories import failure, message
from tests.support import (
    Flow,
    Outgoing,
    Topics,
    committed,
    environment,
    make_recovery,
    produce,
    query,
    recovery_options,
    settings_of,
    wait_until,
)

SEED = 4711
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
INSERT = {
    "transactions": """
        INSERT INTO transactions (id, description, amount, "timestamp", operation_type, side,
                                  source_topic, source_partition, source_offset)
        SELECT gen_random_uuid(), 'order', 1, now(), 'PURCHASE', 'DEBIT', %s, %s, unnest(%s::int8[])
    """,
    "duplicates": """
        INSERT INTO duplicates (transaction_id, source_topic, source_partition, source_offset)
        SELECT gen_random_uuid(), %s, %s, unnest(%s::int8[])
    """,
}
app = typer.Typer()
app.command()(audit)


@dataclass(frozen=True)
class Result:
    """What a run of the command came to."""

    status: int
    output: str
    errors: list[str]

    @property
    def found(self) -> dict[str, Any]:
        """What `--json` printed."""
        parsed = json.loads(self.output)
        assert isinstance(parsed, dict)
        return parsed

    @property
    def total(self) -> dict[str, int]:
        """The figures of all partitions together, those that are 0 left out."""
        return {name: figure for name, figure in self.found["total"].items() if figure}

    def partition(self, number: int = 0) -> dict[str, Any]:
        """What was found of a partition."""
        found = self.found["partitions"][number]
        assert found["partition"] == number
        return dict(found)


class World:
    """The stores of a stream, written to as the stream would, or as it never should."""

    def __init__(self, broker: KafkaServer, topics: Topics, database_url: str) -> None:
        self.broker, self.topics, self.database_url = broker, topics, database_url
        self.variables = environment(
            broker, topics, database_url=database_url, model_url="http://unused"
        )

    def send(self, count: int, partition: int = 0) -> None:
        """Send messages to the topic that is read."""
        values = [Outgoing(b"{}", partition=partition) for _ in range(count)]
        produce(self.broker, self.topics.transactions, values)

    def store(
        self,
        offsets: Iterable[int],
        partition: int = 0,
        *,
        table: str = "transactions",
        topic: str | None = None,
    ) -> None:
        """Store rows for positions."""
        topic = topic or self.topics.transactions
        query(self.database_url, INSERT[table], topic, partition, list(offsets))

    def bury(
        self,
        *offsets: int,
        partition: int = 0,
        topic: str | None = None,
        replays: int = 0,
        record_partition: int = -1,
    ) -> None:
        """Write dead letters for positions."""
        topic = topic or self.topics.transactions
        headers = [("dlq.replays", str(replays).encode())]
        records = [
            seal(failure(of=message(topic=topic, partition=partition, offset=at, headers=headers)))
            for at in offsets
        ]
        letters = [
            Outgoing(
                each.value,
                headers=[(name, value or b"") for name, value in each.headers],
                partition=record_partition,
            )
            for each in records
        ]
        produce(self.broker, self.topics.failed, letters)

    def commit(self, offset: int, partition: int = 0) -> None:
        """Commit an offset to the stream's group."""
        consumer = Consumer({**self.broker.client_settings, "group.id": self.topics.group})
        at = TopicPartition(self.topics.transactions, partition, offset)

        def commits() -> bool:
            results = consumer.commit(offsets=[at], asynchronous=False)
            return bool(results) and results[0].error is None

        try:
            wait_until(commits, what="the group's coordinator")
        finally:
            consumer.close()

    def audit(self, *arguments: str, **variables: str) -> Result:
        """Run the command."""
        done = CliRunner().invoke(
            app, arguments, env={**self.variables, **variables}, catch_exceptions=False
        )
        assert "hidden" not in done.output
        return Result(done.exit_code, done.stdout, done.stderr.splitlines())

    def audited(self, *arguments: str, **variables: str) -> Result:
        """Run the command with `--json`; it could look."""
        result = self.audit("--json", *arguments, **variables)
        assert result.errors == []
        assert (result.status == 0) is result.found["adds_up"]
        return result


@pytest.fixture
def world(broker: KafkaServer, topics: Topics, database_url: str) -> World:
    """A stream's stores, empty."""
    return World(broker, topics, database_url)


@pytest.fixture
def healthy(world: World) -> World:
    """Two partitions of a stream that has consumed all: ten messages each, in all three places."""
    for number in (0, 1):
        world.send(10, number)
        world.store([0, 1, 2, 5, 6, 9], number)
        world.store([3, 8], number, table="duplicates")
        world.bury(4, 7, partition=number)
        world.commit(10, number)
    return world


def test_all_places_together_add_up(healthy: World) -> None:
    """Exit code 0, and each figure is what there is."""
    result = healthy.audited()
    assert result.status == 0
    assert result.total == {"settled": 20, "stored": 12, "duplicates": 4, "dead_letters": 4}
    topic, group = healthy.topics.transactions, healthy.topics.group
    assert (result.found["topic"], result.found["group"]) == (topic, group)
    first, _, third, _ = result.found["partitions"]
    assert (first["from"], first["committed"], first["settled"]) == (0, 10, 10)
    assert (third["from"], third["committed"], third["settled"]) == (0, None, 0)


def test_a_topic_without_gaps_is_not_read(healthy: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its length costs nothing as long as the stores know every offset."""
    looked: list[Span] = []

    def look(_topic: Topic, _partition: int, gaps: Iterable[Span]) -> Iterator[Any]:
        looked.extend(gaps)
        return iter(())

    monkeypatch.setattr(Topic, "look", look)
    assert healthy.audited().status == 0
    assert looked == []


@pytest.mark.parametrize("offset", [0, 5, 9])
def test_a_row_that_is_gone_is_missing(healthy: World, offset: int) -> None:
    """Wherever it was: exit code 1, and its position."""
    delete = "DELETE FROM transactions WHERE source_partition = 1 AND source_offset = %s"
    query(healthy.database_url, delete, offset)
    result = healthy.audited()
    assert result.status == 1
    assert result.total["missing"] == 1
    assert result.total["settled"] == 19
    assert result.partition(0)["missing_at"] == []
    assert result.partition(1)["missing_at"] == [{"first": offset, "last": offset}]


def test_a_duplicate_that_was_not_noted_is_missing(healthy: World) -> None:
    """Its position counts, not that its transaction is stored."""
    query(healthy.database_url, "DELETE FROM duplicates WHERE source_offset = 8")
    assert healthy.audited().total["missing"] == 2


def test_a_dead_letter_that_was_not_delivered_is_missing(world: World) -> None:
    """Nobody but the error topic knows of it."""
    world.send(3)
    world.store([0, 2])
    world.commit(3)
    assert world.audited().partition()["missing_at"] == [{"first": 1, "last": 1}]


def test_what_nobody_stored_at_all_is_missing(world: World) -> None:
    """Consumed, and all stores are empty: from the log start to the committed offset."""
    world.send(5)
    world.commit(4)
    result = world.audited()
    assert result.total == {"missing": 4, "in_progress": 1}
    assert result.partition()["missing_at"] == [{"first": 0, "last": 3}]


@pytest.mark.parametrize("at", [2, 12])
@pytest.mark.parametrize(
    ("places", "named"),
    [
        (["bury", "bury"], ["dead letter", "dead letter"]),
        (["transactions", "bury"], ["stored", "dead letter"]),
        (["duplicates", "bury"], ["duplicate", "dead letter"]),
        (["transactions", "duplicates"], ["stored", "duplicate"]),
        (
            ["transactions", "duplicates", "bury", "bury"],
            ["stored", "duplicate", "dead letter", "dead letter"],
        ),
    ],
)
def test_a_position_in_two_places_is_doubled(
    world: World, places: list[str], named: list[str], at: int
) -> None:
    """Exit code 1, before the committed offset and after it, and the places are named."""
    world.send(13, 2)
    world.store(set(range(13)) - {at}, 2)
    for place in places:
        if place == "bury":
            world.bury(at, partition=2)
        else:
            world.store([at], 2, table=place)
    world.commit(10, 2)
    result = world.audited()
    assert result.status == 1
    assert result.total["doubled"] == 1
    assert "missing" not in result.total
    assert result.total["settled"] == 10
    assert result.partition(2)["doubled_at"] == [{"first": at, "last": at, "places": named}]


def test_what_is_after_the_committed_offset_is_in_progress(world: World) -> None:
    """Stored or not: it may be on its way, and is not missing."""
    world.send(20)
    world.store([*range(10), 12, 14])
    world.bury(13)
    world.commit(10)
    result = world.audited()
    assert result.status == 0
    assert result.total == {"settled": 10, "stored": 12, "dead_letters": 1, "in_progress": 7}


def test_a_group_that_has_read_nothing_proves_nothing(world: World) -> None:
    """Exit code 0, and it does not say that all is well."""
    world.send(5)
    result = world.audited()
    assert result.status == 0
    assert result.total == {"in_progress": 5}
    assert world.audit().output.splitlines()[-1] == (
        f"Nothing to prove yet: {world.topics.group} has committed no offset"
        f" of {world.topics.transactions}."
    )


def test_another_group_cannot_vouch_for_the_stores(healthy: World) -> None:
    """A group without offsets, and stores with rows: the name is wrong, or it is too early."""
    result = healthy.audit("--json", KAFKA_CONSUMER_GROUP="nobody")
    assert result.status == 2
    [line] = result.errors
    assert line == (
        f"audit: KAFKA_CONSUMER_GROUP: nobody has committed no offset of"
        f" {healthy.topics.transactions}, and 20 messages of it have ended: it was another group,"
        " or its first epoch goes on"
    )


def test_other_topics_in_the_same_stores_do_not_count(healthy: World) -> None:
    """Rows and dead letters of another topic, and records that are no dead letters."""
    healthy.store(range(30), topic="other")
    healthy.store([3, 40], table="duplicates", topic="other")
    healthy.bury(2, 4, 50, topic="other")
    foreign = [
        Outgoing(b"x"),
        Outgoing(b"x", headers=[("dlq.topic", healthy.topics.transactions.encode())]),
        Outgoing(
            b"x",
            headers=[
                ("dlq.topic", healthy.topics.transactions.encode()),
                ("dlq.partition", b"0"),
                ("dlq.offset", b"zero"),
            ],
        ),
    ]
    produce(healthy.broker, healthy.topics.failed, foreign)
    result = healthy.audited()
    assert result.status == 0
    assert result.total == {"settled": 20, "stored": 12, "duplicates": 4, "dead_letters": 4}


def test_another_topics_row_does_not_stand_in_for_a_missing_one(world: World) -> None:
    """The same partition and offset of another topic is another message."""
    world.send(2)
    world.store([0])
    world.store([1], topic="other")
    world.bury(1, topic="other")
    world.commit(2)
    assert world.audited().partition()["missing_at"] == [{"first": 1, "last": 1}]


def test_dead_letters_of_replayed_messages_are_counted(world: World) -> None:
    """A replay has a position of its own, so it is doubled with nothing."""
    world.send(3)
    world.store([1])
    world.bury(0)
    world.bury(2, replays=1)
    world.commit(3)
    result = world.audited()
    assert result.status == 0
    assert result.total == {"settled": 3, "stored": 1, "dead_letters": 2, "replayed": 1}


def test_the_first_positions_are_named_and_the_rest_counted(world: World) -> None:
    """`--limit` holds for each partition, and what follows each other counts as one."""
    world.send(40, 3)
    world.store(set(range(40)) - {4, 10, 11, 12, 20, 30, 31}, 3)
    world.bury(1, 2, 35, 36, partition=3)
    world.commit(40, 3)
    result = world.audited("--limit", "2")
    assert result.total["missing"] == 7
    assert result.total["doubled"] == 4
    named = result.partition(3)
    assert named["missing_at"] == [{"first": 4, "last": 4}, {"first": 10, "last": 12}]
    assert [(at["first"], at["last"]) for at in named["doubled_at"]] == [(1, 2), (35, 36)]
    assert world.audit("--limit", "2").output.splitlines()[-3:] == [
        "missing: 3:4, 3:10-12 and 3 more",
        "doubled: 3:1-2 (stored + dead letter), 3:35-36 (stored + dead letter)",
        "Differs: 40 consumed messages, 7 missing; 4 positions doubled.",
    ]


def test_the_table_is_aligned_and_plain_where_there_is_no_terminal(healthy: World) -> None:
    """One line a partition, one for the total, and the verdict."""
    lines = healthy.audit().output.splitlines()
    heads = ["partition", "from", "committed", "stored", "duplicates", "dead letters"]
    heads += ["missing", "doubled", "in progress"]
    assert lines[0].split() == " ".join(heads).split()
    assert [line.split() for line in lines[1:6]] == [
        ["0", "0", "10", "6", "2", "2", "0", "0", "0"],
        ["1", "0", "10", "6", "2", "2", "0", "0", "0"],
        ["2", "0", "none", "0", "0", "0", "0", "0", "0"],
        ["3", "0", "none", "0", "0", "0", "0", "0", "0"],
        ["total", "12", "4", "4", "0", "0", "0"],
    ]
    assert {len(line) for line in lines[:6]} == {len(lines[0])}
    assert lines[6:] == ["Adds up: 20 consumed messages, each in exactly one place."]


# Where it begins.


def test_it_begins_where_it_is_told(world: World) -> None:
    """`--from`, by partition: what is before does not count in any way."""
    for number in (0, 1):
        world.send(10, number)
        world.store(range(6, 10), number)
        world.bury(2, 2, partition=number)
        world.commit(10, number)
    result = world.audited("--from", "0:6")
    assert result.partition(0)["from"] == 6
    assert result.partition(0)["settled"] == result.partition(0)["stored"] == 4
    assert result.partition(0)["missing"] == result.partition(0)["doubled"] == 0
    assert result.partition(0)["dead_letters"] == 0
    assert (result.partition(1)["missing"], result.partition(1)["doubled"]) == (5, 1)
    assert world.audited("--from", "0:6", "--from", "1:6").status == 0


@pytest.mark.parametrize("wrong", ["6", "0:x", "0:-1", "a:1", ":"])
def test_a_beginning_that_is_none_is_refused(world: World, wrong: str) -> None:
    """Exit code 2, before anything is asked."""
    assert world.audit("--from", wrong, KAFKA_BOOTSTRAP_SERVERS="").status == 2


def test_a_beginning_in_a_partition_that_is_not_there_is_refused(world: World) -> None:
    """Or a typing error would look at everything."""
    result = world.audit("--from", "9:0")
    assert result.status == 2
    [line] = result.errors
    assert line == f"audit: KAFKA_TOPIC: {world.topics.transactions} has no partition 9 to begin in"


def test_a_stream_that_began_with_the_latest_is_not_asked_for_what_was_before(
    world: World,
) -> None:
    """It begins with the lowest offset that a store knows."""
    world.send(10)
    world.store([4, 6, 7])
    world.bury(5)
    world.commit(8)
    result = world.audited(KAFKA_START_AT="latest")
    assert result.status == 0
    assert result.partition()["from"] == 4
    assert result.total["settled"] == 4


@pytest.mark.apache_kafka
def test_a_stream_that_began_at_a_time_is_asked_for_what_came_since(
    world: World, apache_kafka: ApacheKafka
) -> None:
    """What was before that time it was never to read."""
    for hours in range(6):
        time_ = int((NOON + timedelta(hours=hours)).timestamp() * 1000)
        sent = Outgoing(b"{}", partition=0, timestamp=time_)
        produce(apache_kafka, world.topics.transactions, [sent])
    world.store([3, 4, 5])
    world.commit(6)
    begin = (NOON + timedelta(hours=1, minutes=30)).isoformat()
    result = world.audited(KAFKA_START_AT=begin)
    assert result.partition()["from"] == 2
    assert result.partition()["missing_at"] == [{"first": 2, "last": 2}]


# Offsets without a record.


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
    with Reader(settings_of(world.variables), world.topics.transactions, reset="error") as reader:
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
    world: World, apache_kafka: ApacheKafka
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
    Timer(1, producer.abort_transaction, [20]).start()
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
    monkeypatch.setattr(ops.audit.reader, "AT_ONCE", at_once)
    print("seed", SEED)  # noqa: T201 - to repeat it
    rng = random.Random(SEED)  # noqa: S311 - chance that can be repeated
    world.send(300)
    settings = settings_of(world.variables)
    with Reader(settings, world.topics.transactions, reset="error") as reader:
        for _ in range(5):
            wanted = set(rng.sample(range(300), 20)) | {*range(100, 110), *range(200, 230)}
            gaps = [Span(at, at) for at in sorted(wanted - {105, 106, 107})]
            gaps = sorted([*gaps, Span(105, 107)])
            found = list(Topic(settings, reader).look(0, gaps))
            assert found == [("record", Span(at, at)) for at in sorted(wanted)]


def test_the_error_topic_is_read_to_its_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the last batch is a large one too, of which some brokers count only one record."""
    monkeypatch.setattr(ops.audit.reader, "AT_ONCE", 1)
    world.send(50)
    last = 3 if world.broker.keeps_data else 0  # the embedded broker has no others
    world.bury(*range(50), record_partition=last)
    world.commit(50)
    assert world.audited().total == {"settled": 50, "dead_letters": 50}


# What retention has removed.


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


# While the stream runs.


def test_the_stream_may_go_on_between_any_two_reads(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each look at something, another message is stored and committed: nothing is missing."""
    ends = itertools.count(5)

    def go_on() -> None:
        at = next(ends)
        world.send(1)
        if at % 2:
            world.store([at])
        else:
            world.bury(at)
        world.commit(at + 1)

    def followed(method: Callable[..., Any]) -> Callable[..., Any]:
        def followed_by_more(*arguments: Any) -> Any:
            result = method(*arguments)
            go_on()
            return result

        return followed_by_more

    world.send(5)
    world.store(range(5))
    world.commit(5)
    monkeypatch.setattr(Topic, "committed", followed(Topic.committed))
    monkeypatch.setattr(Topic, "ranges", followed(Topic.ranges))
    monkeypatch.setattr(ops.audit.letters, "read", followed(ops.audit.letters.read))
    monkeypatch.setattr(Tables, "_ask", followed(Tables._ask))  # noqa: SLF001 - each statement
    result = world.audited()
    assert next(ends) > 10
    assert result.status == 0
    assert result.total["settled"] >= 5


def test_a_running_stream_adds_up_at_any_time(
    world: World, model_api: ModelApi, tmp_path: Path
) -> None:
    """Every audit beside the stream says so, and the last one has all messages in a place."""
    world.variables["ML_API_URL"] = model_api.url
    options = recovery_options(make_recovery(tmp_path))
    values = [sample.value for sample in transactions(6_000, seed=7, broken=0.05, repeated=0.05)]
    parts = [values[begin : begin + 500] for begin in range(0, len(values), 500)]

    def feed() -> None:
        for part in parts:
            produce(world.broker, world.topics.transactions, [v for v in part if v is not None])
            time.sleep(0.2)

    feeder = Thread(target=feed)
    audits: list[Result] = []
    with Flow(tmp_path, world.variables, options) as flow:
        feeder.start()

        def all_done() -> bool:
            assert flow.running, flow.output()
            result = world.audit("--json")
            if result.status == 2:  # the first epoch goes on
                assert "its first epoch goes on" in result.errors[0]
                return False
            audits.append(result)
            assert result.status == 0, result.output
            return not feeder.is_alive() and result.total.get("settled") == sent

        sent = sum(value is not None for value in values)
        wait_until(all_done, timedelta(seconds=90), what="all messages before the committed offset")
        feeder.join()
    assert any("in_progress" in result.total for result in audits)
    last = audits[-1].total
    assert last["stored"] + last["duplicates"] + last["dead_letters"] == sent
    assert min(last["stored"], last["duplicates"], last["dead_letters"]) > 100


# When it cannot look.


@pytest.mark.parametrize(
    ("spoiled", "expected"),
    [
        ({"KAFKA_CONSUMER_GROUP": ""}, "settings: KAFKA_CONSUMER_GROUP: is not set"),
        (
            {"KAFKA_BOOTSTRAP_SERVERS": "{nobody}"},
            "audit: KAFKA_BOOTSTRAP_SERVERS: no broker answers at {nobody}",
        ),
        ({"KAFKA_TOPIC": "nowhere"}, "audit: KAFKA_TOPIC: there is no topic nowhere at "),
        (
            {"KAFKA_ERROR_TOPIC": "nowhere"},
            "audit: KAFKA_ERROR_TOPIC: there is no topic nowhere at ",
        ),
        (
            {"DATABASE_URL": "postgresql://fraud:hidden@{nobody}/fraud"},
            "audit: DATABASE_URL: connection failed: ",
        ),
    ],
)
def test_what_it_needs_and_has_not_is_named(
    healthy: World, spoiled: dict[str, str], expected: str
) -> None:
    """Exit code 2, one line with the setting, nothing else, and no secret."""
    nobody = f"127.0.0.1:{free_port()}"
    variables = {name: value.replace("{nobody}", nobody) for name, value in spoiled.items()}
    result = healthy.audit("--json", START_TIMEOUT="1", **variables)
    assert result.status == 2
    assert result.output == ""
    [line] = result.errors
    assert line.startswith(expected.replace("{nobody}", nobody))


def test_a_database_without_tables_is_named(healthy: World, postgres: Postgres) -> None:
    """With the command that makes them."""
    name = f"empty_{free_port()}"
    postgres.create_database(name)
    result = healthy.audit(DATABASE_URL=postgres.url(name))
    assert result.status == 2
    expected = "DATABASE_URL: there is no table transactions: run python -m ops migrate"
    assert result.errors == [f"audit: {expected}"]


def test_rights_to_read_are_all_it_needs(healthy: World, postgres: Postgres) -> None:
    """SELECT on two tables; without it, the table is named."""
    role = sql.Identifier(f"reader_{uuid4().hex}")
    with psycopg.connect(healthy.database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'hidden'").format(role))
        connection.execute(sql.SQL("GRANT SELECT ON transactions TO {}").format(role))
        user = role.as_string(connection).strip('"')
        url = healthy.database_url.replace(f"postgres:{postgres.password}", f"{user}:hidden")
        result = healthy.audit(DATABASE_URL=url)
        assert result.status == 2
        assert result.errors == ["audit: DATABASE_URL: this user lacks SELECT on duplicates"]
        connection.execute(sql.SQL("GRANT SELECT ON duplicates TO {}").format(role))
        assert healthy.audited(DATABASE_URL=url).status == 0
        connection.execute(sql.SQL("DROP OWNED BY {}").format(role))
        connection.execute(sql.SQL("DROP ROLE {}").format(role))


def during(moment: str, event: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let something happen when the error topic has been read, or before it is."""
    read = ops.audit.letters.read

    def eventful(settings: Settings, starts: Mapping[int, int]) -> dict[int, Letters]:
        if moment == "before":
            event()
        letters = read(settings, starts)
        if moment == "after":
            event()
        return letters

    monkeypatch.setattr(ops.audit.letters, "read", eventful)


@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_a_database_that_is_lost_meanwhile_is_named(
    healthy: World, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """One that is frozen too, within `DATABASE_TIMEOUT`."""
    during("after", getattr(postgres, fault), monkeypatch)
    begin = time.monotonic()
    result = healthy.audit(DATABASE_TIMEOUT="1")
    assert time.monotonic() - begin < 10
    assert result.status == 2
    [line] = result.errors
    assert line.startswith("audit: DATABASE_URL: ")


def test_a_statement_that_takes_too_long_names_its_limit(healthy: World) -> None:
    """Somebody has locked a table: `DATABASE_TIMEOUT` ends the wait."""
    with psycopg.connect(healthy.database_url) as connection:
        connection.execute("LOCK TABLE duplicates")
        result = healthy.audit(DATABASE_TIMEOUT="1")
    assert result.status == 2
    expected = "DATABASE_TIMEOUT: the database took longer than 1 s for an answer"
    assert result.errors == [f"audit: {expected}"]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_broker_that_is_lost_meanwhile_is_named(
    healthy: World, broker: KafkaServer, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Within a few times `START_TIMEOUT`, whether it reads the error topic or looks at gaps."""
    query(healthy.database_url, "DELETE FROM transactions WHERE source_offset = 5")
    during(moment, broker.pause, monkeypatch)
    begin = time.monotonic()
    result = healthy.audit(START_TIMEOUT="2")
    assert time.monotonic() - begin < 30
    assert result.status == 2
    [line] = result.errors
    topic = healthy.topics.failed if moment == "before" else healthy.topics.transactions
    assert line.startswith(f"audit: KAFKA_BOOTSTRAP_SERVERS: cannot read {topic} at 127.0.0.1:")


def test_a_topic_that_was_made_anew_is_named(world: World) -> None:
    """The group is past its end, so no position means what the stores mean by it."""
    world.send(5)
    world.store(range(9))
    world.commit(9)
    result = world.audit()
    assert result.status == 2
    [line] = result.errors
    assert line == (
        f"audit: KAFKA_TOPIC: partition 0 of {world.topics.transactions} ends at 5, but the group"
        " has committed 9: the topic was made anew, or has lost messages"
    )


# Its parts.


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


OFFSETS = st.sets(st.integers(0, 30))


@given(
    places=st.lists(OFFSETS, max_size=3),
    letters=st.lists(st.integers(0, 30), max_size=10),
    end=st.integers(0, 40),
)
def test_a_sweep_finds_what_sets_find(places: list[set[int]], letters: list[int], end: int) -> None:
    """Gaps and overlaps of any runs, each once and in ascending order."""
    counted = [at for place in places for at in place] + letters
    spans = [span for place in places for span in runs(place)]
    spans += [Span(at, at) for at in letters]
    found: dict[str, list[int]] = {"gap": [], "overlap": []}
    for finding, span in sweep(sorted(spans), first=0, end=end):
        assert span.size > 0
        found[finding].extend(range(span.first, span.last + 1))
    behind = max([end - 1, *counted], default=-1) + 1
    assert found["gap"] == [at for at in range(behind) if at not in counted]
    assert found["overlap"] == [at for at in range(behind) if counted.count(at) > 1]


def runs(offsets: set[int]) -> Iterator[Span]:
    """Put offsets that follow each other together."""
    for _, run in itertools.groupby(enumerate(sorted(offsets)), lambda pair: pair[1] - pair[0]):
        members = [at for _, at in run]
        yield Span(members[0], members[-1])
