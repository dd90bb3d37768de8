"""What the client raises for one part of a record takes no other part along."""

from typing import Any

import pytest
from confluent_kafka import Message as KafkaMessage

from operators.kafka.contents import Contents, contents, readable_headers

WHOLE = Contents(b"k", b"v", [("a", b"1")], 5)


class _Record(KafkaMessage):
    """A record some of whose parts cannot be read: of the real client only headers can be so."""

    def __init__(self, broken: str, error: Exception | None = None) -> None:
        super().__init__(
            key=WHOLE.key, value=WHOLE.value, headers=list(WHOLE.headers), timestamp=(1, 5)
        )
        self._broken, self._error = broken, error or ValueError("4111-SECRET")

    def _part(self, name: str) -> Any:
        if name == self._broken:
            raise self._error
        return getattr(KafkaMessage, name)(self)

    def key(self) -> Any:
        return self._part("key")

    def value(self) -> Any:
        return self._part("value")

    def headers(self) -> Any:
        return self._part("headers")

    def timestamp(self) -> Any:
        return self._part("timestamp")


def test_a_record_is_taken_as_it_is() -> None:
    """All parts, nothing missing."""
    assert contents(_Record("")) == WHOLE
    assert readable_headers(_Record("")) == WHOLE.headers


@pytest.mark.parametrize(
    ("part", "instead"),
    [
        ("key", {"key": None}),
        ("value", {"value": None}),
        ("headers", {"headers": []}),
        ("timestamp", {"timestamp": -1}),
    ],
)
@pytest.mark.parametrize("error", [SystemError("x"), UnicodeError("x"), KeyError("x")])
def test_a_part_that_cannot_be_read_is_named(
    part: str, instead: dict[str, Any], error: Exception
) -> None:
    """Whatever the client raises."""
    assert contents(_Record(part, error)) == WHOLE._replace(unreadable=(part,), **instead)


def test_a_record_of_the_error_topic_whose_headers_cannot_be_read_has_none() -> None:
    """So it is nobody's dead letter."""
    assert readable_headers(_Record("headers")) == []


@pytest.mark.parametrize("part", ["key", "headers"])
def test_a_process_without_memory_is_no_broken_record(part: str) -> None:
    """It ends, and a message that is good is no dead letter."""
    record = _Record(part, MemoryError())

    with pytest.raises(MemoryError):
        contents(record)
