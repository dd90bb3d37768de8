"""What others write to the error topic is none of the stream's, whatever it looks like."""

from typing import Final

import pytest

from lab.servers import KafkaServer
from operators.dead_letters.envelope import Origin, Record
from operators.errors import BugError
from tests.integration.audit.world import World as Audited
from tests.integration.replay.world import World as Replayable
from tests.kit.foreign import foreign_records
from tests.kit.kafka import Topics
from tests.kit.letters import PARTITION, Writing
from tests.kit.raw_producer import produce_raw

SEED: Final = 20260606
COUNT: Final = 400


def _litter(broker: KafkaServer, topics: Topics, ours: Record) -> None:
    print("seed", SEED)  # noqa: T201 - to repeat it
    records = list(foreign_records(SEED, COUNT, ours))
    for start in range(0, COUNT, 20):
        produce_raw(broker, topics.failed, records[start : start + 20])


def test_the_audit_passes_over_what_others_wrote(
    broker: KafkaServer, topics: Topics, database_url: str
) -> None:
    """It counts the dead letters of the stream alone."""
    world = Audited(broker, topics, database_url)
    world.send(3)
    world.store([0, 1])
    world.bury(2)
    world.commit(3)
    _litter(broker, topics, Replayable(broker, topics).letter(1))
    result = world.audited()
    assert result.status == 0
    assert result.total == {"settled": 3, "stored": 2, "dead_letters": 1}


def test_a_replay_passes_over_what_others_wrote(broker: KafkaServer, topics: Topics) -> None:
    """It sends the dead letters of the stream alone, and says how many records are none."""
    world = Replayable(broker, topics)
    world.bury(world.letter(5))
    _litter(broker, topics, world.letter(1))
    result = world.replay()
    assert result.status == 0, result.errors
    assert result.lines[-1] == f"Replayed 1 messages to {topics.transactions}."
    [stays] = [line for line in result.lines if line.startswith("no dead letter")]
    others = [line for line in result.lines if line.startswith("of another stream")]
    assert sum(int(line.split()[-1]) for line in [stays, *others]) == COUNT
    assert world.ids() == {f"{topics.transactions}-0-5": 1}


def test_a_takeover_passes_over_what_others_wrote(broker: KafkaServer, topics: Topics) -> None:
    """The dead letters that it knows again are the stream's alone."""
    writing = Writing(broker, topics)
    writing.write(*writing.failures(1))
    _litter(broker, topics, Replayable(broker, topics).letter(2, partition=PARTITION))
    successor = writing.take_over(offset=0)
    known = [successor.has(each.message) for each in writing.failures(1, 2)]
    assert known == [True, False]
    assert successor.position(PARTITION, 2) is not None


def test_a_bug_is_told_with_the_position_of_the_record(
    broker: KafkaServer, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, without what is in it."""

    def read(_told: object) -> None:
        msg = "4111-SECRET"
        raise LookupError(msg)

    writing = Writing(broker, topics)
    writing.write(*writing.failures(1))
    monkeypatch.setattr(Origin, "read", read)
    expected = (
        rf"^\d-{topics.failed}: offset 0: reading a record failed with LookupError at .*: a bug$"
    )
    with pytest.raises(BugError, match=expected):
        writing.take_over(offset=0)
