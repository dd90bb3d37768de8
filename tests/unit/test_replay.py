"""What a replay decides before it sends anything: options, plan, pace, and what is sent."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pytest
from confluent_kafka import Message as KafkaMessage
from hypothesis import given
from hypothesis import strategies as st

from operators.dead_letters.envelope import (
    Origin,
    Record,
    text_headers,
    to_message,
    to_record,
    truncate,
)
from operators.kafka.contents import readable_headers
from operators.records import Failure, Message
from ops.replay.choice import Choice, OptionError
from ops.replay.letter import Letter, record_of
from ops.replay.pace import Pace
from ops.replay.plan import Group, Plan, Planner
from ops.replay.sender import replayed_message
from ops.replayed import Replayed
from tests.kit.factories import failure, message

GROUP = "fraud-scoring"
NOON = 1_772_366_400_000  # 2026-03-01T12:00:00Z


def kafka(record: Record, *, at: tuple[int, int] = (0, 0), time: int = NOON) -> KafkaMessage:
    """Make the record of the error topic that a consumer would give."""
    partition, offset = at
    return KafkaMessage(
        topic="transactions-failed",
        partition=partition,
        offset=offset,
        key=record.key,
        value=record.value,
        headers=list(record.headers),
        timestamp=(1, time),
    )


def dead(offset: int, *, replays: int | str = 0, partition: int = 0, **overrides: Any) -> Failure:
    """Make the failure of the message at an offset."""
    of = message(
        partition=partition, offset=offset, headers=[("dlq.replays", str(replays).encode())]
    )
    return failure(of=of, **overrides)


def mark(
    offset: int = 0,
    *,
    group: str | None = GROUP,
    topic: str = "transactions",
    partition: int = 0,
    later: int = 0,
) -> Replayed:
    """Make the mark of the dead letter of the message at an offset."""
    return Replayed(Origin(group, topic, partition, offset), message().timestamp + later, 1)


def letter(time: int = NOON, **overrides: Any) -> Letter:
    """Make a dead letter, as it is chosen by."""
    fields: dict[str, Any] = {
        "origin": Origin(GROUP, "transactions", 0, 5),
        "timestamp": NOON,
        "stage": "score",
        "disposition": "rejected",
        "code": "model.status_422",
        "replays": 0,
        "is_cut": False,
        "failed_at": time,
    } | overrides
    return Letter(**fields)


def planned(messages: Iterable[KafkaMessage], *, group: str = GROUP, **options: Any) -> Plan:
    """Let the planner of a group take messages and decide; the topic has four partitions."""
    planner = Planner(
        Choice.of(**options), group=group, topic="transactions", partitions=set(range(4))
    )
    for each in messages:
        planner.take(each)
    return planner.plan()


# Options.


@pytest.mark.parametrize(
    ("options", "fits"),
    [
        ({}, True),
        ({"stage": ["score"]}, True),
        ({"stage": ["decode", "score"]}, True),
        ({"stage": ["decode", "validate", "persist"]}, False),
        ({"disposition": ["rejected"]}, True),
        ({"disposition": ["poison", "exhausted", "conflict"]}, False),
        ({"code": ["model.status_422"]}, True),
        ({"code": ["not_json", "model.*"]}, True),
        ({"code": ["model"]}, False),
        ({"code": ["MODEL.*"]}, False),
        ({"since": "2026-03-01T12:00:00Z"}, True),
        ({"since": "2026-03-01T12:00:00.001Z"}, False),
        ({"since": "2026-03-01T13:00:00+01:00"}, True),
        ({"until": "2026-03-01T12:00:00"}, False),
        ({"until": "2026-03-01T12:00:00.001"}, True),
        ({"offsets": ["0:5"]}, True),
        ({"offsets": ["1:5"]}, False),
        ({"offsets": ["0:6"]}, False),
        ({"offsets": ["0:1-4", "0:5-5"]}, True),
        ({"offsets": ["0:1-4"]}, False),
        ({"offsets": ["0:6-9"]}, False),
        ({"offsets": ["0:5-"]}, True),
        ({"offsets": ["0:6-"]}, False),
        ({"id": ["transactions-0-5"]}, True),
        ({"id": ["transactions-0-6", "transactions-5-0"]}, False),
        ({"stage": ["score"], "code": ["not_json"]}, False),
        ({"stage": ["score"], "code": ["model.*"], "offsets": ["0:0-"]}, True),
    ],
)
def test_a_dead_letter_fits_what_was_chosen(options: dict[str, Any], *, fits: bool) -> None:
    """All filters have to fit, and of one that is given more than once, one value."""
    assert Choice.of(**options).fits(letter()) is fits


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"stage": ["scoring"]}, "--stage: must be 'decode', 'validate', 'score' or 'persist'"),
        ({"since": "noon"}, "--since: must be an ISO 8601 time such as 2026-11-23T10:00:00Z"),
        ({"until": "2026-02-30"}, "--until: must be an ISO 8601 time"),
        (
            {"since": "2026-03-01T12:00:00Z", "until": "2026-03-01T12:00:00"},
            "--until: must be after --since",
        ),
        ({"offsets": ["5"]}, "--offsets: must be PARTITION:OFFSET, PARTITION:FIRST-LAST or"),
        ({"offsets": ["0:-5"]}, "--offsets: must be PARTITION:OFFSET"),
        ({"offsets": ["0:5-4"]}, "--offsets: ends before it begins"),
        ({"max_replays": "0"}, "--max-replays: must be greater than or equal to 1"),
        ({"max_replays": "many"}, "--max-replays: must be a valid integer"),
        ({"rate": "0"}, "--rate: must be greater than 0"),
        ({"rate": "inf"}, "--rate: must be a finite number"),
    ],
)
def test_a_wrong_option_is_named_in_one_line(options: dict[str, Any], told: str) -> None:
    """With the name that it has on the command line, and what it has to be."""
    with pytest.raises(OptionError) as raised:
        Choice.of(**options)
    assert str(raised.value).startswith(told)
    assert "\n" not in str(raised.value)


# The plan.


def test_dead_letters_that_were_chosen_go_and_are_counted_by_their_reason() -> None:
    """The others are counted too."""
    letters = [
        dead(0, stage="score", disposition="rejected", code="model.status_422"),
        dead(1, stage="score", disposition="rejected", code="model.status_422", partition=1),
        dead(2, stage="score", disposition="exhausted", code="model.failed"),
        dead(3),
    ]
    plan = planned(
        (
            kafka(to_record(each, GROUP), at=(number % 2, 10 + number))
            for number, each in enumerate(letters)
        ),
        stage=["score"],
    )
    assert plan.goes == {
        Group("score", "rejected", "model.status_422"): 2,
        Group("score", "exhausted", "model.failed"): 1,
    }
    assert plan.stays == {"not chosen by the options": 1}
    assert plan.positions == {0: {10, 12}, 1: {11}}
    assert plan.total == 3


def test_what_has_a_mark_stays() -> None:
    """In whichever partition of the error topic it is read first."""
    marks = [mark(at).record() for at in (1, 2)]
    messages = [
        kafka(marks[0], at=(1, 0)),
        kafka(to_record(dead(0), GROUP), at=(0, 0)),
        kafka(to_record(dead(1), GROUP), at=(0, 1)),
        kafka(to_record(dead(2), GROUP), at=(0, 2)),
        kafka(marks[1], at=(0, 3)),
    ]
    plan = planned(messages)
    assert plan.positions == {0: {0}}
    assert plan.stays == {"replayed already": 2}


@pytest.mark.parametrize(
    "other",
    [
        mark(later=1),  # of a topic that was re-created
        mark(topic="other"),
        mark(partition=1),
        mark(group="other"),
    ],
)
def test_the_mark_of_another_message_does_not_count(other: Replayed) -> None:
    """Another stream, partition or time is another message."""
    plan = planned([kafka(to_record(dead(0), GROUP), at=(0, 0)), kafka(other.record(), at=(0, 1))])
    assert (plan.total, plan.stays) == (1, {})


def test_what_was_replayed_too_often_stays() -> None:
    """`--max-replays` ends loops; what is no number was written by somebody else."""
    letters = [dead(0, replays=1), dead(1, replays=2), dead(2, replays=3), dead(3, replays="x")]
    messages = [kafka(to_record(each, GROUP), at=(0, at)) for at, each in enumerate(letters)]
    plan = planned(messages, max_replays=2)
    assert plan.positions == {0: {0, 3}}
    assert plan.stays == {"over the limit of --max-replays": 2}
    assert planned(messages).positions == {0: {0, 1, 3}}


def test_what_cannot_be_sent_as_it_came_stays() -> None:
    """A record that was cut, one that is spoiled, and one of a partition that is gone."""
    spoiled = to_record(failure(of=message(value=b"\xff", offset=1)), GROUP)
    plan = planned(
        [
            kafka(truncate(dead(0), GROUP), at=(0, 0)),
            kafka(spoiled._replace(value=b"{}"), at=(0, 1)),
            kafka(to_record(dead(2, partition=4), GROUP), at=(0, 2)),
        ]
    )
    assert plan.total == 0
    assert plan.stays == {
        "cut: the original is not in it": 1,
        "the original cannot be restored": 1,
        "its partition is not there any more": 1,
    }


def test_a_dead_letter_that_is_there_twice_goes_once() -> None:
    """A crash long ago wrote the second."""
    plan = planned(
        [kafka(to_record(dead(0), GROUP), at=(0, 0)), kafka(to_record(dead(0), GROUP), at=(1, 7))]
    )
    assert plan.positions == {0: {0}}
    assert plan.stays == {"written twice: the first goes": 1}


def _without_group(record: Record) -> Record:
    """Make the same of version 0.1.0."""
    return record._replace(headers=[each for each in record.headers if each[0] != "dlq.group"])


def test_of_two_groups_that_share_the_error_topic_each_has_its_own() -> None:
    """A message bad for both: the replay of one leaves the other's."""
    letters = [
        kafka(to_record(dead(0), group), at=(0, at)) for at, group in enumerate([GROUP, "other"])
    ]
    marked = [*letters, kafka(mark(group="other").record(), at=(0, 2))]

    assert planned(letters).positions == {0: {0}}
    assert planned(letters, group="other").positions == {0: {1}}
    assert planned(marked).positions == {0: {0}}
    assert planned(marked, group="other").stays == {"replayed already": 1, "of another stream": 1}


def test_what_names_no_group_is_everybodys() -> None:
    """Dead letters of version 0.1.0, and their marks: whoever replays one, it is done."""
    old = kafka(_without_group(to_record(dead(0), GROUP)), at=(0, 0))
    read = Letter.read(text_headers(readable_headers(old)), NOON)
    assert read is not None

    for group in (GROUP, "other"):
        assert planned([old], group=group).total == 1
        marked = [old, kafka(read.mark.record(), at=(0, 1))]
        assert planned(marked, group=group).stays == {"replayed already": 1}


def test_records_of_others_stay() -> None:
    """Of another topic, and what is no dead letter at all."""
    other = failure(of=message(topic="other"))
    plan = planned(
        [
            kafka(to_record(other, GROUP)),
            kafka(Record(None, b"x", [])),
            kafka(Record(b"k", b"", [("a", None)])),
        ]
    )
    assert plan.total == 0
    assert plan.stays == {"of another stream": 1, "no dead letter": 2}


# What is sent.


@given(
    key=st.none() | st.binary(max_size=5),
    value=st.none() | st.binary(max_size=50),
    headers=st.lists(st.tuples(st.sampled_from(["a", "b"]), st.none() | st.binary(max_size=5))),
    replays=st.integers(0, 5),
)
def test_what_is_sent_is_the_original_and_its_count(
    key: bytes | None,
    value: bytes | None,
    headers: list[tuple[str, bytes | None]],
    replays: int,
) -> None:
    """Key, value, headers and partition to the byte, then where it comes from and how often."""
    came = [*headers, ("dlq.replays", str(replays).encode()), ("dlq.id", b"older")]
    of = message(key=key, value=value, headers=came, partition=3, offset=8)
    record = kafka(to_record(failure(of=of), GROUP))
    read, restored = (
        Letter.read(text_headers(readable_headers(record)), 0),
        to_message(record_of(record)),
    )
    assert read is not None
    assert restored is not None
    sent = replayed_message(restored, read.mark)
    assert (sent.key, sent.value, sent.topic, sent.partition) == (key, value, "transactions", 3)
    added: list[tuple[str, bytes | None]] = [
        ("dlq.id", b"transactions-3-8"),
        ("dlq.replays", str(replays + 1).encode()),
    ]
    assert sent.headers == [*headers, *added]


def test_a_replay_that_fails_again_carries_its_count_on() -> None:
    """From dead letter to replay to dead letter, until the limit is reached."""
    of: Message = message()
    for count in range(3):
        record = kafka(to_record(failure(of=of), GROUP))
        read, restored = (
            Letter.read(text_headers(readable_headers(record)), 0),
            to_message(record_of(record)),
        )
        assert read is not None
        assert restored is not None
        assert read.replays == count
        of = replayed_message(restored, read.mark)
    assert planned([kafka(to_record(failure(of=of), GROUP))]).stays == {
        "over the limit of --max-replays": 1
    }


@given(
    topic=st.from_regex(r"[A-Za-z0-9._-]{1,20}", fullmatch=True),
    group=st.none() | st.text(max_size=20),
    numbers=st.tuples(st.integers(0, 2**31 - 1), *[st.integers(0, 2**62)] * 2, st.integers(1, 100)),
)
def test_a_mark_is_read_as_it_was_written(
    topic: str, group: str | None, numbers: tuple[int, int, int, int]
) -> None:
    """Also where the topic's name has hyphens; and it is no dead letter."""
    partition, offset, timestamp, replays = numbers
    of = Replayed(Origin(group, topic, partition, offset), timestamp, replays)
    record = kafka(of.record())
    assert Replayed.read(text_headers(readable_headers(record))) == of
    assert Letter.read(text_headers(readable_headers(record)), 0) is None
    assert to_message(of.record()) is None


def test_a_dead_letter_is_no_mark() -> None:
    """Or each would count as replayed."""
    assert Replayed.read(text_headers(to_record(dead(0, replays=2), GROUP).headers)) is None


# Its pace.


class Clock:
    """Time that passes only while one waits for it, or as the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def wait(self, seconds: float) -> None:
        """Let it pass."""
        self.now += seconds


@pytest.mark.parametrize(
    ("rate", "at_once"), [(0.5, 1), (1, 1), (25, 2), (100, 10), (1_000, 100), (50_000, 100)]
)
def test_the_rate_is_kept_in_small_transactions(rate: float, at_once: int) -> None:
    """Over many of them it is what was asked for; the first goes at once."""
    clock = Clock()
    pace = Pace(rate, wait=clock.wait, clock=lambda: clock.now)
    assert pace.at_once == at_once
    pace.keep(at_once)
    assert clock.now == 100.0
    for _ in range(50):
        pace.keep(at_once)
    assert clock.now == pytest.approx(100.0 + 50 * at_once / rate)


def test_a_delay_is_not_made_up_for() -> None:
    """Or a broker that was slow would be met by a burst."""
    clock = Clock()
    pace = Pace(10, wait=clock.wait, clock=lambda: clock.now)
    pace.keep(1)
    clock.now += timedelta(minutes=1).total_seconds()
    before = clock.now
    for _ in range(11):
        pace.keep(1)
    assert clock.now == pytest.approx(before + 1)


@pytest.mark.parametrize("name", ["dlq.stage", "dlq.disposition", "dlq.code"])
@pytest.mark.parametrize("text", ["", "\x1b[31m", "a\nb", "[/]", "a b", "x" * 201])
def test_what_the_stream_would_not_write_is_no_dead_letter(name: str, text: str) -> None:
    """Anybody can write to the error topic, and these words are printed to a terminal."""
    record = to_record(dead(0), GROUP)
    headers = [(each, text.encode() if each == name else value) for each, value in record.headers]
    assert planned([kafka(record._replace(headers=headers))]).stays == {"no dead letter": 1}
