"""What goes back, and what stays."""

import gzip
import random
import re
import time
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

import ops.replay.report
import ops.replay.run
from operators.dead_letters.envelope import Record, truncate
from ops.replay.interruption import Interruption
from ops.replay.pace import Pace
from tests.integration.replay.world import World
from tests.kit.kafka import header, read_all

SEED = 20260909


def test_the_original_goes_back_to_its_partition(world: World) -> None:
    """Key, bytes and headers as they were; its count and where it comes from are added."""
    values = [b'{"hidden": 1}', b"{hidden", b"\xff\xfe hidden", None, b""]
    world.bury(
        *(
            world.letter(at, partition=at % 4, of={"value": value})
            for at, value in enumerate(values)
        )
    )
    result = world.replay()
    topic = world.topics.transactions
    assert (result.status, result.lines[-1]) == (0, f"Replayed 5 messages to {topic}.")
    found = world.back()
    assert len(found) == 5
    for each in found:
        dlq_id = header(each, "dlq.id")
        assert dlq_id is not None
        at = int(dlq_id.rsplit("-", 1)[1])
        assert (each.key(), each.value(), each.partition()) == (b"hidden-key", values[at], at % 4)
        assert each.headers() == [
            ("trace", b"hidden-header"),
            ("trace", b"2"),
            ("dlq.id", f"{topic}-{at % 4}-{at}".encode()),
            ("dlq.replays", b"1"),
        ]


def test_whatever_bytes_came_the_same_go_back(world: World) -> None:
    """Binary, compressed, in another encoding, full of escapes; small and large."""
    print("seed", SEED)  # noqa: T201 - to repeat it
    rng = random.Random(SEED)  # noqa: S311 - chance that can be repeated
    values = [
        make(size)
        for size in (0, 1, 50, 2_000, 300_000)
        for make in (
            rng.randbytes,
            lambda size: gzip.compress(rng.randbytes(size)),
            lambda size: bytes(rng.choices(b'\0\1"\\\n', k=size)),
            lambda size: "".join(rng.choices("{é😀", k=size // 4)).encode("utf-16"),
            lambda size: f'{{"a":{"1" * size}e{rng.randrange(10**20)}}}'.encode(),
        )
    ]
    world.bury(*(world.letter(at, of={"value": value}) for at, value in enumerate(values)))
    assert world.replay("--rate", "1000").status == 0
    back = {(header(each, "dlq.id") or "").rsplit("-", 1)[1]: each.value() for each in world.back()}
    assert back == {str(at): value for at, value in enumerate(values)}


def test_a_message_without_key_goes_back_without(world: World) -> None:
    """No key is not an empty one."""
    world.bury(world.letter(0, of={"key": None, "headers": []}))
    assert world.replay().status == 0
    [found] = world.back()
    assert found.key() is None


def test_a_dry_run_shows_what_would_go_and_sends_nothing(world: World) -> None:
    """By stage, disposition and code; and what stays, and why."""
    rejected: dict[str, Any] = {
        "stage": "score",
        "disposition": "rejected",
        "code": "model.status_422",
    }
    often = world.letter(7, of={"headers": [("dlq.replays", b"3")]}, **rejected)
    world.bury(
        world.letter(0, **rejected),
        world.letter(1, **rejected),
        world.letter(2, stage="score", disposition="exhausted", code="model.failed"),
        world.letter(3),
        truncate(world.dead(4, **rejected), world.topics.group),
        world.letter(5, of={"topic": "other"}, **rejected),
        often,
        Record(None, b"hidden", []),
    )
    before = len(read_all(world.broker, world.topics.failed))
    result = world.replay("--dry-run", "--stage", "score")
    assert result.status == 0
    assert result.errors == []
    assert [line.split() for line in result.lines] == [
        ["stage", "disposition", "code", "messages"],
        ["score", "exhausted", "model.failed", "1"],
        ["score", "rejected", "model.status_422", "2"],
        ["to", "be", "replayed", "3"],
        [],
        ["what", "stays,", "and", "why", "messages"],
        ["not", "chosen", "by", "the", "options", "1"],
        ["over", "the", "limit", "of", "--max-replays", "1"],
        ["cut:", "the", "original", "is", "not", "in", "it", "1"],
        ["of", "another", "stream", "1"],
        ["no", "dead", "letter", "1"],
        [],
        f"Dry run: 3 messages would go to {world.topics.transactions}; nothing was sent.".split(),
    ]
    assert world.back() == []
    assert len(read_all(world.broker, world.topics.failed)) == before


def test_what_was_replayed_is_not_replayed_again(world: World) -> None:
    """Whatever the options of the first replay and of the next were."""
    for at in range(4):
        world.bury(world.letter(at, code=f"code.{at % 2}"))
    topic = world.topics.transactions
    assert world.replay("--code", "code.0").lines[-1] == f"Replayed 2 messages to {topic}."
    assert world.replay("--offsets", "0:1-").lines[-1] == f"Replayed 2 messages to {topic}."
    result = world.replay()
    assert result.lines[-1] == f"Replayed 0 messages to {topic}."
    assert any(re.fullmatch(r"replayed already +4", line) for line in result.lines)
    assert world.ids() == {f"{topic}-0-{at}": 1 for at in range(4)}


def test_of_two_groups_that_share_the_error_topic_each_replays_its_own(world: World) -> None:
    """A message bad for both: the replay of one leaves the other's dead letter and its right."""
    world.bury(*(world.letter(0, group=group) for group in (world.topics.group, "other")))
    topic = world.topics.transactions

    assert world.replay().lines[-1] == f"Replayed 1 messages to {topic}."
    assert world.replay().lines[-1] == f"Replayed 0 messages to {topic}."
    result = world.replay(KAFKA_CONSUMER_GROUP="other")
    assert result.lines[-1] == f"Replayed 1 messages to {topic}."
    assert any(re.fullmatch(r"of another stream +1", line) for line in result.lines)

    assert world.ids() == {f"{topic}-0-0": 2}
    marks = [
        header(each, "dlq.group")
        for each in read_all(world.broker, world.topics.failed)
        if header(each, "dlq.replayed")
    ]
    assert sorted(mark or "" for mark in marks) == sorted([world.topics.group, "other"])


def test_options_choose(world: World) -> None:
    """Each of them reaches what decides."""
    begin = time.time()
    world.bury_many(8)
    topic = world.topics.transactions
    hour = timedelta(hours=1).total_seconds()

    def chosen(*arguments: str) -> str:
        lines = world.replay("--dry-run", *arguments).lines
        [total] = [line.split()[-1] for line in lines if line.startswith("to be replayed")]
        return total

    def moment(seconds: float) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))

    assert chosen() == "8"
    assert chosen("--stage", "decode", "--stage", "score") == "8"
    assert chosen("--stage", "score") == "0"
    assert chosen("--disposition", "poison") == "8"
    assert chosen("--disposition", "conflict") == "0"
    assert chosen("--code", "not_*") == "8"
    assert chosen("--offsets", "1:0-", "--offsets", "2:6") == "3"
    assert chosen("--id", f"{topic}-3-7") == "1"
    assert chosen("--since", moment(begin - hour), "--until", moment(begin + hour)) == "8"
    assert chosen("--since", moment(begin + hour)) == "0"
    assert chosen("--until", moment(begin - hour)) == "0"


def test_the_rate_is_a_limit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 messages at 20 a second, two at once: the last ones go after 1.9 seconds."""
    now = 0.0

    def wait(_self: Interruption, seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(Interruption, "wait", wait)
    monkeypatch.setattr(ops.replay.run, "Pace", partial(Pace, clock=lambda: now))
    world.bury_many(40)
    assert world.replay("--rate", "20").status == 0
    assert now == pytest.approx(1.9)
    world.expect_each_once(40)


def test_progress_is_told_in_lines_where_there_is_no_terminal(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On standard error, so that the result can be kept."""
    monkeypatch.setattr(ops.replay.report, "LINE_EVERY", 0)
    world.bury_many(30)
    result = world.replay("--rate", "100")
    assert result.errors == [f"{sent} of 30 replayed" for sent in (10, 20, 30)]


def test_options_that_nothing_fits_are_told(world: World) -> None:
    """With and without `--dry-run`; what fits, and was replayed before, is another matter."""
    world.bury(world.letter(0, code="one"), world.letter(1, code="two"))
    said = "No dead letter fits the options: nothing to replay."
    for options in (["--dry-run"], []):
        result = world.replay("--code", "no.such", *options)
        assert (result.status, result.lines[-1]) == (0, said)
    world.replay("--code", "one")
    assert world.replay("--code", "one").lines[-1].startswith("Replayed 0 messages")
