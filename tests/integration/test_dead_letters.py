"""Dead letters in the error topic: what a record holds, and what becomes of one too large."""

import json
import random
import traceback
from datetime import UTC, datetime
from typing import Any

import pytest
from structlog.testing import capture_logs

from lab.servers import ApacheKafka, KafkaServer
from operators.dead_letters.check import check
from operators.dead_letters.envelope import to_message
from operators.errors import BugError, DeliveryError, DependencyError
from tests.kit.kafka import Topics, header
from tests.kit.letters import PARTITION, SEED, Writing, limited, noise, record_of

ONE_MB = '{"message.max.bytes": 1000000}'


@pytest.fixture
def writing(broker: KafkaServer, topics: Topics) -> Writing:
    """A writer to the test's own error topic."""
    return Writing(broker, topics)


def test_the_record_is_as_documented(writing: Writing) -> None:
    """Value, key and headers, the original's headers first."""
    failure = writing.failure(
        b'{"id": 7}', offset=12, key=b"k\xff", headers=[("trace", b"\x00\xff")], attempts=4
    )
    before = datetime.now(UTC)
    [found] = writing.deliver(failure)
    record = record_of(found)
    content = json.loads(record.value)
    assert list(content) == ["transaction", "error", "timestamp"]
    assert content["transaction"] == {"id": 7}
    assert content["error"] == "amount: Field required"
    assert before <= datetime.fromisoformat(content["timestamp"]) <= datetime.now(UTC)
    assert record.key == b"k\xff"
    topic = writing.topics.transactions
    assert record.headers == [
        ("trace", b"\x00\xff"),
        ("dlq.id", f"{topic}-1-12".encode()),
        ("dlq.topic", topic.encode()),
        ("dlq.partition", b"1"),
        ("dlq.offset", b"12"),
        ("dlq.group", writing.topics.group.encode()),
        ("dlq.timestamp", b"1770000000123"),
        ("dlq.stage", b"validate"),
        ("dlq.disposition", b"poison"),
        ("dlq.code", b"amount.missing"),
        ("dlq.attempts", b"4"),
        ("dlq.replays", b"0"),
        ("dlq.encoding", b"json"),
        ("dlq.length", b"9"),
    ]


def test_the_original_can_be_restored_from_the_topic(writing: Writing) -> None:
    """To the byte, whatever it was, with its key, headers and position."""
    values: list[bytes | None] = [
        None,
        b"",
        b"null",
        b' {"a" : 1.50, "b": "\\u00e9"} ',
        b"[1, 2",
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b'{"half": "\\ud83d"}',
        'plain \U0001f4b3 text with " and \\ and \x00 and \u2028'.encode(),
        b"\xff\xfe\x00{",
        b'{"latin": "\xe9"}',
        b"[" * 5_000 + b"]" * 5_000,
    ]
    failures = [
        writing.failure(value, offset=number, key=b"\x00", headers=[("h", None), ("h", b"\xff")])
        for number, value in enumerate(values)
    ]
    records = [record_of(found) for found in writing.deliver(*failures)]
    for record in records:
        json.loads(record.value)
    restored = {found.offset: found for record in records if (found := to_message(record))}
    assert [restored[number] for number in range(len(values))] == [
        failure.message for failure in failures
    ]


@pytest.mark.apache_kafka  # the embedded broker's error topic has one partition
def test_dead_letters_of_a_partition_are_in_one_partition_in_their_order(writing: Writing) -> None:
    """Under the same number, or, of a topic with more partitions, wrapped around."""
    found = writing.deliver(
        *writing.failures(*range(50)), *writing.failures(*range(50), partition=6)
    )
    by_source: dict[str, list[tuple[int, int]]] = {}
    for record in found:
        at = (record.partition() or 0, int(header(record, "dlq.offset") or -1))
        by_source.setdefault(header(record, "dlq.partition") or "", []).append(at)
    assert by_source == {
        "1": [(1, offset) for offset in range(50)],
        "6": [(2, offset) for offset in range(50)],
    }


def test_what_the_producer_refuses_as_too_large_is_cut(writing: Writing) -> None:
    """With a mark that says what is missing; position and beginning of the value are kept."""
    writing.writer = writing.writer_of(KAFKA_PROPERTIES=ONE_MB)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"value": b"v" * 1_100_000}, "value"),
        ({"value": b"\xff" * 900_000}, "value"),
        ({"key": b"k" * 1_100_000}, "value,key"),
        ({"headers": [("h", b"h" * 600_000), ("i", b"i" * 600_000)]}, "value,headers"),
        ({"key": b"k" * 600_000, "headers": [("h", b"h" * 600_000)]}, "value,headers,key"),
    ]
    failures = [
        writing.failure(**{"value": b"short", "offset": number, **fields})
        for number, (fields, _) in enumerate(cases)
    ]
    found = {header(each, "dlq.offset"): each for each in writing.deliver(*failures)}
    for number, failure in enumerate(failures):
        record = record_of(found[str(number)])
        value = failure.message.value or b""
        assert header(found[str(number)], "dlq.cut") == cases[number][1]
        assert header(found[str(number)], "dlq.length") == str(len(value))
        assert json.loads(record.value)["transaction"] == value.decode(errors="replace")[:10_000]
        assert len(record.value) + len(record.key or b"") < 40_000
        assert to_message(record) is None


def test_a_message_of_the_producers_limit_does_not_stop_its_neighbours(writing: Writing) -> None:
    """What fits is whole, what does not is cut, in one call."""
    writing.writer = writing.writer_of(KAFKA_PROPERTIES=ONE_MB)
    sizes = [10, 1_000_000, 1_100_000, 10]
    found = writing.deliver(
        *(writing.failure(b"x" * size, offset=number) for number, size in enumerate(sizes))
    )
    cuts = {header(each, "dlq.offset"): header(each, "dlq.cut") for each in found}
    assert cuts["0"] is cuts["3"] is None
    assert cuts["2"] == "value"
    assert len(found) == 4


@pytest.mark.apache_kafka
@pytest.mark.parametrize("what", ["value", "key", "headers"])
def test_what_the_topic_refuses_as_too_large_is_cut(
    apache_kafka: ApacheKafka, topics: Topics, what: str
) -> None:
    """Its limit may be below the producer's, and is known only from its refusal."""
    writing = Writing(apache_kafka, limited(apache_kafka, topics, 50_000))
    large = noise(200_000)
    fields: dict[str, Any] = {what: [("h", large)] if what == "headers" else large}
    [found] = writing.deliver(writing.failure(**{"offset": 5, **fields}))
    assert what in (header(found, "dlq.cut") or "")
    assert header(found, "dlq.offset") == "5"


@pytest.mark.parametrize("size", [300_000, 700_000])
def test_what_is_no_text_is_not_cut_for_its_spelling(writing: Writing, size: int) -> None:
    """Avro, Protobuf or gzip by mistake: the topic's usual limit of 1 MB has room for base64."""
    print("seed", SEED)  # noqa: T201 - to repeat it
    failure = writing.failure(random.Random(SEED).randbytes(size))  # noqa: S311 - can be repeated
    [found] = writing.deliver(failure)
    assert to_message(record_of(found)) == failure.message


def test_a_topic_that_takes_more_gets_all(broker: KafkaServer, topics: Topics) -> None:
    """The limit is the topic's, not the client's."""
    writing = Writing(broker, limited(broker, topics, 8_000_000))
    failures = [
        writing.failure(noise(3_000_000), offset=0),
        writing.failure(random.Random(SEED).randbytes(2_000_000), offset=1),  # noqa: S311
        writing.failure(b"small", offset=2),
    ]
    records = [record_of(found) for found in writing.deliver(*failures)]
    restored = {found.offset: found for record in records if (found := to_message(record))}
    assert [restored[number] for number in range(3)] == [each.message for each in failures]


@pytest.mark.apache_kafka
def test_what_the_topic_takes_when_it_is_compressed_is_whole(
    apache_kafka: ApacheKafka, topics: Topics
) -> None:
    """A broker looks at compressed records, and so do the producers of the topic that is read."""
    writing = Writing(apache_kafka, limited(apache_kafka, topics, 100_000))
    failure = writing.failure(b"x" * 2_000_000)
    [found] = writing.deliver(failure)
    assert to_message(record_of(found)) == failure.message


@pytest.mark.apache_kafka
def test_it_is_said_what_was_cut_and_whose_limit_it_was(
    apache_kafka: ApacheKafka, topics: Topics
) -> None:
    """Once for each record, with the position of the message and the size that was too large."""
    writing = Writing(apache_kafka, limited(apache_kafka, topics, 50_000))
    with capture_logs() as lines:
        writing.deliver(writing.failure(noise(100_000), offset=5))
    [line] = [line for line in lines if line["event"] == "dead_letters.cut"]
    assert (line["log_level"], line["partition"], line["offset"]) == ("warning", PARTITION, 5)
    assert line["bytes"] > 100_000
    assert line["reason"] == "larger than max.message.bytes of the error topic"


@pytest.mark.apache_kafka
def test_small_ones_are_whole_beside_one_that_the_topic_refuses(
    apache_kafka: ApacheKafka, topics: Topics
) -> None:
    """The topic's limit holds for a batch of records; what alone fits must not be cut."""
    writing = Writing(apache_kafka, limited(apache_kafka, topics, 50_000))
    text = noise(200_000)
    sizes = [20_000] * 20 + [100_000] + [20_000] * 20
    found = writing.deliver(
        *(writing.failure(text[:size], offset=number) for number, size in enumerate(sizes))
    )
    cuts = {int(header(each, "dlq.offset") or -1): header(each, "dlq.cut") for each in found}
    assert len(found) == len(sizes)
    assert cuts == {n: "value" if size > 50_000 else None for n, size in enumerate(sizes)}


@pytest.mark.apache_kafka
def test_a_topic_that_takes_not_even_what_was_cut_stops_the_stream(
    apache_kafka: ApacheKafka, topics: Topics
) -> None:
    """Rather than lose it, and without trying for good."""
    writing = Writing(apache_kafka, limited(apache_kafka, topics, 1_000))
    with pytest.raises(DeliveryError, match=r"^KAFKA_ERROR_TOPIC: cannot write to .*-limited: "):
        writing.deliver(writing.failure(noise(100_000)))


@pytest.mark.parametrize("fields", [{"value": "4111-SECRET"}, {"headers": [("4111-SECRET", 5)]}])
def test_a_bug_is_told_with_the_position_of_the_message(
    writing: Writing, fields: dict[str, Any]
) -> None:
    """Of what a step should never have made; without what is in it."""
    expected = rf"^1-{writing.topics.transactions}: offset 3: a dead letter failed with \w+ at "
    with pytest.raises(BugError, match=expected) as raised:
        writing.write(writing.failure(**{"offset": 3, **fields}))
    assert "SECRET" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.apache_kafka
def test_a_broker_that_refuses_transactions_is_found_at_start(writing: Writing) -> None:
    """By the check, and where a partition is taken over: with the name that needs the right."""
    refused = '{"transaction.timeout.ms": 2000000000}'
    expected = f"^KAFKA_ERROR_TOPIC: no producer with .* such as {writing.topics.group}:…: .*time"
    with pytest.raises(DependencyError, match=expected):
        check(writing.settings(KAFKA_PROPERTIES=refused))
    with pytest.raises(DeliveryError, match=expected):
        writing.writer_of(KAFKA_PROPERTIES=refused).fence([PARTITION])
