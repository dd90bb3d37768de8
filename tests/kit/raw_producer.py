"""Records that confluent-kafka's own producer cannot make: a Produce request, byte by byte.

Other clients can write header names that are no text, and times before 1970. The format is that of
Kafka's protocol guide: a record batch of version 2 in a Produce request of version 3.
"""

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lab.servers import KafkaServer

__all__ = ["RawRecord", "produce_raw"]

CASTAGNOLI: Final = 0x82F63B78
TIMEOUT: Final = 30.0  # seconds


@dataclass(frozen=True)
class RawRecord:
    """A record, in bytes."""

    value: bytes | None
    key: bytes | None = None
    headers: Sequence[tuple[bytes, bytes | None]] = ()
    timestamp: int = 1_770_000_000_000
    """Milliseconds."""


def produce_raw(
    broker: KafkaServer, topic: str, records: Sequence[RawRecord], *, partition: int = 0
) -> int:
    """Send records in one batch.

    :arg broker: Has one node, which leads every partition.

    :returns: The offset of the first.

    :raises AssertionError: The broker refuses them.

    """
    batch = _batch(records)
    body = struct.pack(">hhii", -1, -1, 30_000, 1) + _text(topic)
    body += struct.pack(">iii", 1, partition, len(batch)) + batch
    request = struct.pack(">hhi", 0, 3, 1) + _text("raw") + body
    host, port = broker.bootstrap_servers.rsplit(":", 1)
    with socket.create_connection((host, int(port)), TIMEOUT) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        with connection.makefile("rb") as answers:
            [length] = struct.unpack(">i", answers.read(4))
            answer = answers.read(length)
    # Correlation, topics, its name, partitions, partition; then what is looked for.
    start = 4 + 4 + 2 + len(topic.encode()) + 4 + 4
    code, offset = struct.unpack_from(">hq", answer, start)
    assert code == 0, f"the broker refuses the records: error {code}"
    return int(offset)


def _batch(records: Sequence[RawRecord]) -> bytes:
    first = records[0].timestamp
    latest = max(record.timestamp for record in records)
    body = struct.pack(">hiqqqhi", 0, len(records) - 1, first, latest, -1, -1, -1)
    body += struct.pack(">i", len(records))
    for number, record in enumerate(records):
        body += _record(record, number, record.timestamp - first)
    behind_length = struct.pack(">ibI", -1, 2, _crc32c(body)) + body
    return struct.pack(">qi", 0, len(behind_length)) + behind_length


def _record(record: RawRecord, number: int, since_first: int) -> bytes:
    body = b"\0" + _varint(since_first) + _varint(number)
    body += _bytes(record.key) + _bytes(record.value) + _varint(len(record.headers))
    for name, value in record.headers:
        body += _bytes(name) + _bytes(value)
    return _varint(len(body)) + body


def _text(text: str) -> bytes:
    return struct.pack(">h", len(text.encode())) + text.encode()


def _bytes(content: bytes | None) -> bytes:
    return _varint(-1) if content is None else _varint(len(content)) + content


def _varint(number: int) -> bytes:
    rest = (number << 1) ^ (number >> 63)  # zigzag
    encoded = bytearray()
    while rest > 0x7F:
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*encoded, rest])


def _crc32c(content: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in content:
        crc = CRCS[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _crc_of(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (CASTAGNOLI if byte & 1 else 0)
    return byte


CRCS: Final = [_crc_of(byte) for byte in range(256)]
