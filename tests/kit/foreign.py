"""Records of the error topic that others may write: anything, and almost what the stream writes."""

import random
from collections.abc import Iterator
from typing import Final

from operators.dead_letters.envelope import Record
from tests.kit.raw_producer import RawRecord

__all__ = ["foreign_records"]

NUMBERS: Final = [
    *(b"", b"-1", b"+7", b" 7", b"7 ", b"07", b"0_7", b"-0", b"7.0", b"1e3", b"x", b"\xff", b"\0"),
    *("٣".encode(), b"9" * 19, b"9" * 30, b"9" * 4_000, b"9" * 5_000, b"-" + b"9" * 4_000),
]
TEXTS: Final = [b"", b"\xff", b"\0", b"x", b"\x1b[31m", b"a\nb", b"[/]", b"x" * 5_000, None]
VALUES: Final = [
    *(None, b"", b"\xff", b"[" * 100_000, b"{}", b'{"transaction":', b'{"transaction":7}', b"null"),
    *(b'{"transaction":{"a":1}}', b'{"original":7}', b'{"original":"*"}', b'{"original":"\xc3"}'),
    *(b'{"transaction":"\\ud800"}', b"9" * 5_000, b'{"original":["AA=="]}'),
]


def foreign_records(seed: int, count: int, ours: Record) -> Iterator[RawRecord]:
    """Make records of which none is a dead letter of the stream, nor a mark.

    :arg ours: A dead letter of the stream, in which one thing is changed so that the stream cannot
        have written it; or everything is.

    """
    rng = random.Random(seed)  # noqa: S311 - chance that can be repeated
    positions = {b"dlq.topic", b"dlq.partition", b"dlq.offset"}
    for _ in range(count):
        headers = [(name.encode(), value) for name, value in ours.headers]
        at = rng.choice([at for at, (name, _) in enumerate(headers) if name in positions])
        name, value = headers[at]
        match rng.randrange(6):
            case 0:
                headers = []
            case 1:
                del headers[at]
            case 2:
                odd = TEXTS if name == b"dlq.topic" else NUMBERS
                headers[at] = (name, rng.choice(odd))
            case 3:
                headers.insert(rng.randrange(len(headers)), (name, rng.choice([value, b"1", None])))
            case 4:
                headers.insert(rng.randrange(len(headers) + 1), (b"caf\xe9", b"1"))
            case _:
                names = [each for each, _ in headers] + [b"dlq.replayed"]
                pairs = rng.sample(names, rng.randrange(len(names)))
                headers = [(each, rng.choice([*NUMBERS, *TEXTS])) for each in pairs]
        value = rng.choice([*VALUES, ours.value])
        yield RawRecord(value, rng.choice([None, b"", b"\xff", ours.key]), headers)
