"""Records as other clients can write them: what becomes of each, in the source and after it."""

import random
from typing import Final

import pytest

from lab.servers import KafkaServer
from operators.decode import decode_message
from operators.kafka.contents import Contents, contents, readable_headers
from operators.records import Failure
from tests.kit.factories import transaction_text
from tests.kit.kafka import Topics, read_all
from tests.kit.letters import Writing, record_of
from tests.kit.raw_producer import RawRecord, produce_raw
from tests.kit.reading import Reading

SEED: Final = 20260505
NOT_A_NAME: Final = b"caf\xe9"


def test_a_header_name_that_is_no_text_takes_nothing_else_along(reading: Reading) -> None:
    """Key, value, time and the other headers are read, and those behind it are read as usual."""
    headers = [(b"a", b"1"), (NOT_A_NAME, b"2"), (b"b", None), (b"\xff", None), (b"a", b"\xff")]
    value = transaction_text()
    odd = RawRecord(value, b"key", headers, timestamp=1_770_000_000_123)
    produce_raw(reading.broker, reading.topics.transactions, [odd, RawRecord(value)])
    with reading.run() as run:
        first, second = run.read(2)
        run.finish(first, second)
        run.until(lambda: reading.committed() == 2, what="the commit")
    assert (first.key, first.value, first.timestamp) == (b"key", value, 1_770_000_000_123)
    assert first.headers == [("a", b"1"), ("b", None), ("a", b"\xff")]
    assert first.unreadable == ("headers",)
    assert second.unreadable == ()
    failure = decode_message(first)
    assert isinstance(failure, Failure)
    assert (failure.stage, failure.disposition) == ("decode", "poison")
    assert failure.code == "headers_unreadable"
    assert failure.error == "headers: Kafka's client cannot read it all"


# From Python 3.12 on the collector may be what finds the exception that the client has left behind.
# It says so on standard error, and the list of headers still has its hole.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_whatever_headers_a_record_has_it_is_read(reading: Reading) -> None:
    """Names and values of any bytes; those that are text are kept, in their order."""
    print("seed", SEED)  # noqa: T201 - to repeat it
    rng = random.Random(SEED)  # noqa: S311 - chance that can be repeated
    records = [
        RawRecord(
            rng.choice([None, b"", rng.randbytes(9)]),
            rng.choice([None, b"", rng.randbytes(9)]),
            [
                (_name(rng), rng.choice([None, b"", rng.randbytes(5)]))
                for _ in range(rng.choice([0, 1, 2, 5, 300]))
            ],
            timestamp=rng.choice([0, 1, 1_770_000_000_000]),
        )
        for _ in range(300)
    ]
    for start in range(0, 300, 50):
        produce_raw(reading.broker, reading.topics.transactions, records[start : start + 50])
    with reading.run() as run:
        found = run.read(300)
    for message, record in zip(found, records, strict=True):
        kept = [(name.decode(), value) for name, value in record.headers if _is_text(name)]
        assert message.headers == kept
        assert message.unreadable == (() if len(kept) == len(record.headers) else ("headers",))
        assert (message.key, message.value) == (record.key, record.value)


def test_a_record_is_the_same_however_often_it_is_asked(reading: Reading) -> None:
    """The client raises once, or later, and then gives pairs that Python must not touch."""
    headers = [(b"a", b"1"), (NOT_A_NAME, b"2"), (b"b", None)]
    produce_raw(reading.broker, reading.topics.transactions, [RawRecord(b"v", b"k", headers)])
    [record] = read_all(reading.broker, reading.topics.transactions, at_least=1)
    expected = Contents(b"k", b"v", [("a", b"1"), ("b", None)], 1_770_000_000_000, ("headers",))
    for _ in range(50):
        assert contents(record) == expected
        assert readable_headers(record) == []


def test_its_dead_letter_has_what_could_be_read(broker: KafkaServer, topics: Topics) -> None:
    """Value, key and the other headers; and it says that it is not all there."""
    writing = Writing(broker, topics)
    value = transaction_text()
    headers = [(b"a", b"1"), (NOT_A_NAME, b"2")]
    produce_raw(broker, topics.transactions, [RawRecord(value, b"key", headers)])
    with Reading(broker, topics).run() as run:
        failure = decode_message(run.read(1)[0])
    assert isinstance(failure, Failure)
    [found] = writing.deliver(failure)
    record = record_of(found)
    assert (record.key, record.headers[0]) == (b"key", ("a", b"1"))
    assert record.headers[-1] == ("dlq.cut", b"headers")
    assert record.value.startswith(b'{"transaction":' + value)


def _name(rng: random.Random) -> bytes:
    if rng.random() < 0.8:
        return rng.choice([b"", b"a", b"dlq.id", b"trace", "café".encode(), "\U0001f4b3".encode()])
    # The client ends a name at a NUL, and says nothing of it.
    return rng.randbytes(rng.randrange(1, 5)).replace(b"\0", b"\1")


def _is_text(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
