"""Where a partition is read on: what snapshot and group say, and which of them counts."""

import pytest
import structlog
from confluent_kafka import TopicPartition

from operators.errors import SourceError
from operators.kafka.metadata import CommitMetadata, LettersPosition, ResumePoint, State
from operators.kafka.start import _resume_point

ID = "EaE9tDgOQb"
LETTERS = LettersPosition(3, 42)


def snapshot(
    offset: int, *, topic_id: str = ID, generation: int = 0, keeps_metadata: bool = True
) -> State:
    """Make the snapshot of a partition."""
    point = ResumePoint(offset, CommitMetadata(topic_id, LETTERS, generation))
    return point.state(keeps_metadata=keeps_metadata)


def ours(offset: int, *, topic_id: str = ID, generation: int = 0) -> TopicPartition:
    """Make an offset that the stream has committed."""
    metadata = CommitMetadata(topic_id, LettersPosition(3, 50), generation)
    return ResumePoint(offset, metadata).commit("t", 0)


def by_hand(offset: int) -> TopicPartition:
    """Make an offset that somebody set with a tool."""
    return TopicPartition("t", 0, offset)


def test_without_a_snapshot_the_groups_offset_counts() -> None:
    """With all that is known there."""
    point = _resume_point(ours(100, generation=2), None, ID)

    assert point == ResumePoint(100, CommitMetadata(ID, LettersPosition(3, 50), 2))


def test_an_offset_without_metadata_is_all_that_is_known() -> None:
    """Of another consumer of that group, or set by hand: all dead letters have to be looked at."""
    assert _resume_point(by_hand(100), None, ID) == ResumePoint(100, CommitMetadata(ID))


@pytest.mark.parametrize(("saved", "committed", "counts"), [(90, 100, 100), (100, 90, 100)])
def test_of_snapshot_and_commit_the_higher_counts(saved: int, committed: int, counts: int) -> None:
    """Everything before either is durable."""
    assert _resume_point(ours(committed), snapshot(saved), ID).offset == counts


@pytest.mark.parametrize("offset", [10, 200])
def test_an_offset_that_was_set_by_hand_takes_precedence(offset: int) -> None:
    """Forward or back, and it is said; the takeover that follows makes older snapshots void."""
    with structlog.testing.capture_logs() as logs:
        point = _resume_point(by_hand(offset), snapshot(100, generation=4), ID)

    assert point == ResumePoint(offset, CommitMetadata(ID, None, 4))
    [line] = logs
    assert (line["event"], line["snapshot"], line["offset"]) == ("source.moved", 100, offset)


def test_an_offset_that_was_set_to_where_the_snapshot_is_moves_nothing() -> None:
    """What the snapshot knows is of use then."""
    point = _resume_point(by_hand(100), snapshot(100, generation=4), ID)

    assert point == ResumePoint(100, CommitMetadata(ID, LETTERS, 4))


def test_what_a_later_takeover_has_committed_beats_an_older_snapshot() -> None:
    """Back by hand, a run that read on from there, and a recovery directory of before."""
    assert _resume_point(ours(20, generation=1), snapshot(100), ID).offset == 20


def test_a_snapshot_of_a_later_takeover_beats_an_older_commit() -> None:
    """One of a process that was frozen, and told the broker late."""
    assert _resume_point(ours(100), snapshot(20, generation=1), ID).offset == 20


def test_a_group_that_was_only_begun_does_not_beat_a_snapshot() -> None:
    """Its offsets had expired or were deleted, and `KAFKA_START_AT` would skip what is between."""
    metadata = CommitMetadata(ID, begun=True)
    begun = ResumePoint(500, metadata).commit("t", 0)
    with structlog.testing.capture_logs() as logs:
        assert _resume_point(begun, snapshot(100), ID).offset == 100
    assert [line["event"] for line in logs] == ["source.begun"]
    assert _resume_point(begun, None, ID) == ResumePoint(500, CommitMetadata(ID))


def test_a_known_topic_is_not_forgotten() -> None:
    """Where the broker does not tell it once, the next start still knows it."""
    assert _resume_point(ours(100), None, "").metadata.topic_id == ID


def test_where_the_broker_keeps_no_metadata_the_snapshot_counts() -> None:
    """Each of our own commits looks there as if it were set by hand."""
    point = _resume_point(by_hand(200), snapshot(100, keeps_metadata=False), ID)

    assert point == ResumePoint(100, CommitMetadata(ID, LETTERS))


@pytest.mark.parametrize(
    ("committed", "state"),
    [
        (ours(100, topic_id="another"), None),
        (ours(100, topic_id="another"), snapshot(100)),
        (ours(100), snapshot(100, topic_id="another")),
        (by_hand(100), snapshot(100, topic_id="another")),
    ],
)
def test_positions_in_a_topic_that_was_re_created_are_refused(
    committed: TopicPartition, state: State | None
) -> None:
    """They mean other messages now."""
    with pytest.raises(SourceError, match="0-t: the topic was deleted and"):
        _resume_point(committed, state, ID)


@pytest.mark.parametrize(("before", "now"), [("", ID), (ID, ""), ("", "")])
def test_a_topic_whose_id_is_not_known_is_taken_for_the_same(before: str, now: str) -> None:
    """Brokers before 2.8 tell none, and an upgrade must not stop the stream."""
    committed, state = ours(100, topic_id=before), snapshot(90, topic_id=before)

    assert _resume_point(committed, state, now).offset == 100


def test_a_snapshot_of_another_version_stops_the_stream() -> None:
    """And is logged, for no traceback of a cluster's worker is printed."""
    with (
        structlog.testing.capture_logs() as logs,
        pytest.raises(SourceError, match="another version"),
    ):
        _resume_point(ours(100), {"version": 1}, ID)

    assert [(line["event"], line["log_level"]) for line in logs] == [("source.stopped", "error")]
