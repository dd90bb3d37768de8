"""What the client gives of a record, and what it cannot give.

confluent-kafka makes Python objects of a record's parts when it is asked for them, and that can
fail: if the name of a header is not UTF-8, which Kafka allows and other clients write, `headers()`
raises SystemError. Whatever the client raises for one record belongs to that record. This is the
one place that says so: the source makes a dead letter of it, and those who read the error topic
pass it over.

`headers()` does not always raise then. Where Python has specialised the call it does not look for
the exception, which comes up at some later call; and when the client is asked again, it raises
nothing. Either way it gives a list in which that header is a pair with a hole. Python must not
touch such a pair, or the process crashes. The garbage collector's view of it leaves the hole out:
every list is looked at in this way first, which brings a pending exception up, too.
"""

import gc
from collections.abc import Callable
from typing import Any, NamedTuple

from confluent_kafka import Message as KafkaMessage

__all__ = ["Contents", "Headers", "contents", "position", "readable_headers"]

Headers = list[tuple[str, bytes | None]]


class Contents(NamedTuple):
    """Parts of a record."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int
    """Milliseconds since 1970; -1 if there is none."""
    unreadable: tuple[str, ...] = ()
    """Names of the parts that are missing here, in whole or in part."""


def contents(record: KafkaMessage) -> Contents:
    """Take a record's parts, as far as the client gives them.

    :arg record: Without error.

    """
    try:
        headers: Any = record.headers()
        if headers and _have_holes(headers):
            return _one_by_one(record)
        # A record without error has all parts; the client's types say that it may not.
        found: Any = (record.key(), record.value(), headers or [], record.timestamp()[1])
        return Contents(*found)
    except MemoryError:
        raise  # of this process, not of the record
    except Exception:  # noqa: BLE001 - whatever it is
        return _one_by_one(record)


def readable_headers(record: KafkaMessage) -> Headers:
    """Take the headers of a record of the error topic.

    :returns: None of them if one is unreadable: the stream's own client cannot have written it.

    """
    unreadable: list[str] = []
    headers = _headers(record, unreadable)
    return [] if unreadable else headers


def position(record: KafkaMessage) -> tuple[int, int]:
    """Partition and offset, which all that was read has; the client's types say otherwise."""
    return record.partition(), record.offset()  # type: ignore[return-value]


def _one_by_one(record: KafkaMessage) -> Contents:
    unreadable: list[str] = []
    key = _part("key", record.key, unreadable)
    value = _part("value", record.value, unreadable)
    headers = _headers(record, unreadable)
    timestamp = _part("timestamp", record.timestamp, unreadable)
    at = -1 if timestamp is None else timestamp[1]
    return Contents(key, value, headers, at, tuple(unreadable))


def _headers(record: KafkaMessage, unreadable: list[str]) -> Headers:
    """Those that have no hole."""
    for _ in range(2):  # asked again it gives what it has
        try:
            found: Any = record.headers() or []
            if not _have_holes(found):
                return found  # type: ignore[no-any-return]
            unreadable.append("headers")
            return [pair for pair in found if not _have_holes([pair])]
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001, S112 - as above
            continue
    unreadable.append("headers")
    return []


def _have_holes(headers: Headers) -> bool:
    return len(gc.get_referents(*headers)) < 2 * len(headers)


def _part(name: str, take: Callable[[], Any], unreadable: list[str]) -> Any:
    try:
        return take()
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - as above
        unreadable.append(name)
        return None
