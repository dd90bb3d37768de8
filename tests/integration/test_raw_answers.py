"""Answers that are no HTTP, or no answer: each is the service's fault, and ends no stream."""

import asyncio
import gzip
import json
import random
from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID

import pytest

from operators.errors import ScoringError
from operators.model.client import ModelClient
from operators.model.errors import ModelError, UnavailableError
from operators.records import Prediction
from tests.kit import factories
from tests.kit.raw_http import Talk, answering, answers

SEED: Final = random.SystemRandom().randrange(10**6)
ROUNDS: Final = 400

TRANSACTION: Final = factories.transaction()
BODY: Final = json.dumps(
    [{"transaction_id": str(TRANSACTION.id), "prediction": "fraud", "fraud_score": 0.5}]
).encode()
RIGHT: Final = Prediction("fraud", 0.5, None)


def _answer(body: bytes = BODY, *headers: bytes, status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    length = b"Content-Length: %d" % len(body)
    return b"\r\n".join([status, *(headers or [length]), b"", body])


def _chunked(*parts: bytes, headers: tuple[bytes, ...] = ()) -> bytes:
    return _answer(b"".join(parts), b"Transfer-Encoding: chunked", *headers)


def _chunk(data: bytes = BODY) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _field(literal: str) -> bytes:
    return BODY.replace(b'"fraud_score": 0.5', f'"fraud_score": {literal}'.encode())


LENGTH: Final = b"Content-Length: %d" % len(BODY)

UNREADABLE: Final[dict[str, bytes]] = {
    "nothing": b"",
    "blank lines": b"\r\n\r\n\r\n\r\n",
    "a TLS alert": b"\x15\x03\x03\x00\x02\x02\x46",
    "zeros": bytes(1000),
    "ssh": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "smtp": b"220 mail.test ESMTP\r\n",
    "HTTP/2 settings": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(18),
    "HTTP/0.9": BODY,
    "status of two digits": _answer(status=b"HTTP/1.1 20 OK"),
    "status of four digits": _answer(status=b"HTTP/1.1 2000 OK"),
    "status that is no number": _answer(status=b"HTTP/1.1 OK 200"),
    "a reason that is no UTF-8": _answer(status=b"HTTP/1.1 200 \xff\xfe"),
    "no version": _answer(status=b"HTTP 200 OK"),
    "another version": _answer(status=b"HTTP/9.9 200 OK"),
    "header of 9 kB": _answer(BODY, LENGTH, b"X-Long: " + b"x" * 9_000),
    "header of 1 MB": _answer(BODY, LENGTH, b"X-Long: " + b"x" * 1_000_000),
    "header name of 9 kB": _answer(BODY, LENGTH, b"X" * 9_000 + b": x"),
    "reason of 9 kB": _answer(status=b"HTTP/1.1 200 " + b"K" * 9_000),
    "200 headers": _answer(BODY, LENGTH, *(b"X-%d: x" % number for number in range(200))),
    "two lengths": _answer(BODY, LENGTH, b"Content-Length: 3"),
    "a length that is no number": _answer(BODY, b"Content-Length: many"),
    "a negative length": _answer(BODY, b"Content-Length: -1"),
    "a huge length": _answer(BODY, b"Content-Length: " + b"9" * 40),
    "a length and chunks": _answer(_chunk() + b"0\r\n\r\n", LENGTH, b"Transfer-Encoding: chunked"),
    "a longer length": _answer(BODY, b"Content-Length: 1000"),
    "a chunk whose size is no number": _chunked(b"zz\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk of a huge size": _chunked(b"f" * 20 + b"\r\n" + BODY),
    "a chunk of a negative size": _chunked(b"-5\r\n" + BODY),
    "a chunk longer than it says": _chunked(b"5\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk extension of 1 MB": _chunked(b"5;" + b"x" * 1_000_000),
    "a trailer of 1 MB": _chunked(_chunk() + b"0\r\nX: " + b"x" * 1_000_000),
    "chunks without an end": _chunked(_chunk()),
    "a header without a colon": _answer(BODY, LENGTH, b"Nonsense"),
    "a header without a name": _answer(BODY, LENGTH, b": x"),
    "a header with a zero": _answer(BODY, LENGTH, b"X-Zero: \x00"),
    "a header name with a space": _answer(BODY, LENGTH, b"X Y: z"),
    "an end in the status line": b"HTTP/1.1 20",
    "an end in the headers": b"HTTP/1.1 200 OK\r\nContent-Le",
    "an end in the body": _answer(BODY[:10], LENGTH),
    "100 only": b"HTTP/1.1 100 Continue\r\n\r\n",
    "101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "no gzip": _answer(BODY, LENGTH, b"Content-Encoding: gzip"),
    "half a gzip": _answer(gzip.compress(BODY)[:-20], b"Content-Encoding: gzip"),
    "gzip in gzip": _answer(
        gzip.compress(gzip.compress(bytes(10_000_000))), b"Content-Encoding: gzip, gzip"
    ),
    "a right answer in two codings": _answer(
        gzip.compress(gzip.compress(BODY)), b"Content-Encoding: gzip, gzip"
    ),
    "a gzip of 100 MB": _answer(gzip.compress(bytes(100_000_000)), b"Content-Encoding: gzip"),
    "an empty body": _answer(b"", b"Content-Length: 0"),
    "UTF-16": _answer(BODY.decode().encode("utf-16")),
    "Latin-1": _answer(BODY.replace(b"fraud", b"fr\xe4ud")),
    "deep JSON": _answer(b"[" * 50_000),
    "deeper JSON that is closed": _answer(b"[" * 30_000 + b"]" * 30_000),
    "a huge number": _answer(_field("9" * 50_000)),
    "a huge exponent": _answer(_field("1e999999999999999999")),
    "NaN": _answer(_field("NaN")),
    "a lone surrogate": _answer(BODY.replace(b'"fraud"', b'"\\ud800"')),
    "a body of 3 MB": _answer(b" " * 3_000_000 + BODY),
}

VALID: Final[dict[str, bytes]] = {
    "plain": _answer(),
    "chunks": _chunked(_chunk() + b"0\r\n\r\n"),
    "an unknown transfer encoding": _answer(BODY, b"Transfer-Encoding: secret"),
    "until the end": _answer(BODY, b"X-No: length"),
    "a hundred headers": _answer(BODY, LENGTH, *(b"X-%d: x" % number for number in range(100))),
    "cookies that are none": _answer(BODY, LENGTH, b"Set-Cookie: \xff=;;=;\x80 expires=never"),
    "a header that is no UTF-8": _answer(BODY, LENGTH, b"X-Bytes: \xff\xfe"),
    "a type that is none": _answer(BODY, LENGTH, b"Content-Type: ;;;/; charset=\xff"),
    "an invalid charset": _answer(BODY, LENGTH, b"Content-Type: application/json; charset=no"),
    "a wish that is none": _answer(BODY, LENGTH, b"Retry-After: \xff"),
    "a wish of a zone that is none": _answer(
        BODY, LENGTH, b"Retry-After: Wed, 21 Oct 2099 07:28:00 +99999999999999"
    ),
    "100 and then it": b"HTTP/1.1 100 Continue\r\n\r\n" + _answer(),
    "gzip": _answer(gzip.compress(BODY), b"Content-Encoding: gzip"),
}


def _ask(talk: Talk, **overrides: Any) -> dict[int, Prediction] | ModelError | ScoringError:
    """Ask once; anything but a prediction or an error of the client's own is raised."""

    async def run() -> dict[int, Prediction]:
        async with answering(talk) as url, asyncio.timeout(60):
            client = ModelClient(factories.settings(ml_api_url=url, **overrides))
            try:
                return await client.predict([TRANSACTION])
            finally:
                await client.close()

    try:
        return asyncio.run(run())
    except (ModelError, ScoringError) as error:
        return error


@pytest.mark.parametrize("early", [False, True], ids=["after", "before"])
@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_answer_is_worth_a_retry(name: str, early: bool) -> None:  # noqa: FBT001 - pytest's
    """Whether it comes after the request or before it."""
    outcome = _ask(answers(UNREADABLE[name], early=early), ml_api_timeout=3)
    assert isinstance(outcome, UnavailableError), outcome


@pytest.mark.parametrize("name", VALID)
def test_what_is_only_odd_is_an_answer(name: str) -> None:
    """Nothing is refused for what nobody needs."""
    assert _ask(answers(VALID[name])) == {TRANSACTION.id.int: RIGHT}


@pytest.mark.parametrize("early", [False, True], ids=["after", "before"])
def test_http_to_a_port_with_tls_is_told(early: bool) -> None:  # noqa: FBT001 - pytest's
    """The alert with which OpenSSL's servers answer it is recognised."""
    outcome = _ask(answers(b"\x15\x03\x01\x00\x02\x02\x46", early=early))
    assert str(outcome) == "TLS is spoken there: http instead of https in ML_API_URL"


def _endless(start: bytes, more: bytes) -> Talk:
    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            writer.write(more)
            await writer.drain()
            await asyncio.sleep(0)

    return talk


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 100),
        (b"HTTP/1.1 200 OK\r\n", b"X-More: x\r\n" * 100),
        (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x" * 1000),
        (b"HTTP/1.1 200 OK\r\n\r\n", b" " * 1000),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 100),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;", b"x" * 1000),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"x" * 1000),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: x\r\n" * 100),
        (b"", b"\r\n" * 100),
    ],
    ids=[
        *("100", "103", "headers", "header", "body"),
        *("chunks", "extension", "trailer", "trailers", "lines"),
    ],
)
def test_what_does_not_end_is_broken_off(start: bytes, more: bytes) -> None:
    """By its bytes or by ML_API_TIMEOUT, whatever part of an answer it is."""
    assert isinstance(_ask(_endless(start, more), ml_api_timeout=1), UnavailableError)


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
def test_an_answer_does_not_wait_for_the_request() -> None:
    """A server that answers and never reads what it is sent does not hold the client up."""
    batch = [factories.transaction(id=UUID(int=number + 1)) for number in range(30_000)]
    gone = asyncio.Event()

    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_answer(status=b"HTTP/1.1 503 Busy"))
        await writer.drain()
        await gone.wait()

    async def run() -> None:
        async with answering(talk) as url, asyncio.timeout(60):
            client = ModelClient(factories.settings(ml_api_url=url, ml_api_timeout=3))
            try:
                await client.predict(batch)
            finally:
                await client.close()
                gone.set()

    with pytest.raises(UnavailableError, match=r"status 503|no answer within"):
        asyncio.run(run())


PIECES: Final = [
    *(b"\r\n", b"\n", b"\r", b"\x00", b"\xff", b":", b" ", b"\t", b"0", b"-1", b"9" * 30, b";"),
    *(b"chunked", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"[" * 3000),
    *(b"Content-Encoding: gzip\r\n", b"HTTP/1.1 ", b"100", b"204", b"301", b"503", b"NaN", b"null"),
    *(b'"', b"{", b"]", b"\\ud800", b"Connection: upgrade\r\n", b"Retry-After: x\r\n", b"x" * 9000),
]


def _malformed(chance: random.Random) -> Iterator[tuple[bytes, bool]]:
    """Answers made of good and of bad ones, and whether each comes before the request."""
    templates = [raw for raw in (*VALID.values(), *UNREADABLE.values()) if len(raw) < 100_000]
    while True:
        raw = bytearray(chance.choice(templates))
        for _ in range(chance.randint(1, 4)):
            # Mostly where the head is: a body is only JSON.
            place = chance.randint(0, min(len(raw), chance.choice([20, 80, 400])))
            end = place + chance.choice([0, 0, 1, 2, 8, 40])
            kind = chance.randrange(4)
            if kind == 0:
                raw[place:end] = chance.choice(PIECES)
            elif kind == 1:
                del raw[place:end]
            elif kind == 2:
                raw[place:place] = chance.randbytes(chance.randint(1, 5))
            else:
                raw[place:place] = raw[place:end] * 3
        if chance.random() < 0.1:
            del raw[chance.randint(0, len(raw)) :]
        yield bytes(raw), chance.random() < 0.1


# An answer whose reason is no UTF-8 keeps its connection until its error is forgotten.
@pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")
@pytest.mark.parametrize("contract", ["native", "oip", "mlflow"])
def test_no_answer_gives_anything_but_a_prediction_or_an_error_of_ours(contract: str) -> None:
    """Hundreds of malformed answers, each on connections of its own, through the whole client."""
    print(f"seed {SEED}")  # noqa: T201 - which a failure shows
    malformed = _malformed(random.Random(f"{SEED} {contract}"))  # noqa: S311
    now: tuple[bytes, bool] = (b"", False)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw, early = now
        await answers(raw, early=early)(reader, writer)

    async def run() -> set[str]:
        nonlocal now
        seen = set()
        reasons = set()
        async with answering(talk) as url:
            given = {"ml_api_url": url, "ml_api_contract": contract, "ml_api_timeout": 1}
            client = ModelClient(factories.settings(**given))
            try:
                for number, now in zip(range(ROUNDS), malformed, strict=False):
                    try:
                        async with asyncio.timeout(30):
                            found = await client.predict([TRANSACTION])
                    except (ModelError, ScoringError) as error:
                        seen.add(type(error).__name__)
                        reasons.add(str(error))
                    except BaseException as error:
                        error.add_note(f"seed {SEED}, answer {number}: {now!r:.2000}")
                        raise
                    else:
                        seen.add("prediction")
                        assert found.keys() == {TRANSACTION.id.int}, now
            finally:
                await client.close()
        # None repeats what was in an answer, or there would be as many as there are answers.
        assert len(reasons) < ROUNDS / 4, reasons
        assert all(reason.isprintable() for reason in reasons), reasons
        return seen

    seen = asyncio.run(run())
    assert "UnavailableError" in seen
    assert ("prediction" in seen) is (contract == "native")
