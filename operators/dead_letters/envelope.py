"""How a failure is written to the error topic, and how the original message is read from it.

The value is a JSON object: `transaction` (the JSON as it came, or its text if it was none), `error`
(field and rule, never the value) and `timestamp` (when it failed, ISO 8601, UTC). The key is the
original's. The original's headers come first, then these, all as text:

| header          | what                                                                           |
| --------------- | ------------------------------------------------------------------------------ |
| `dlq.id`        | `topic-partition-offset` of the original: the same failure has the same id     |
| `dlq.topic`, `dlq.partition`, `dlq.offset` | the same, each on its own                           |
| `dlq.group`     | the consumer group of the stream that wrote it: others may share the topic     |
| `dlq.timestamp` | milliseconds since 1970 of the original, -1 if it had none                     |
| `dlq.stage`, `dlq.disposition`, `dlq.code` | see `operators.records`                             |
| `dlq.attempts`  | how often the step tried                                                       |
| `dlq.replays`   | how often the original had been replayed from the error topic before           |
| `dlq.encoding`  | how `transaction` holds the original bytes: `json`, `text`, `base64` or `none` |
| `dlq.length`    | of the original value in bytes                                                 |
| `dlq.traceparent` | only where tracing is on: W3C's context of the batch in which it failed      |
| `dlq.cut`       | only if something of the original is missing, and what: the record was too     |
|                 | large, or Kafka's client could not read it                                     |

Records of version 0.1.0 have no `dlq.group`; they are taken for the reader's own.

Anybody may write to the error topic. A record is the stream's only if it says what the stream would
have said in the way in which it says it: each header once, numbers as Python writes them.

The original bytes are exact: `json` has them verbatim behind `{"transaction":`, `text` as a JSON
string, `base64` as `original`, beside the beginning of what text there is: for what is not UTF-8,
and for what a JSON string would make larger by more than a third.
"""

import base64
import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, NamedTuple, Self

from operators.decode import parse_json
from operators.records import Failure, Message

__all__ = [
    "Origin",
    "Record",
    "replays",
    "text_headers",
    "to_message",
    "to_record",
    "truncate",
    "whole",
]

PREFIX: Final = b'{"transaction":'
HEADER: Final = "dlq."
LONGEST: Final = 20  # digits of a number of 64 bits, and its sign
BEGINNING: Final = 1_000  # characters of what is no text, beside its bytes
CUT_LENGTH: Final = 10_000  # characters of the value, bytes of key and headers that a cut leaves

Headers = list[tuple[str, bytes | None]]


class Origin(NamedTuple):
    """Which message a dead letter is of, and whose."""

    group: str | None
    """Of the stream that wrote it; None in records of version 0.1.0."""
    topic: str
    partition: int
    offset: int

    @classmethod
    def read(cls, told: Mapping[str, str]) -> Self | None:
        """Understand the headers of a record.

        :returns: None if it is no dead letter.

        """
        try:
            return cls(
                told.get(f"{HEADER}group"),
                told[f"{HEADER}topic"],
                whole(told[f"{HEADER}partition"], bits=31),
                whole(told[f"{HEADER}offset"], bits=63),
            )
        except (KeyError, ValueError):
            return None

    def belongs_to(self, group: str, topic: str) -> bool:
        """Whether it is a dead letter of this stream."""
        return self.topic == topic and self.group in {None, group}


class Record(NamedTuple):
    """A record of the error topic."""

    key: bytes | None
    value: bytes
    headers: Headers


def to_record(failure: Failure, group: str) -> Record:
    """Make the record of a failure.

    :returns: Its record, from which `to_message` makes the message again.

    """
    encoding, transaction, extra = _embed(failure.message.value)
    return _record(failure, group, encoding, transaction, extra)


def truncate(failure: Failure, group: str) -> Record:
    """Make a record of at most some ten kilobytes, for what is too large for the error topic.

    :returns: Its record with the beginning of the value as text; `dlq.cut` names what is missing.
        The original can be read at its position for as long as its topic keeps it.

    """
    message = failure.message
    text = (message.value or b"").decode(errors="replace")[:CUT_LENGTH]
    missing = ["value"]
    headers: Headers = message.headers
    if sum(2 + len(name) + len(value or b"") for name, value in headers) > CUT_LENGTH:
        headers = []
        missing.append("headers")
    key = message.key
    if key is not None and len(key) > CUT_LENGTH:
        key = None
        missing.append("key")
    missing += [part for part in message.unreadable if part not in missing]
    cut = message._replace(key=key, headers=headers, unreadable=tuple(missing))
    return _record(failure._replace(message=cut), group, "none", _json(text), b"")


def to_message(record: Record) -> Message | None:
    """Read the original message back from its record.

    :returns: The message as it came; None if the record was cut, or is none of ours.

    """
    told = text_headers(record.headers)
    origin = Origin.read(told)
    if origin is None or f"{HEADER}cut" in told:
        return None
    try:
        encoding, length = told[f"{HEADER}encoding"], whole(told[f"{HEADER}length"], bits=31)
        return Message(
            key=record.key,
            value=_extract(record.value, encoding, length),
            headers=[header for header in record.headers if not _is_ours(header[0])],
            topic=origin.topic,
            partition=origin.partition,
            offset=origin.offset,
            timestamp=whole(told[f"{HEADER}timestamp"], bits=63, signed=True),
        )
    # RecursionError: JSON of many levels, which the stream does not write.
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):  # not ours
        return None


def text_headers(headers: Headers) -> dict[str, str]:
    """Headers of a record that begin with `dlq.`.

    :returns: By name; those that are no text, or are there twice, are left out.

    """
    found: dict[str, str] = {}
    names = Counter(name for name, _ in headers if _is_ours(name))
    for name, value in headers:
        if names[name] == 1 and value is not None:
            with suppress(UnicodeDecodeError):
                found[name] = value.decode()
    return found


def replays(told: Mapping[str, str]) -> int:
    """How often a message had been replayed; what another producer wrote there counts as 0."""
    with suppress(KeyError, ValueError):
        return whole(told[f"{HEADER}replays"], bits=31)
    return 0


def whole(text: str, *, bits: int, signed: bool = False) -> int:
    """Read a number as the stream writes it.

    :raises ValueError: It is none, is written in another way, or has more bits.

    """
    number = int(text[:LONGEST])
    least = -(1 << bits) if signed else 0
    if str(number) != text or not least <= number < 1 << bits:
        msg = "no number as the stream writes it"
        raise ValueError(msg)
    return number


def _is_ours(header: str) -> bool:
    return header.startswith(HEADER)


def _json(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode(errors="replace")


def _embed(value: bytes | None) -> tuple[str, bytes, bytes]:
    """Encoding, JSON of the transaction, and what else the envelope needs for the original."""
    if value is None:
        return "none", b"null", b""
    try:
        text = value.decode()
        parse_json(value)
    except UnicodeDecodeError:
        pass
    except ValueError:
        escaped = _json(text)
        if len(escaped) <= BEGINNING + len(value) * 4 // 3:
            return "text", escaped, b""
    else:
        return "json", value, b""
    # The beginning of a text that is mostly escapes, or of what is none, is enough to recognise it.
    beginning = value[: 4 * BEGINNING].decode(errors="replace")[:BEGINNING]
    return "base64", _json(beginning), b',"original":"' + base64.b64encode(value) + b'"'


def _extract(value: bytes, encoding: str, length: int) -> bytes | None:
    """The original bytes.

    :raises Exception: Of those that `to_message` knows: they are not there.

    """
    match encoding:
        case "json" if value.startswith(PREFIX):
            found = value[len(PREFIX) : len(PREFIX) + length]
        case "text":
            found = json.loads(value)["transaction"].encode()
        case "base64":
            found = base64.b64decode(json.loads(value)["original"], validate=True)
        case "none" if length == 0:
            return None
        case _:
            msg = "an encoding that the stream does not write"
            raise ValueError(msg)
    if len(found) != length:
        msg = "not of the length that its header says"
        raise ValueError(msg)
    return found


def _record(
    failure: Failure, group: str, encoding: str, transaction: bytes, extra: bytes
) -> Record:
    message = failure.message
    ours = {
        "id": f"{message.topic}-{message.partition}-{message.offset}",
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "group": group,
        "timestamp": message.timestamp,
        "stage": failure.stage,
        "disposition": failure.disposition,
        "code": failure.code,
        "attempts": failure.attempts,
        "replays": replays(text_headers(message.headers)),
        "encoding": encoding,
        "length": len(message.value or b""),
    }
    headers: Headers = [header for header in message.headers if not _is_ours(header[0])]
    headers += [(f"{HEADER}{name}", str(value).encode()) for name, value in ours.items()]
    if failure.trace is not None:
        # Not as `traceparent`: the producer's own is among the original's, which stay as they were.
        headers.append((f"{HEADER}traceparent", failure.trace.encode()))
    if message.unreadable:
        headers.append((f"{HEADER}cut", ",".join(message.unreadable).encode()))
    rest = {"error": failure.error, "timestamp": datetime.now(UTC).isoformat()}
    tail = b"," + json.dumps(rest).encode()[1:]
    return Record(message.key, PREFIX + transaction + extra + tail, headers)
