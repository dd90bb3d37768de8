"""Replay against a broker: what goes back, what stays, and what an end in the middle leaves."""

import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, Signals
from typing import Any

import pytest
from confluent_kafka import Message, Producer
from typer.testing import CliRunner

import ops.replay.report
from lab.servers import ApacheKafka, KafkaServer, ModelApi, free_port
from operators.dead_letters.envelope import Record, cut, seal
from operators.errors import DeliveryError
from operators.records import Failure
from ops.__main__ import app
from ops.replay.sender import Outgoing as Back
from ops.replay.sender import Sender
from ops.replayed import Replayed
from settings import Settings
from tests.factories import failure, message, transaction_json
from tests.support import (
    Flow,
    Outgoing,
    Topics,
    environment,
    header,
    make_recovery,
    produce,
    query,
    read_all,
    recovery_options,
    settings_of,
    wait_until,
)

UNUSED = "http://unused"
DATABASE = "postgresql://fraud:hidden@unused/fraud"


@dataclass(frozen=True)
class Result:
    """What a run of the command came to."""

    status: int
    lines: list[str]
    errors: list[str]


class World:
    """A stream's topics, with dead letters in them."""

    def __init__(self, broker: KafkaServer, topics: Topics) -> None:
        self.broker, self.topics = broker, topics
        self.variables = environment(broker, topics, database_url=DATABASE, model_url=UNUSED)

    @property
    def settings(self) -> Settings:
        """As the stream has them."""
        return settings_of(self.variables)

    def dead(self, offset: int, *, partition: int = 0, **overrides: Any) -> Failure:
        """Make the failure of a message that has a customer's data in all its parts."""
        of = {
            "key": b"hidden-key",
            "value": json.dumps(transaction_json(description=f"hidden {offset}")).encode(),
            "headers": [("trace", b"hidden-header"), ("trace", b"2")],
            "topic": self.topics.transactions,
            "partition": partition,
            "offset": offset,
        } | overrides.pop("of", {})
        return failure(of=message(**of), **overrides)

    def bury(self, *records: Record, partition: int = -1) -> None:
        """Write records to the error topic."""
        letters = [
            Outgoing(
                each.value,
                key=each.key,
                headers=[(name, value or b"") for name, value in each.headers],
                partition=partition,
            )
            for each in records
        ]
        produce(self.broker, self.topics.failed, letters)

    def bury_many(self, count: int) -> None:
        """Write as many dead letters."""
        self.bury(*(seal(self.dead(at, partition=at % 4)) for at in range(count)))

    def replay(self, *arguments: str, **variables: str) -> Result:
        """Run the command to its end, in this process."""
        done = CliRunner().invoke(
            app,
            ["replay", *arguments],
            env={**self.variables, **variables},
            catch_exceptions=False,
        )
        assert "hidden" not in done.output
        return Result(done.exit_code, done.stdout.splitlines(), done.stderr.splitlines())

    def process(self, folder: Path, *arguments: str) -> Flow:
        """The command as a process of its own."""
        return Flow(folder, self.variables, module=["ops", "replay", *arguments])

    def back(self) -> list[Message]:
        """All that is in the topic that is read."""
        return read_all(self.broker, self.topics.transactions)

    def ids(self) -> Counter[str | None]:
        """How often each dead letter is in the topic that is read."""
        return Counter(header(each, "dlq.id") for each in self.back())

    def expect_each_once(self, count: int) -> None:
        """See that all that `bury_many` wrote is there once, and marked once."""
        topic = self.topics.transactions
        wanted = {f"{topic}-{at % 4}-{at}": 1 for at in range(count)}
        assert self.ids() == wanted
        marks = (header(each, "dlq.replayed") for each in read_all(self.broker, self.topics.failed))
        assert Counter(mark for mark in marks if mark is not None) == wanted


@pytest.fixture
def world(broker: KafkaServer, topics: Topics) -> World:
    """A stream's topics, empty."""
    return World(broker, topics)


# What goes back.


def test_the_original_goes_back_to_its_partition(world: World) -> None:
    """Key, bytes and headers as they were; its count and where it comes from are added."""
    values = [b'{"hidden": 1}', b"{hidden", b"\xff\xfe hidden", None, b""]
    failures = [
        world.dead(at, partition=at % 4, of={"value": value}) for at, value in enumerate(values)
    ]
    world.bury(*map(seal, failures))
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


def test_a_message_without_key_goes_back_without(world: World) -> None:
    """No key is not an empty one."""
    world.bury(seal(world.dead(0, of={"key": None, "headers": []})))
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
    often = world.dead(7, of={"headers": [("dlq.replays", b"3")]}, **rejected)
    world.bury(
        seal(world.dead(0, **rejected)),
        seal(world.dead(1, **rejected)),
        seal(world.dead(2, stage="score", disposition="exhausted", code="model.failed")),
        seal(world.dead(3)),
        cut(world.dead(4, **rejected)),
        seal(world.dead(5, of={"topic": "other"}, **rejected)),
        seal(often),
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
        ["of", "another", "topic", "1"],
        ["no", "dead", "letter", "1"],
        [],
        f"Dry run: 3 messages would go to {world.topics.transactions}; nothing was sent.".split(),
    ]
    assert world.back() == []
    assert len(read_all(world.broker, world.topics.failed)) == before


def test_what_was_replayed_is_not_replayed_again(world: World) -> None:
    """Whatever the options of the first replay and of the next were."""
    for at in range(4):
        world.bury(seal(world.dead(at, code=f"code.{at % 2}")))
    topic = world.topics.transactions
    assert world.replay("--code", "code.0").lines[-1] == f"Replayed 2 messages to {topic}."
    assert world.replay("--offsets", "0:1-").lines[-1] == f"Replayed 2 messages to {topic}."
    result = world.replay()
    assert result.lines[-1] == f"Replayed 0 messages to {topic}."
    assert any(re.fullmatch(r"replayed already +4", line) for line in result.lines)
    assert world.ids() == {f"{topic}-0-{at}": 1 for at in range(4)}


def test_options_choose(world: World) -> None:
    """Each of them reaches what decides."""
    begin = time.time()
    world.bury_many(8)
    topic = world.topics.transactions
    hour = timedelta(hours=1).total_seconds()

    def chosen(*arguments: str) -> str:
        return world.replay("--dry-run", *arguments).lines[-1].split()[2]

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


def test_the_rate_is_a_limit(world: World) -> None:
    """40 messages at 20 a second, two at once: the last ones go after 1.9 seconds."""
    world.bury_many(40)
    began = time.monotonic()
    assert world.replay("--rate", "20").status == 0
    assert time.monotonic() - began >= 1.9
    world.expect_each_once(40)


def test_progress_is_told_in_lines_where_there_is_no_terminal(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On standard error, so that the result can be kept."""
    monkeypatch.setattr(ops.replay.report, "LINE_EVERY", 0)
    world.bury_many(30)
    result = world.replay("--rate", "100")
    assert result.errors == [f"{sent} of 30 replayed" for sent in (10, 20, 30)]


# With the stream.


def settled(world: World, count: int) -> dict[str, Any]:
    """Wait until so many messages have ended, and audit."""
    found: dict[str, Any] = {}

    def ended() -> bool:
        done = CliRunner().invoke(app, ["audit", "--json"], env=world.variables)
        if done.exit_code == 2:  # the first epoch goes on
            return False
        found.update(json.loads(done.stdout))
        assert found["adds_up"], done.stdout
        return bool(found["total"]["settled"] == count)

    wait_until(ended, timedelta(seconds=40), what=f"{count} messages before the committed offset")
    return dict(found["total"])


def test_the_audit_adds_up_after_each_replay_and_loops_end(
    world: World, database_url: str, model_api: ModelApi, tmp_path: Path
) -> None:
    """What is repaired is stored, what is not comes back with its count until the limit."""
    world.variables |= {"DATABASE_URL": database_url, "ML_API_URL": model_api.url}
    good = [
        json.dumps(transaction_json(id=number, description="poison")).encode()
        for number in range(3)
    ]
    model_api.control(name="poison")
    produce(world.broker, world.topics.transactions, [*good, b"{broken"])
    options = recovery_options(make_recovery(tmp_path))
    with Flow(tmp_path, world.variables, options) as flow:
        total = settled(world, 4)
        assert (total["dead_letters"], total["put_back"]) == (4, 0)

        model_api.reset()
        assert "Replayed 4" in world.replay("--max-replays", "2").lines[-1]
        total = settled(world, 8)
        assert (total["stored"], total["dead_letters"]) == (3, 5)
        assert (total["put_back"], total["replayed"]) == (4, 1)

        assert "Replayed 1" in world.replay("--max-replays", "2").lines[-1]
        total = settled(world, 9)
        assert (total["stored"], total["dead_letters"]) == (3, 6)
        assert (total["put_back"], total["replayed"]) == (5, 2)

        result = world.replay("--max-replays", "2")
        assert "Replayed 0" in result.lines[-1]
        assert any(re.fullmatch(r"over the limit of .* 1", line) for line in result.lines)
        assert flow.running
    lines = CliRunner().invoke(app, ["audit"], env=world.variables).stdout.splitlines()
    assert "put back" in lines[0]
    assert lines[-1] == "Adds up: 9 consumed messages, each in exactly one place."
    assert query(database_url, "SELECT count(*) FROM transactions") == [(3,)]


# An end in the middle.


@pytest.mark.parametrize(("number", "status"), [(SIGINT, 130), (SIGTERM, 143)])
def test_a_signal_ends_it_with_what_was_done_so_far(
    world: World, tmp_path: Path, number: Signals, status: int
) -> None:
    """The same command goes on, and nothing is sent twice."""
    world.bury_many(30)
    with world.process(tmp_path, "--rate", "10") as process:
        wait_until(lambda: len(world.back()) >= 3, what="the first messages")
        process.signal(number)
        assert process.wait() == status
        last = process.lines()[-2:]
    topic = world.topics.transactions
    sent = len(world.back())
    assert 3 <= sent < 30
    assert last == [
        f"Replayed {sent} of 30 messages to {topic}.",
        "Interrupted. The same command goes on from here, and sends none of them again.",
    ]
    again = world.replay("--rate", "1000")
    assert again.lines[-1] == f"Replayed {30 - sent} messages to {topic}."
    world.expect_each_once(30)


@pytest.mark.apache_kafka
@pytest.mark.parametrize("enough", [1, 40, 150])
def test_a_kill_sends_nothing_twice(
    world: World, apache_kafka: ApacheKafka, tmp_path: Path, enough: int
) -> None:
    """Wherever it comes; the next replay goes on."""
    del apache_kafka
    world.bury_many(400)
    with world.process(tmp_path, "--rate", "100") as process:
        wait_until(lambda: len(world.back()) >= enough, what=f"{enough} messages")
        process.signal(SIGKILL)
        assert process.wait() == -SIGKILL
    assert len(world.back()) < 400
    assert world.replay("--rate", "1000").status == 0
    world.expect_each_once(400)


@contextmanager
def _dying_before_commit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The worst moment: all is acknowledged, nothing is committed, and nobody is there any more."""

    def flush_and_die(sender: Sender, call: Callable[[float], Any]) -> None:
        if call.__name__ == "commit_transaction":
            assert sender._producer.flush(10) == 0  # noqa: SLF001
            raise KeyboardInterrupt
        until_known(sender, call)

    until_known = Sender._until_known  # noqa: SLF001
    with monkeypatch.context() as patched:
        patched.setattr(Sender, "_until_known", flush_and_die)
        yield


@pytest.mark.apache_kafka
def test_a_death_between_acknowledgement_and_commit_leaves_nothing_behind(
    world: World, apache_kafka: ApacheKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next replay aborts it before it reads, and sends the same messages."""
    del apache_kafka
    world.bury_many(20)
    with _dying_before_commit(monkeypatch):
        dead = Sender(world.settings)
        dead.open()
        with pytest.raises(KeyboardInterrupt):
            dead.send(_some(world, range(20)))
    assert world.back() == []
    assert world.replay("--rate", "1000").lines[-1].startswith("Replayed 20 ")
    world.expect_each_once(20)


def _some(world: World, offsets: Sequence[int]) -> list[Back]:
    return [
        Back(
            world.dead(at, partition=at % 4).message,
            Replayed(world.topics.transactions, at % 4, at, 0, 1),
            0,
        )
        for at in offsets
    ]


@pytest.mark.apache_kafka
def test_a_second_replay_ends_the_first(world: World, apache_kafka: ApacheKafka) -> None:
    """What the first had not committed is not there, and it says why it ended."""
    del apache_kafka
    first, second = Sender(world.settings), Sender(world.settings)
    first.open()
    assert first.send(_some(world, range(4))) == []
    second.open()
    with pytest.raises(DeliveryError, match=r"KAFKA_CONSUMER_GROUP: another replay for .* has beg"):
        first.send(_some(world, range(4, 8)))
    assert second.send(_some(world, range(4, 8))) == []
    assert len(world.back()) == 8


@pytest.mark.apache_kafka
def test_marks_behind_an_open_transaction_are_waited_for(
    world: World, apache_kafka: ApacheKafka
) -> None:
    """What they mark would be sent twice; if it takes too long, the replay gives up."""
    world.bury(seal(world.dead(0)), partition=0)
    settings = {**apache_kafka.client_settings, "transactional.id": world.topics.group}
    other = Producer(settings)
    other.init_transactions(20)
    other.begin_transaction()
    other.produce(world.topics.failed, b"open", partition=0)
    other.flush(10)
    world.bury(
        Replayed(world.topics.transactions, 0, 0, message().timestamp, 1).record(), partition=0
    )
    result = world.replay(START_TIMEOUT="2")
    assert result.status == 2
    [line] = result.errors
    assert line.startswith("replay: KAFKA_BOOTSTRAP_SERVERS: cannot read ")
    other.abort_transaction(20)
    assert world.replay().lines[-1].startswith("Replayed 0 ")
    assert world.back() == []


# What the topic does not take.


@pytest.mark.apache_kafka
def test_the_topics_limit_is_met_in_smaller_transactions(
    world: World, apache_kafka: ApacheKafka
) -> None:
    """It holds for a request; what is too large alone is named, and all others go."""
    small = Topics(f"{world.topics.transactions}-small", world.topics.failed, world.topics.group)
    apache_kafka.create_topic(small.transactions, 1, config={"max.message.bytes": "3000"})
    world = World(apache_kafka, small)
    lengths = [1_000] * 10 + [2_960] + [1_000] * 5
    world.bury(
        *(
            seal(world.dead(at, of={"value": _noise(length), "key": None, "headers": []}))
            for at, length in enumerate(lengths)
        ),
        partition=0,
    )
    result = world.replay("--rate", "1000")
    topic = small.transactions
    assert result.status == 1
    assert result.lines[-2:] == [
        f"Too large for {topic} with two more headers: {topic}-0-10",
        f"Replayed 15 of 16 messages to {topic}.",
    ]
    assert world.ids() == {f"{topic}-0-{at}": 1 for at in range(16) if at != 10}


def _noise(length: int) -> bytes:
    """What no compression makes smaller."""
    return random.Random(length).randbytes(length)  # noqa: S311 - chance that can be repeated


# When it cannot.


@pytest.mark.parametrize(
    ("spoiled", "expected"),
    [
        ({"KAFKA_CONSUMER_GROUP": ""}, "settings: KAFKA_CONSUMER_GROUP: is not set"),
        (
            {"KAFKA_BOOTSTRAP_SERVERS": "{nobody}"},
            "replay: KAFKA_BOOTSTRAP_SERVERS: no broker answers at {nobody}",
        ),
        ({"KAFKA_TOPIC": "nowhere"}, "replay: KAFKA_TOPIC: there is no topic nowhere at "),
        (
            {"KAFKA_ERROR_TOPIC": "nowhere"},
            "replay: KAFKA_ERROR_TOPIC: there is no topic nowhere at ",
        ),
        (
            {"KAFKA_PROPERTIES": '{"linger.ms": "x"}'},
            "replay: KAFKA_PROPERTIES: ",
        ),
    ],
)
def test_what_it_needs_and_has_not_is_named(
    world: World, spoiled: dict[str, str], expected: str
) -> None:
    """Exit code 2 and one line."""
    nobody = f"127.0.0.1:{free_port()}"
    variables = {name: value.replace("{nobody}", nobody) for name, value in spoiled.items()}
    result = world.replay(START_TIMEOUT="1", **variables)
    assert result.status == 2
    assert result.lines == []
    [line] = result.errors
    assert line.startswith(expected.replace("{nobody}", nobody))


@pytest.mark.parametrize("arguments", [["--rate", "0"], ["--stage", "nope"], ["--since", "x"]])
def test_a_wrong_option_is_told_in_one_line(world: World, arguments: list[str]) -> None:
    """Exit code 2, before anything is asked."""
    result = world.replay(*arguments, KAFKA_BOOTSTRAP_SERVERS="")
    assert result.status == 2
    [line] = result.errors
    assert line.startswith(f"replay: {arguments[0]}: must be ")


def test_a_broker_that_goes_away_ends_it_with_what_was_done_so_far(
    world: World, tmp_path: Path
) -> None:
    """Exit code 1, how many were sent, and one line that names the setting."""
    world.variables["START_TIMEOUT"] = "2"
    world.bury_many(40)
    with world.process(tmp_path, "--rate", "10") as process:
        wait_until(lambda: len(world.back()) >= 3, what="the first messages")
        world.broker.kill()
        assert process.wait(timedelta(seconds=40)) == 1
        lines = process.lines()
    assert re.fullmatch(r"Replayed \d+ of 40 messages to .*", lines[-2])
    assert lines[-1].startswith("replay: KAFKA_")
    assert "Traceback" not in process.output()
