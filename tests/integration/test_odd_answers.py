"""Answers that are no HTTP, or odd: whatever comes is the service's fault, and worth a retry."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

import pytest

from operators.errors import ScoringError
from operators.model.client import ModelClient
from operators.model.errors import RefusedError, UnavailableError
from operators.records import Prediction
from tests.kit import factories

TRANSACTION: Final = factories.transaction()
BODY: Final = json.dumps(
    [{"transaction_id": str(TRANSACTION.id), "prediction": "fraud", "fraud_score": 0.5}]
).encode()
RIGHT: Final = {TRANSACTION.id.int: Prediction("fraud", 0.5, None)}
SEED: Final = 20261201
FUZZED: Final = 400
TIMEOUT: Final = 20.0  # seconds; a server that closes the connection does not let it come to that
CHUNKED: Final = b"transfer-encoding: chunked\r\n"

PIECES: Final = [
    b"\r\n",
    b"\n",
    b"\x00",
    b": ",
    b" ",
    b"\xff" * 9,
    b"HTTP/1.1 ",
    CHUNKED,
    b"9" * 25,
]


def _http(
    head: bytes = b"",
    body: bytes = BODY,
    status: bytes = b"HTTP/1.1 200 OK",
    length: bytes | None = None,
) -> bytes:
    length = b"content-length: %d\r\n" % len(body) if length is None else length
    return status + b"\r\n" + length + head + b"\r\n" + body


ODD: Final = {
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "settings of HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "SSH": b"SSH-2.0-OpenSSH_9.0\r\n",
    "SMTP": b"220 mail ESMTP\r\n",
    "nothing": b"",
    "a word": b"hello\r\n\r\n",
    "a status that is no number": _http(status=b"HTTP/1.1 abc OK"),
    "a status of five digits": _http(status=b"HTTP/1.1 99999 OK"),
    "a status of 0": _http(status=b"HTTP/1.1 000 OK"),
    "a version that is not known": _http(status=b"HTTP/9.9 200 OK"),
    "an interim answer and no other": _http(b"", b"", b"HTTP/1.1 101 Switching", b""),
    "a reason in bytes": _http(status=b"HTTP/1.1 200 \xff\xfe"),
    "a header of 9 kB": _http(b"x: " + b"a" * 9_000 + b"\r\n"),
    "200 headers": _http(b"".join(b"h%d: x\r\n" % number for number in range(200))),
    "a header without a colon": _http(b"foo\r\n"),
    "a header with NUL": _http(b"a\x00b: c\r\n"),
    "a header whose name is not ASCII": _http(b"f\xc3\xb6: x\r\n"),
    "two lengths": _http(b"content-length: 7\r\n"),
    "a length below 0": _http(length=b"content-length: -5\r\n"),
    "a length of 30 digits": _http(length=b"content-length: " + b"9" * 30 + b"\r\n"),
    "a length that is too long": _http(length=b"content-length: 5000\r\n"),
    "a length and chunks": _http(CHUNKED),
    "a chunk of size zz": _http(CHUNKED, b"zz\r\n[]\r\n0\r\n\r\n", length=b""),
    "a chunk that is too large": _http(CHUNKED, b"f" * 40 + b"\r\n[]", length=b""),
    "300 trailers": _http(CHUNKED, b"2\r\n[]\r\n0\r\n" + b"t: x\r\n" * 300 + b"\r\n", length=b""),
    "no gzip": _http(b"content-encoding: gzip\r\n"),
    "no zstd": _http(b"content-encoding: zstd\r\n", b"abc"),
    "JSON of 100,000 levels": _http(body=b"[" * 30_000),
    "a score of 6,000 digits": _http(body=BODY.replace(b"0.5", b"1" + b"0" * 6_000)),
}


@asynccontextmanager
async def _saying(answers: Iterator[bytes]) -> AsyncIterator[str]:
    """Serve raw bytes, the next ones to each request, and close the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(next(answers))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def _outcomes(answers: list[bytes]) -> list[object]:
    """What becomes of each request; anything but the four kinds of outcome is raised."""
    found: list[object] = []
    async with _saying(iter(answers)) as url:
        client = ModelClient(factories.settings(ml_api_url=url, ml_api_timeout=TIMEOUT))
        try:
            for _ in answers:
                try:
                    found.append(await client.predict([TRANSACTION]))
                except (UnavailableError, RefusedError, ScoringError) as error:
                    found.append(error)
        finally:
            await client.close()
    return found


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_answer_is_worth_a_retry(kind: str) -> None:
    """What is said of it is one line, and repeats nothing of what came."""
    [failure] = asyncio.run(_outcomes([ODD[kind]]))
    assert isinstance(failure, UnavailableError)
    assert "\n" not in str(failure)
    assert "Error" not in str(failure).replace("DecodingError", "")
    assert "hello" not in str(failure)


def _mutate(random_: random.Random) -> bytes:
    """A good answer with a few bytes changed, taken out, doubled, or cut off."""
    answer = bytearray(_http(b"retry-after: 3\r\nserver: x\r\n"))
    for _ in range(random_.randint(1, 4)):
        at = random_.randrange(len(answer) or 1)
        match random_.randrange(5):
            case 0:
                answer[at : at + 1] = random_.randbytes(1)
            case 1:
                del answer[at : at + random_.randint(1, 20)]
            case 2:
                answer[at:at] = answer[at : at + random_.randint(1, 40)]
            case 3:
                answer[at:at] = random_.choice(PIECES)
            case 4:
                del answer[at:]
    return bytes(answer)


def test_no_answer_ends_the_stream_without_a_word() -> None:
    """Hundreds of answers that are broken by chance: each is right, or has an outcome of ours."""
    print(f"seed {SEED}")  # noqa: T201 - to repeat it
    random_ = random.Random(SEED)  # noqa: S311 - not for secrets
    answers = [_mutate(random_) for _ in range(FUZZED)]
    outcomes = asyncio.run(_outcomes(answers))
    right = [outcome for outcome in outcomes if isinstance(outcome, dict)]
    assert all(outcome.keys() == RIGHT.keys() for outcome in right)
    assert len([each for each in outcomes if isinstance(each, UnavailableError)]) > FUZZED / 4


@pytest.mark.parametrize("flood", ["header", "line", "interim", "body"])
def test_an_answer_without_an_end_is_broken_off(flood: str) -> None:
    """In size or in time: no server can fill the memory."""
    begin, again = {
        "header": (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 1_000),
        "line": (b"HTTP/1.1 200 OK\r\nx: ", b"x" * 60_000),
        "interim": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000),
        "body": (b"HTTP/1.1 200 OK\r\n\r\n", b" " * 60_000),
    }[flood]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(begin)
        while not writer.is_closing():
            writer.write(again)
            try:
                await writer.drain()
            except ConnectionError:
                return

    async def ask() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            client = ModelClient(factories.settings(ml_api_url=url, ml_api_timeout=1.0))
            try:
                await client.predict([TRANSACTION])
            finally:
                await client.close()

    with pytest.raises(UnavailableError):
        asyncio.run(ask())
