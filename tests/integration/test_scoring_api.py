"""One request to a model's API: what is sent, and what each answer means."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web

from operators.errors import ScoringError
from operators.model.client import ModelClient
from operators.model.errors import UnavailableError
from operators.records import Prediction
from tests.kit import factories
from tests.kit.serving import Answer, predictions, serving


def _ask(
    answer: Answer, *, requests: int = 1, size: int = 1, host: str = "127.0.0.1", **overrides: Any
) -> list[dict[int, Prediction]]:
    """Ask a server that answers so, again and again."""
    transactions = [factories.transaction(id=UUID(int=number + 1)) for number in range(size)]

    async def run() -> list[dict[int, Prediction]]:
        async with serving(answer) as url:
            given = {"ml_api_url": url.replace("127.0.0.1", host)} | overrides
            client = ModelClient(factories.settings(**given))
            try:
                async with asyncio.timeout(60):
                    return [await client.predict(transactions) for _ in range(requests)]
            finally:
                await client.close()

    return asyncio.run(run())


async def _right(request: web.BaseRequest) -> web.StreamResponse:
    return predictions(await request.json())


def _unavailable(answer: Answer, **overrides: Any) -> UnavailableError:
    with pytest.raises(UnavailableError) as caught:
        _ask(answer, **overrides)
    return caught.value


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7),
        ("0.5", 0.5),
        ("3600", 60),
        ("inf", 60),
        ("-5", 0),
        ("nan", 0),
        ("", 0),
        ("soon", 0),
        ("Wed, 21 Oct 2099 07:28:00 GMT", 60),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        # A date that does not say its zone cannot be compared with the time.
        ("Wed, 21 Oct 2099 07:28:00 -0000", 0),
    ],
)
def test_a_server_may_ask_to_be_left_alone_for_a_minute_at_most(text: str, seconds: float) -> None:
    """`Retry-After` in both forms; what is past, too long or nonsense stops nothing."""

    async def answer(_request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=503, headers={"Retry-After": text})

    assert _unavailable(answer).after == seconds


@pytest.mark.parametrize("code", [408, 425, 429, 500, 501, 502, 504, 520, 599])
def test_a_status_that_may_pass_is_worth_a_retry(code: int) -> None:
    """Those of the server and of the proxies before it."""

    async def answer(_request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=code)

    assert str(_unavailable(answer)) == f"status {code}"


@pytest.mark.parametrize("code", [201, 202, 204, 206, 300, 304, 402, 405, 409, 410, 431, 451])
def test_any_other_status_needs_another_setting(code: int) -> None:
    """Even with a right answer: nobody knows what else it means."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        right = predictions(await request.json())
        return web.Response(status=code, body=right.body)

    with pytest.raises(ScoringError, match=f"ML_API_URL, ML_API_CONTRACT, ML_API_MODEL: .*{code}"):
        _ask(answer)


def test_an_answer_that_trickles_is_broken_off() -> None:
    """ML_API_TIMEOUT is for all of a request, not for each piece of the answer."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.02)

    failure = _unavailable(answer, ml_api_timeout=0.3)
    assert (str(failure), failure.kind) == ("no answer within 0.3 s", "timeout")


def test_an_answer_that_does_not_begin_is_not_waited_for() -> None:
    """A server that takes the request and says nothing is too slow."""

    async def answer(_request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    failure = _unavailable(answer, ml_api_timeout=0.3)
    assert (str(failure), failure.kind) == ("no answer within 0.3 s", "timeout")


@pytest.mark.parametrize("host", ["127.0.0.1:1", "model.invalid", "a..b"])
def test_where_nobody_listens_there_is_no_connection(host: str) -> None:
    """A closed port, a name that nobody has, and one that nobody can have."""
    assert _unavailable(_right, ml_api_url=f"http://{host}").kind == "connection"


def test_a_connection_that_breaks_is_no_answer() -> None:
    """Before the first byte of it."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        raise ConnectionResetError

    assert _unavailable(answer).kind == "connection"


@pytest.mark.parametrize("answered", [[1], [1, 2, 3], [1, 3], []])
def test_an_answer_is_for_those_who_were_asked_for(answered: list[int]) -> None:
    """One that is missing or foreign spoils it, also where all others are there."""

    async def answer(_request: web.BaseRequest) -> web.StreamResponse:
        return predictions([{"id": str(UUID(int=number))} for number in answered])

    failure = _unavailable(answer, size=2)
    assert str(failure) == "the ids of the answer are not those of the request"
    assert failure.kind == "answer"


def test_an_answer_that_cannot_be_decompressed_is_no_answer() -> None:
    """What a proxy has broken is worth a retry."""

    async def answer(_request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"no gzip", headers={"Content-Encoding": "gzip"})

    assert _unavailable(answer).kind == "answer"


def test_what_a_request_says_of_itself() -> None:
    """JSON; its answer is wanted as it is, so that a small one cannot be huge when unpacked."""
    seen: list[Mapping[str, str]] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.headers)
        return await _right(request)

    _ask(answer)
    assert seen[0]["Content-Type"] == "application/json"
    assert seen[0]["Accept-Encoding"] == "identity"
    assert "Authorization" not in seen[0]


def test_cookies_are_not_kept() -> None:
    """A request says nothing that another answer has put into it."""
    seen: list[str | None] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.headers.get("Cookie"))
        return predictions(await request.json(), {"Set-Cookie": "session=1; Path=/"})

    _ask(answer, requests=2, host="localhost")
    assert seen == [None, None]


def test_a_redirect_is_not_followed() -> None:
    """A token and transactions go to nobody whom the settings do not name."""
    seen: list[str] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.path)
        if request.path == "/predict":
            return web.Response(status=307, headers={"Location": "/elsewhere"})
        return await _right(request)

    with pytest.raises(ScoringError, match="307"):
        _ask(answer)
    assert seen == ["/predict"]


def test_the_answer_to_many_may_be_long() -> None:
    """The room for an answer grows with the batch."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return predictions(await request.json(), explanation="x" * 1_000)

    [found] = _ask(answer, size=1_000)
    assert len(found) == 1_000


def test_the_answer_to_one_may_be_long() -> None:
    """A server may explain itself."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return predictions(await request.json(), explanation="x" * 50_000)

    [found] = _ask(answer)
    assert len(found) == 1


def test_as_many_connections_as_requests() -> None:
    """The client has no limit of its own below SCORING_CONCURRENCY."""
    many = 150
    arrived = 0
    all_there = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal arrived
        arrived += 1
        if arrived == many:
            all_there.set()
        await all_there.wait()
        return await _right(request)

    async def run() -> None:
        async with serving(answer) as url, asyncio.timeout(60):
            client = ModelClient(factories.settings(ml_api_url=url))
            try:
                await asyncio.gather(
                    *(client.predict([factories.transaction()]) for _ in range(many))
                )
            finally:
                await client.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("contract", "path"),
    [("native", "/predict"), ("oip", "/v2/models/of-mine/infer"), ("mlflow", "/invocations")],
)
@pytest.mark.parametrize("below", ["", "/", "/api", "/api/"])
def test_the_contract_says_where_to(contract: str, path: str, below: str) -> None:
    """Below ML_API_URL, with or without a slash at its end; ML_API_MODEL has its place there."""
    seen: list[str] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.path)
        return web.Response(status=503)

    async def run() -> None:
        async with serving(answer) as url:
            settings = factories.settings(
                ml_api_url=url + below, ml_api_contract=contract, ml_api_model="of-mine"
            )
            client = ModelClient(settings)
            try:
                with pytest.raises(UnavailableError):
                    await client.predict([factories.transaction()])
            finally:
                await client.close()

    asyncio.run(run())
    assert seen == [below.rstrip("/") + path]


OLD: dict[str, Any] = {"ml_api_token": "old"}


@pytest.fixture
def rotate(token_file: Path) -> Callable[[str | None], None]:
    """Put another token into the file that ML_API_TOKEN_FILE names; None takes the file away."""

    def change(token: str | None) -> None:
        if token is None:
            token_file.unlink()
        else:
            token_file.write_text(token)

    return change


def test_a_token_that_is_refused_is_read_again_once(rotate: Callable[[str | None], None]) -> None:
    """However often its file changes meanwhile, a request is sent twice at most."""
    seen: list[str] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.headers["Authorization"])
        rotate(f"new-{len(seen)}")
        return web.Response(status=401)

    with pytest.raises(ScoringError, match="ML_API_TOKEN"):
        _ask(answer, **OLD)
    assert seen == ["Bearer old", "Bearer new-1"]


def test_a_token_that_changes_under_several_requests_stops_none(
    rotate: Callable[[str | None], None],
) -> None:
    """Each that was sent with the old one is sent again, not only the first that is refused."""
    seen: list[str] = []
    all_sent = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        sent = request.headers["Authorization"]
        seen.append(sent)
        if len(seen) == 3:
            rotate("new")
            all_sent.set()
        await all_sent.wait()
        return await _right(request) if sent == "Bearer new" else web.Response(status=401)

    async def run() -> None:
        async with serving(answer) as url, asyncio.timeout(60):
            client = ModelClient(factories.settings(ml_api_url=url, **OLD))
            try:
                await asyncio.gather(*(client.predict([factories.transaction()]) for _ in range(3)))
            finally:
                await client.close()

    asyncio.run(run())
    assert seen == ["Bearer old"] * 3 + ["Bearer new"] * 3


@pytest.mark.parametrize("code", [401, 403])
def test_a_token_that_is_refused_and_still_the_same_is_not_sent_again(
    rotate: Callable[[str | None], None], code: int
) -> None:
    """Nor is one that is refused for what it may."""
    requests = 0

    async def answer(_request: web.BaseRequest) -> web.StreamResponse:
        nonlocal requests
        requests += 1
        if code == 403:
            rotate("new")
        return web.Response(status=code)

    with pytest.raises(ScoringError, match="ML_API_TOKEN"):
        _ask(answer, **OLD)
    assert requests == 1


def test_a_token_whose_file_is_gone_is_refused_by_name(
    rotate: Callable[[str | None], None],
) -> None:
    """What cannot be read again stays as it was."""

    async def answer(_request: web.BaseRequest) -> web.StreamResponse:
        rotate(None)
        return web.Response(status=401)

    with pytest.raises(ScoringError, match="ML_API_TOKEN"):
        _ask(answer, **OLD)
