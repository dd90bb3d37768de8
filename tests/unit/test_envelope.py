"""What is written to the error topic can be read by people, and read back to the byte."""

import base64
import gzip
import json
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from operators.dead_letters.envelope import (
    CUT_LENGTH,
    Origin,
    Record,
    text_headers,
    to_message,
    to_record,
    truncate,
)
from operators.decode import parse_json
from operators.records import Message
from tests.kit.factories import failure, message, transaction_text

GROUP = "fraud-scoring"
SEED = 20260808
NAMES = st.text(st.characters(codec="utf-8"), max_size=10)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "Dlq.id", "dlq"])
        | NAMES.filter(lambda name: not name.startswith("dlq.")),
        st.none() | st.binary(max_size=20),
    ),
    max_size=5,
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
).map(lambda value: json.dumps(value).encode())
VALUES = st.one_of(
    st.none(),
    st.binary(max_size=100),
    st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
    JSON_VALUES,
    JSON_VALUES.map(lambda value: b" \n" + value + b"\t"),
)
MESSAGES = st.builds(
    Message,
    key=st.none() | st.binary(max_size=20),
    value=VALUES,
    headers=HEADERS,
    topic=st.from_regex(r"\A[A-Za-z0-9._-]{1,20}\Z"),
    partition=st.integers(0, 10_000),
    offset=st.integers(0, 2**63 - 1),
    timestamp=st.integers(-1, 2**63 - 1),
    fetch=st.none(),
    unreadable=st.just(()),
)


def _ours(record: Record) -> dict[str, bytes | None]:
    return {name: value for name, value in record.headers if name.startswith("dlq.")}


@given(of=MESSAGES)
@example(of=message(value=b"9" * 5_000))
@example(of=message(value=b"[" * 200 + b"]" * 200))
@example(of=message(value=b"[" * 100_000))
@example(of=message(value=b"\xef\xbb\xbf{}"))
@example(of=message(value=b'{"a":1,"a":2}'))
@example(of=message(value=b'"\\ud800"'))
@example(of=message(value=b"NaN"))
@example(of=message(value=b"1e999999999999"))
@example(of=message(value="\u2028".encode()))
@example(of=message(value='{"merchant":"Café"}'.encode()))  # more bytes than characters
@example(of=message(headers=[("a", b"1"), ("a", None), ("a", b"\xff")]))
def test_the_original_message_can_be_read_back(of: Message) -> None:
    """Key, value, headers, position and time, exactly, whatever they are."""
    assert to_message(to_record(failure(of=of), GROUP)) == of


@given(of=MESSAGES)
def test_the_value_is_a_json_object(of: Message) -> None:
    """Of three fields, and for what is not UTF-8 a fourth."""
    envelope = json.loads(to_record(failure(of=of, error="field: rule"), GROUP).value)

    assert envelope.keys() - {"original"} == {"transaction", "error", "timestamp"}
    assert envelope["error"] == "field: rule"


@pytest.mark.parametrize(
    ("value", "encoding", "transaction"),
    [
        pytest.param(b' {"a": 1.50} ', b"json", {"a": 1.5}, id="json"),
        pytest.param(b"[1]", b"json", [1], id="array"),
        pytest.param(b"not json", b"text", "not json", id="text"),
        pytest.param(b"", b"text", "", id="empty"),
        pytest.param(b'"\0"', b"text", '"\0"', id="NUL"),
        pytest.param(b'{"a":1,"a":2}', b"text", '{"a":1,"a":2}', id="doubled key"),
        pytest.param(b"\xffabc", b"base64", "\ufffdabc", id="binary"),
        pytest.param(None, b"none", None, id="none"),
    ],
)
def test_the_transaction_is_what_came_as_readable_as_can_be(
    value: bytes | None, encoding: bytes, transaction: object
) -> None:
    """The JSON as it came, else its text; `dlq.encoding` tells which."""
    record = to_record(failure(of=message(value=value)), GROUP)

    assert json.loads(record.value)["transaction"] == transaction
    assert _ours(record)["dlq.encoding"] == encoding


def test_json_stands_in_the_envelope_verbatim() -> None:
    """Not parsed and written again: spaces and the spelling of numbers are the producer's."""
    value = b'{ "amount": 12345678901234.56780, "id": 1e2 }'

    assert to_record(failure(of=message(value=value)), GROUP).value.startswith(
        b'{"transaction":' + value
    )


def test_bytes_that_are_no_text_are_there_as_base64() -> None:
    """For tools that read the envelope without this project."""
    envelope = json.loads(to_record(failure(of=message(value=b"\xff\x00")), GROUP).value)

    assert base64.b64decode(envelope["original"]) == b"\xff\x00"


def _large_values(seed: int) -> Iterator[bytes]:
    """Of all kinds that may come by mistake."""
    rng = random.Random(seed)  # noqa: S311 - chance that can be repeated
    kinds: list[Callable[[int], bytes]] = [
        rng.randbytes,
        lambda size: gzip.compress(rng.randbytes(size)),
        lambda size: b"\0\0\0\0\x07" + bytes(rng.choices(range(128), k=size)),
        lambda size: bytes(rng.choices(b"\0\1\x1f", k=size)),
        lambda size: bytes(rng.choices(b'"\\\n{', k=size)),
        lambda size: "".join(rng.choices("é😀\u2028\0", k=size // 3)).encode(),
        lambda size: transaction_text(description=f'"{"x" * size}"').decode().encode("utf-16"),
        lambda size: b"{" + transaction_text(description=f'"{"x" * size}"'),
        lambda size: transaction_text(other="[" + "1e9," * (size // 4) + "1]"),
    ]
    for kind in kinds:
        for size in (0, 1, 100, 3_000, 300_000):
            yield kind(size + rng.randrange(3))


def test_the_original_bytes_cost_at_most_a_third_more() -> None:
    """Whatever they are, so that they are not cut off; and they are exact."""
    print("seed", SEED)  # noqa: T201 - to repeat it
    for value in _large_values(SEED):
        of = message(value=value)
        record = to_record(failure(of=of), GROUP)

        assert len(record.value) <= len(value) * 4 / 3 + 7_000, (value[:20], _ours(record))
        assert to_message(record) == of
        json.loads(record.value)


def test_the_timestamp_is_when_it_failed() -> None:
    """In UTC, not the message's own, which is in a header."""
    time = datetime.fromisoformat(json.loads(to_record(failure(), GROUP).value)["timestamp"])

    assert time.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - time) < timedelta(minutes=1)


def test_the_record_has_the_key_and_headers_of_the_message_and_its_own() -> None:
    """In this order; the names and texts are what filters and alerts are made of."""
    of = message(
        key=b"k",
        value=b"{}",
        headers=[("a", b"1"), ("a", None)],
        topic="transactions",
        partition=3,
        offset=7,
        timestamp=1_767_600_000_000,
    )

    record = to_record(
        failure(of=of, stage="score", disposition="rejected", code="status.422", attempts=4), GROUP
    )

    assert record.key == b"k"
    assert record.headers == [
        ("a", b"1"),
        ("a", None),
        ("dlq.id", b"transactions-3-7"),
        ("dlq.topic", b"transactions"),
        ("dlq.partition", b"3"),
        ("dlq.offset", b"7"),
        ("dlq.group", b"fraud-scoring"),
        ("dlq.timestamp", b"1767600000000"),
        ("dlq.stage", b"score"),
        ("dlq.disposition", b"rejected"),
        ("dlq.code", b"status.422"),
        ("dlq.attempts", b"4"),
        ("dlq.replays", b"0"),
        ("dlq.encoding", b"json"),
        ("dlq.length", b"2"),
    ]


def test_a_dead_letter_belongs_to_the_stream_that_wrote_it() -> None:
    """Other groups and other topics may share the error topic."""
    record = to_record(failure(of=message(topic="a", partition=3, offset=7)), GROUP)

    origin = Origin.read(text_headers(record.headers))

    assert origin == Origin(GROUP, "a", 3, 7)
    assert origin.belongs_to(GROUP, "a")
    assert not origin.belongs_to("another", "a")
    assert not origin.belongs_to(GROUP, "another")


def test_a_dead_letter_of_version_0_1_0_belongs_to_whoever_reads_it() -> None:
    """It names no group; its topic counts all the same."""
    headers = to_record(failure(of=message(topic="a")), GROUP).headers

    origin = Origin.read(text_headers([each for each in headers if each[0] != "dlq.group"]))

    assert origin is not None
    assert origin.belongs_to(GROUP, "a")
    assert origin.belongs_to("another", "a")
    assert not origin.belongs_to(GROUP, "another")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"dlq.replayed": "a-0-1"},
        {"dlq.topic": "a", "dlq.partition": "0"},
        {"dlq.topic": "a", "dlq.partition": "0", "dlq.offset": "x"},
    ],
)
def test_what_is_no_dead_letter_has_no_origin(headers: dict[str, str]) -> None:
    """Marks of replays, and records of others."""
    assert Origin.read(headers) is None


def test_the_same_failure_has_the_same_id() -> None:
    """Also when it is written again after a crash, and no other message's failure has it."""
    first, again, other = (
        _ours(to_record(failure(of=message(offset=offset)), GROUP))["dlq.id"]
        for offset in (1, 1, 2)
    )

    assert first == again
    assert first != other


def test_a_replayed_message_keeps_its_count_and_nothing_else_of_its_past() -> None:
    """Of the `dlq.` headers that it came with, only the number of replays is carried over."""
    past = to_record(
        failure(of=message(headers=[("a", b"1")], offset=7), attempts=9), GROUP
    ).headers
    replayed = [(name, b"2" if name == "dlq.replays" else value) for name, value in past]
    of = message(headers=[*replayed, ("dlq.cut", b"value"), ("b", b"2")], offset=70)

    record = to_record(failure(of=of, attempts=1), GROUP)

    ours = _ours(record)
    assert ours["dlq.replays"] == b"2"
    assert (ours["dlq.offset"], ours["dlq.attempts"]) == (b"70", b"1")
    assert "dlq.cut" not in ours
    names = [name for name, _ in record.headers]
    assert len(names) == len(set(names))
    assert to_message(record) == of._replace(headers=[("a", b"1"), ("b", b"2")])


@pytest.mark.parametrize("count", [None, b"\xff"], ids=["none", "not UTF-8"])
def test_a_strange_count_of_replays_is_no_obstacle(count: bytes | None) -> None:
    """Anybody can write headers."""
    of = message(headers=[("dlq.replays", count)])

    assert to_message(to_record(failure(of=of), GROUP)) == of._replace(headers=[])


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("dlq.id", b"1"), ("dlq.reason", b"unknown")],
        [("dlq.encoding", b"json")],
        [("dlq.id", b"\xff")],
    ],
    ids=["no headers", "other names", "not all", "not UTF-8"],
)
def test_a_record_of_others_has_no_original(headers: list[tuple[str, bytes | None]]) -> None:
    """Whatever else is in the topic does not stop who reads it."""
    assert to_message(Record(None, b"anything", headers)) is None


@pytest.mark.parametrize(
    ("encoding", "length", "value"),
    [
        ("json", "7", b'{"transaction":7}'),
        ("json", "-1", b'{"transaction":7}'),
        ("json", "1", b'{"another":7}'),
        ("json", "2", None),
        ("text", "8", b'{"transaction":{"a": 1}}'),
        ("text", "1", b'{"transaction":"ab"}'),
        ("text", "3", b'{"transaction":"\\ud800"}'),
        ("text", "1", b"[" * 100_000),
        ("text", "2", b"[]"),
        ("base64", "1", b'{"original":"*AA=="}'),
        ("base64", "1", b'{"original":7}'),
        ("base64", "2", b'{"original":"AA=="}'),
        ("none", "1", b'{"transaction":null}'),
        ("unknown", "0", b'{"transaction":null}'),
        ("json", "9" * 5_000, b'{"transaction":7}'),
    ],
)
def test_a_record_that_contradicts_itself_has_no_original(
    encoding: str, length: str, value: bytes | None
) -> None:
    """Else a replay would send what never was a message, or end in a traceback."""
    told = {"dlq.encoding": encoding.encode(), "dlq.length": length.encode()}
    record = to_record(failure(), GROUP)
    headers = [(name, told.get(name, header)) for name, header in record.headers]

    assert to_message(Record(None, value, headers)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(transaction_text(description=f'"{"x" * 2_000_000}"'), id="json"),
        pytest.param(b"\x01" * 2_000_000, id="to be escaped"),
        pytest.param(b"\xff" * 2_000_000, id="binary"),
        pytest.param("😀".encode() * 500_000, id="wide"),
    ],
)
def test_a_cut_record_is_small_and_still_json(value: bytes) -> None:
    """Whatever was large, so that no record is ever too large for the topic."""
    of = message(value=value, key=b"k" * 1_000_000, headers=[("a", b"x" * 1_000_000)] * 2)

    record = truncate(failure(of=of, error="field: rule"), GROUP)

    headers = sum(len(name) + len(header or b"") for name, header in record.headers)
    assert len(record.value) + len(record.key or b"") + headers < 100_000
    assert json.loads(record.value)["error"] == "field: rule"


def test_a_cut_record_begins_like_the_original() -> None:
    """Enough to recognise it; all of it stays readable at its position."""
    record = truncate(failure(of=message(value=b"abc" * 1_000_000, partition=3, offset=7)), GROUP)

    assert json.loads(record.value)["transaction"] == ("abc" * CUT_LENGTH)[:CUT_LENGTH]
    assert _ours(record)["dlq.id"] == b"transactions-3-7"
    assert _ours(record)["dlq.length"] == b"3000000"


LARGE = b"x" * (CUT_LENGTH + 1)


@pytest.mark.parametrize(
    ("key", "headers", "missing"),
    [
        pytest.param(b"k", [("a", b"1")], b"value", id="value"),
        pytest.param(None, [], b"value", id="value, and there was nothing else"),
        pytest.param(LARGE, [("a", b"1")], b"value,key", id="key"),
        pytest.param(b"k", [("a", LARGE)], b"value,headers", id="headers"),
        pytest.param(b"k", [("a", b"1" * 100)] * 1_000, b"value,headers", id="many headers"),
        pytest.param(b"k", [("", None)] * 100_000, b"value,headers", id="many empty headers"),
        pytest.param(LARGE, [("a", LARGE)], b"value,headers,key", id="all"),
    ],
)
def test_a_cut_record_names_what_is_missing(
    key: bytes | None, headers: list[tuple[str, bytes | None]], missing: bytes
) -> None:
    """What is not named is there."""
    record = truncate(failure(of=message(value=LARGE, key=key, headers=headers)), GROUP)

    assert record.headers[-1] == ("dlq.cut", missing)
    assert record.key == (None if b"key" in missing else key)
    kept = [header for header in record.headers if not header[0].startswith("dlq.")]
    assert kept == ([] if b"headers" in missing else headers)


@pytest.mark.parametrize("large", [False, True], ids=["whole", "cut"])
def test_what_the_client_could_not_read_is_named_as_missing(*, large: bool) -> None:
    """The rest is there, but it is not the original, and must not be sent back as if it were."""
    value = transaction_text()
    of = message(value=value, key=b"k", headers=[("a", b"1")], unreadable=("headers",))

    record = (truncate if large else to_record)(failure(of=of), GROUP)

    assert record.headers[-1] == ("dlq.cut", b"value,headers" if large else b"headers")
    assert (record.key, record.headers[0]) == (b"k", ("a", b"1"))
    assert large or record.value.startswith(b'{"transaction":' + value)
    assert to_message(record) is None


def test_a_cut_record_has_no_original() -> None:
    """A replay must not send the beginning of a message as if it were the message."""
    assert to_message(truncate(failure(), GROUP)) is None


@given(value=JSON_VALUES)
def test_only_what_the_stream_itself_takes_for_json_is_json(value: bytes) -> None:
    """Envelope and decoder agree, so that nobody sees NaN in a valid envelope."""
    try:
        parse_json(value)
    except ValueError:
        expected = b"text"
    else:
        expected = b"json"

    assert _ours(to_record(failure(of=message(value=value)), GROUP))["dlq.encoding"] == expected
