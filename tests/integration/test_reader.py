"""Reading: what a message is, how much is read at once and in all, and what is missing."""

from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka import Producer
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from lab.servers import ApacheKafka
from operators.errors import SourceError
from operators.kafka import reader
from operators.kafka.reader import OVERHEAD
from operators.records import Message
from tests.kit.kafka import Outgoing, produce
from tests.kit.reading import Reading, offsets, state

HIDDEN = "fraud_hidden_messages"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_messages_arrive_as_they_are(reading: Reading) -> None:
    """Key, value and headers to the byte, null and empty ones apart; time and position too."""
    milliseconds = int(NOON.timestamp() * 1000)
    given = [
        Outgoing(b'{"id": 1}', key=b"k\xff\x00", headers=[("a", b"1"), ("a", b"\xff"), ("b", b"")]),
        Outgoing(None, key=b""),
        Outgoing(b"", key=None),
    ]
    sent = [
        Outgoing(each.value, each.key, each.headers, partition=3, timestamp=milliseconds + number)
        for number, each in enumerate(given)
    ]
    produce(reading.broker, reading.topics.transactions, sent)
    with reading.run({3: None}) as run:
        found = run.read(3)
    assert [each._replace(fetch=None) for each in found] == [
        Message(
            message.key,
            message.value,
            list(message.headers),
            reading.topics.transactions,
            3,
            number,
            milliseconds + number,
        )
        for number, message in enumerate(sent)
    ]


def test_what_is_read_together_is_counted_together(reading: Reading) -> None:
    """One `Fetch` for each partition and call."""
    for partition in (0, 1):
        reading.send_many(20, partition=partition)
    with reading.run({0: None, 1: None}) as run:
        run.read(40)
        fetches = {(each.partition, each.fetch) for each in run.found}
    for partition, fetch in fetches:
        mine = [each for each in run.found if (each.partition, each.fetch) == (partition, fetch)]
        assert fetch is not None
        assert fetch.pending == len(mine)
        assert fetch.end == mine[-1].offset + 1


def test_a_batch_is_bounded(reading: Reading) -> None:
    """However much is waiting, one call gives four requests' worth."""
    reading.send_many(200)
    sizes: list[int] = []
    with reading.run(BATCH_SIZE="10") as run:
        while sum(sizes) < 200:
            sizes.append(len(run.turn()))
    assert max(sizes) == 40


@pytest.mark.parametrize(("messages", "size"), [("100", "64000000"), ("10000", "60000")])
def test_what_is_in_hand_is_bounded(reading: Reading, messages: str, size: str) -> None:
    """At the first limit that is met nothing more is read, until something is done."""
    reading.send_many(1_000, size=400)
    with reading.run(IN_HAND_MESSAGES=messages, IN_HAND_BYTES=size) as run:
        run.until(lambda: not run.worker.in_hand.has_room, what="a full hand")
        run.idle()
        in_hand = len(run.found)
        # By bytes it is a guess: messages are weighed when they are there.
        assert in_hand == 100 if messages == "100" else 100 <= in_hand < 500
        run.finish(*run.found)
        assert run.worker.in_hand.messages == run.worker.in_hand.bytes == 0
        run.read(1)


def test_a_message_is_weighed_with_key_and_headers(reading: Reading) -> None:
    """And with what Kafka's and Python's objects take."""
    sent = Outgoing(b"v" * 500, key=b"k" * 30, headers=[("name", b"h" * 70)], partition=0)
    produce(reading.broker, reading.topics.transactions, [sent])
    with reading.run() as run:
        run.read(1)
        assert run.worker.in_hand.bytes == 500 + 30 + 4 + 70 + OVERHEAD


def test_a_hand_that_stays_full_does_not_let_the_client_read_ahead(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Partitions are paused, and go on where they were, without a gap."""
    monkeypatch.setattr(reader, "FULL_FOR", 0.0)
    with reading.run(IN_HAND_MESSAGES="10") as run:
        for _ in range(3):
            reading.send_many(30)
            run.until(lambda: not run.worker.in_hand.has_room, what="a full hand")
            run.idle()
            while len(run.found) % 30:
                run.finish_all()
                run.turn()
            run.finish_all()
    assert offsets(run.found) == list(range(90))


def test_lag_is_what_is_still_to_be_read(reading: Reading) -> None:
    """Of all partitions together, and nothing once all is read."""
    reading.send(*[b"x"] * 9)
    reading.send(*[b"x"] * 2, partition=1)
    with reading.run({0: None, 1: None}, IN_HAND_MESSAGES="5", BATCH_SIZE="1") as run:
        run.until(lambda: not run.worker.in_hand.has_room, what="a full hand")
        first = run.found[:]
        run.until(lambda: run.progress.totals()["lag"] == 11 - len(first), what="the lag")
        run.finish(*first)
        run.until(lambda: len(run.found) > len(first))
        while len(run.found) < 11:
            run.finish_all()
            run.turn()
        run.until(lambda: run.progress.totals()["lag"] == 0, what="no lag")


@pytest.mark.apache_kafka
def test_an_open_transaction_that_hides_messages_is_told_once(
    reading: Reading, apache_kafka: ApacheKafka
) -> None:
    """With partition and offset; and again when it is over and they are read."""
    name = f"writer-of-{reading.topics.transactions}"
    producer = Producer({**apache_kafka.client_settings, "transactional.id": name})
    producer.init_transactions(30)
    reading.send(b"before")
    with reading.run({0: None, 1: None}) as run, capture_logs() as lines:
        run.read(1)
        producer.begin_transaction()
        producer.produce(reading.topics.transactions, b"hidden", partition=0)
        producer.flush(30)
        reading.send(b"behind", b"behind")

        def told(event: str) -> list[dict[str, Any]]:
            return [dict(line) for line in lines if line["event"] == event]

        run.until(lambda: told("source.open_transaction"), what="a word")
        run.until(lambda: REGISTRY.get_sample_value(HIDDEN, {"partition": "0"}) == 3)
        run.idle(300)
        [line] = told("source.open_transaction")
        assert (line["partition"], line["offset"]) == (0, 1)
        producer.commit_transaction(30)
        run.read(3)
        run.until(lambda: told("source.transaction_ended"), what="its end")
        assert REGISTRY.get_sample_value(HIDDEN, {"partition": "0"}) == 0
        assert len(told("source.open_transaction")) == 1


@pytest.mark.apache_kafka
def test_what_holds_no_message_is_passed(reading: Reading, apache_kafka: ApacheKafka) -> None:
    """Markers and aborted messages: else the group would lag behind for good."""
    name = f"writer-of-{reading.topics.transactions}"
    producer = Producer({**apache_kafka.client_settings, "transactional.id": name})
    producer.init_transactions(10)
    for end in (producer.commit_transaction, producer.abort_transaction):
        producer.begin_transaction()
        producer.produce(reading.topics.transactions, b"x", partition=0)
        producer.flush(10)  # what is not sent would be dropped by an abort
        end(10)
    with reading.run() as run:
        [found] = run.read(1)
        run.finish(found)
        run.until(lambda: run.snapshot()["offset"] == 4, what="the end behind the marker")
        run.until(lambda: reading.committed() == 4, what="the commit")


@pytest.mark.apache_kafka
def test_an_offset_that_retention_removed_stops_the_source(reading: Reading) -> None:
    """It says how many messages are gone and how to go on; nothing is skipped in silence."""
    reading.send(*[b"x"] * 7)
    reading.delete_before(5)
    reading.commit(2)
    expected = (
        rf"^0-{reading.topics.transactions}: offset 2 is not in the topic any more, which "
        r"holds 5 to 7: 3 messages are gone\. .*KAFKA_ON_MISSING=skip"
    )
    with pytest.raises(SourceError, match=expected), reading.run() as run:
        run.read(1)


@pytest.mark.apache_kafka
def test_missing_messages_are_skipped_if_that_is_wanted(reading: Reading) -> None:
    """With KAFKA_ON_MISSING=skip: what is gone is told and counted, and what is left is read."""
    reading.send(*[b"x"] * 7)
    reading.delete_before(5)
    reading.commit(2)
    with capture_logs() as lines, reading.run(KAFKA_ON_MISSING="skip") as run:
        assert offsets(run.read(2)) == [5, 6]
        assert run.progress.totals()["skipped"] == 3
        run.finish(*run.found)
        assert run.snapshot()["offset"] == 7
    [line] = [line for line in lines if line["event"] == "source.skipped"]
    told: dict[str, Any] = {"event": "source.skipped", "log_level": "warning"}
    assert line == {**told, "partition": 0, "offset": 2, "gone": 3}


@pytest.mark.apache_kafka
def test_an_offset_beyond_the_end_stops_the_source(reading: Reading) -> None:
    """Only a topic that was created again does not have it: its positions mean other messages."""
    reading.send(b"a", b"b")
    expected = pytest.raises(SourceError, match="deleted and created again")
    with expected, reading.run(state(50)) as run:
        run.read(1)
