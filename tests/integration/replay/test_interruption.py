"""What an end in the middle of a replay leaves."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, Signals
from typing import Any

import pytest
from confluent_kafka import Producer

from lab.servers import ApacheKafka, wait_until
from operators.errors import DeliveryError
from ops.replay.sender import Outgoing as Back
from ops.replay.sender import Sender
from tests.integration.replay.world import World
from tests.kit.factories import message


@pytest.mark.parametrize(("number", "status"), [(SIGINT, 130), (SIGTERM, 143)])
def test_a_signal_ends_it_with_what_was_done_so_far(
    world: World, tmp_path: Path, number: Signals, status: int
) -> None:
    """The same command goes on, and nothing is sent twice."""
    world.bury_many(30)
    with world.process(tmp_path, "--rate", "2") as process:
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
    with world.process(tmp_path, "--rate", "40") as process:
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
            world.mark(at, partition=at % 4),
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
    world.bury(world.letter(0), partition=0)
    settings = {**apache_kafka.client_settings, "transactional.id": world.topics.group}
    other = Producer(settings)
    other.init_transactions(20)
    other.begin_transaction()
    other.produce(world.topics.failed, b"open", partition=0)
    other.flush(10)
    world.bury(world.mark(0, timestamp=message().timestamp).record(), partition=0)
    result = world.replay(START_TIMEOUT="2")
    assert result.status == 2
    [line] = result.errors
    assert line.startswith("replay: KAFKA_BOOTSTRAP_SERVERS: cannot read ")
    other.abort_transaction(20)
    assert world.replay().lines[-1].startswith("Replayed 0 ")
    assert world.back() == []


def test_a_broker_that_goes_away_ends_it_with_what_was_done_so_far(
    world: World, tmp_path: Path
) -> None:
    """Exit code 1, how many were sent, and one line that names the setting."""
    world.variables["START_TIMEOUT"] = "2"
    world.bury_many(40)
    with world.process(tmp_path, "--rate", "2") as process:
        wait_until(lambda: len(world.back()) >= 3, what="the first messages")
        world.broker.kill()
        assert process.wait(timedelta(seconds=40)) == 1
        lines = process.lines()
    assert re.fullmatch(r"Replayed \d+ of 40 messages to .*", lines[-2])
    assert lines[-1].startswith("replay: KAFKA_")
    assert "Traceback" not in process.output()
