"""The mark in offset metadata."""

import pytest

from operators.kafka.commits import Mark


def test_a_mark_is_read_as_it_was_written() -> None:
    """Topic id and time survive."""
    mark = Mark("EaE9tDgOQb", 1_767_600_000_000)
    assert Mark.read(mark.write()) == mark


@pytest.mark.parametrize(
    "metadata",
    [
        *(None, "", "set by hand", "{}", "[]", "7", "null"),
        '{"by": "another", "topic_id": "", "taken": 1}',
        '{"by": "fraud-scoring-stream"}',
        '{"by": "fraud-scoring-stream", "topic_id": "", "taken": "x"}',
    ],
)
def test_anything_else_is_no_mark(metadata: str | None) -> None:
    """What a tool or another consumer writes is not ours."""
    assert Mark.read(metadata) is None
