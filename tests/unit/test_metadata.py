"""What a successor is told: the forms of commit metadata and snapshot, which must not change."""

import json
from typing import Any

import pytest

from operators.errors import SourceError
from operators.kafka.metadata import (
    NOTHING_KNOWN,
    CommitMetadata,
    LettersPosition,
    ResumePoint,
)

METADATA = CommitMetadata("EaE9tDgOQb", LettersPosition(3, 42), 1)
POINT = ResumePoint(1_200, METADATA)
SNAPSHOT = {
    "version": 2,
    "offset": 1_200,
    "topic_id": "EaE9tDgOQb",
    "letters": (3, 42),
    "generation": 1,
    "begun": False,
    "keeps_metadata": True,
}
"""If this changes, so must its version."""


def test_the_form_of_commit_metadata() -> None:
    """Read by later versions, and by people who look at the group's offsets."""
    text = (
        '{"by": "fraud-scoring-stream", "topic_id": "EaE9tDgOQb", "letters": [3, 42],'
        ' "generation": 1, "begun": false}'
    )

    assert METADATA.write() == text
    assert CommitMetadata.read(text) == METADATA


def test_the_form_of_a_snapshot() -> None:
    """Plain values, which outlive a renamed class."""
    assert POINT.state(keeps_metadata=True) == SNAPSHOT
    assert ResumePoint.read("0-t", SNAPSHOT) == POINT


@pytest.mark.parametrize("letters", [None, LettersPosition(0, 0)])
@pytest.mark.parametrize("topic_id", ["", "EaE9tDgOQb"])
def test_both_are_read_as_they_were_written(topic_id: str, letters: LettersPosition | None) -> None:
    """Also where nothing is known of the topic or of its dead letters."""
    metadata = CommitMetadata(topic_id, letters)
    point = ResumePoint(0, metadata)

    assert CommitMetadata.read(metadata.write()) == metadata
    assert ResumePoint.read("0-t", point.state(keeps_metadata=False)) == point


def test_an_offset_is_committed_with_its_metadata() -> None:
    """In one."""
    at = POINT.commit("transactions", 3)

    assert (at.topic, at.partition, at.offset) == ("transactions", 3, 1_200)
    assert at.metadata == METADATA.write()


def test_metadata_of_version_0_1_0_is_understood() -> None:
    """It has the topic's id and a time; where dead letters begin is not known."""
    text = '{"by": "fraud-scoring-stream", "topic_id": "EaE9tDgOQb", "taken": 1767600000000}'

    assert CommitMetadata.read(text) == CommitMetadata("EaE9tDgOQb", None, 0)


@pytest.mark.parametrize(
    "metadata",
    [
        *(None, "", "set by hand", "{}", "[]", "7", "null"),
        '{"by": "another", "topic_id": ""}',
        '{"by": "fraud-scoring-stream"}',
        '{"by": "fraud-scoring-stream", "topic_id": "", "generation": "x"}',
        '{"by": "fraud-scoring-stream", "topic_id": "", "letters": [1]}',
    ],
)
def test_anything_else_is_no_metadata(metadata: str | None) -> None:
    """What a tool or another consumer writes is not ours."""
    assert CommitMetadata.read(metadata) is None


@pytest.mark.parametrize("state", [None, NOTHING_KNOWN, {"version": 2}])
def test_a_snapshot_that_was_taken_before_anything_was_known_says_nothing(
    state: dict[str, Any] | None,
) -> None:
    """The stream ended before the partition was taken over."""
    assert ResumePoint.read("0-t", state) is None


@pytest.mark.parametrize(
    "state",
    [
        (1, 1_200, "EaE9tDgOQb", 1_767_600_000_000),
        1_200,
        {"version": 1, "offset": 1_200},
        SNAPSHOT | {"version": 3},
        {},
    ],
    ids=["tuple", "number", "older", "newer", "empty"],
)
def test_a_snapshot_of_another_version_is_refused(state: Any) -> None:
    """In one line that says which partition, and what to do."""
    with pytest.raises(SourceError) as raised:
        ResumePoint.read("0-t", state)

    assert str(raised.value) == (
        "0-t: the recovery directory (-r) was written by another version of this stream and cannot"
        " be read. Start with an empty one: the offsets of the consumer group are enough to go on"
    )


def test_metadata_fits_kafkas_limit() -> None:
    """`offset.metadata.max.bytes` is 4,096 by default; a longer one would fail each commit."""
    longest = CommitMetadata("x" * 22, LettersPosition(2**31 - 1, 2**63 - 1), 2**31 - 1)

    assert len(longest.write().encode()) < 4_096
    assert json.loads(longest.write())["by"]
