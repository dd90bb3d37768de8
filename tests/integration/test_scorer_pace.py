"""When the scorer asks, and how often: retries, their pauses, requests in flight, hedging."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from operators.model import breaker
from operators.model.limiter import FIRST, PARTIAL_REQUESTS
from operators.model.scorer import Outcome, Scorer
from operators.records import Failure, Scored
from tests import factories
from tests.serving import predictions, run_scorer

GIVE_UP = {"scoring_on_outage": "dead_letter"}  # so that it ends by itself
ENOUGH = 4  # requests in flight

STEADY = 0.03  # seconds for an answer, so that it is no slower with more requests in flight


async def _right(request: web.BaseRequest) -> web.StreamResponse:
    return predictions(await request.json())


class Server:
    """Answers rightly, except for what it is told.

    :arg faults: Statuses of the next answers, one each; 0 hangs.

    """

    def __init__(self, faults: Sequence[int] = ()) -> None:
        self.faults = list(faults)
        self.requests = 0
        self.headers: dict[str, str] = {}
        self.delay = 0.0

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer."""
        self.requests += 1
        if not self.faults:
            await asyncio.sleep(self.delay)
            return await _right(request)
        status = self.faults.pop(0)
        if status == 0:
            await asyncio.Event().wait()
        return web.Response(status=status, headers=self.headers)


def _score(server: Server, **overrides: Any) -> list[Outcome]:
    return run_scorer(server, lambda it: it.score(factories.batch(1)), **overrides)


@pytest.fixture
def ceilings(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The longest that each pause before a retry could have been; none is made."""
    seen: list[float] = []

    def least(low: float, high: float) -> float:
        if low == 0:  # the breaker's are at least half
            seen.append(high)
        return 0.0

    monkeypatch.setattr(random, "uniform", least)
    return seen


@pytest.mark.parametrize("retries", [0, 1, 5])
def test_a_request_is_sent_again_as_often_as_is_set(retries: int, ceilings: list[float]) -> None:
    """MAX_RETRIES times after the first, and that is what the dead letter says."""
    server = Server([500] * 100)
    [failure] = _score(server, max_retries=retries, **GIVE_UP)
    assert isinstance(failure, Failure)
    assert server.requests == failure.attempts == retries + 1
    assert len(ceilings) == retries


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (1.0, [1, 1, 1, 1, 1, 1, 1]),
        (2.0, [1, 2, 4, 8, 16, 30, 30]),
        (10.0, [1, 10, 30, 30, 30, 30, 30]),
    ],
)
def test_pauses_are_by_full_jitter(
    ceilings: list[float], factor: float, expected: list[float]
) -> None:
    """At random from 0 to what RETRY_BACKOFF makes of a second, at most 30 s."""
    _score(Server([500] * 100), max_retries=7, retry_backoff=factor, **GIVE_UP)
    assert ceilings == expected


def test_after_what_the_server_asks_for_not_all_come_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Up to a second comes on top of `Retry-After`, at every retry."""
    server = Server([500] * 3)
    server.headers["Retry-After"] = "0.05"
    monkeypatch.setattr(random, "uniform", lambda _low, high: 0.01 * high)
    with capture_logs() as lines:
        _score(server, retry_backoff=2.0)
    pauses = [line["pause"] for line in lines if line["event"] == "model.retry"]
    assert pauses == [pytest.approx(0.06)] * 3


def test_a_model_that_refuses_all_is_asked_at_growing_pauses(ceilings: list[float]) -> None:
    """They grow like those of retries."""
    server = Server()

    async def work(subject: Scorer) -> list[Outcome]:
        await subject.score(factories.batch(1, start=1))
        server.faults = [422, 422] * 4  # the batch, and what passed before
        return await subject.score(factories.batch(1))

    [outcome] = run_scorer(server, work, retry_backoff=2.0)
    assert isinstance(outcome, Scored)
    assert ceilings == [1, 2, 4, 8]


@pytest.mark.parametrize("faults", [[500], [422, 422]], ids=["failure", "refusal of all"])
def test_pauses_are_made(monkeypatch: pytest.MonkeyPatch, faults: list[int]) -> None:
    """The server is left alone for as long as the log says."""
    monkeypatch.setattr(random, "uniform", lambda low, _high: 0.0 if low else 0.3)
    server = Server()

    async def work(subject: Scorer) -> float:
        await subject.score(factories.batch(1, start=1))
        server.faults = list(faults)
        started = time.monotonic()
        await subject.score(factories.batch(1))
        return time.monotonic() - started

    assert run_scorer(server, work) >= 0.3


def test_a_refusal_of_all_is_an_outage_that_may_be_given_up(ceilings: list[float]) -> None:
    """With SCORING_ON_OUTAGE=dead_letter nothing waits for the model to take again what it took."""
    server = Server()

    async def work(subject: Scorer) -> list[Outcome]:
        await subject.score(factories.batch(1, start=1))
        server.faults = [422] * 100
        return await subject.score(factories.batch(1))

    [failure] = run_scorer(server, work, **GIVE_UP)
    assert isinstance(failure, Failure)
    assert (failure.disposition, failure.code) == ("exhausted", "model.failed")
    assert ceilings == [1]


def test_the_breaker_holds_nothing_that_may_be_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """With SCORING_ON_OUTAGE=dead_letter an outage goes through as fast as retries allow."""
    monkeypatch.setattr(breaker, "FIRST_PAUSE", 60.0)
    monkeypatch.setattr(breaker, "LONGEST_PAUSE", 60.0)
    monkeypatch.setattr(random, "uniform", lambda low, high: high if low else 0.0)
    server = Server([500] * 100)

    async def work(subject: Scorer) -> list[list[Outcome]]:
        tasks = [subject.score(factories.batch(1, start=number)) for number in range(10)]
        return await asyncio.gather(*tasks)

    outcomes = run_scorer(server, work, max_retries=3, **GIVE_UP)
    assert all(isinstance(outcome, Failure) for [outcome] in outcomes)
    assert server.requests == 10 * 4


async def _grow(subject: Scorer, least: int = ENOUGH) -> None:
    """Keep as many requests in flight as may be until more may be."""
    while subject.limit < least:
        await asyncio.gather(*(subject.score(factories.batch(1)) for _ in range(subject.limit)))


def _limit_after(fault: int, **overrides: Any) -> tuple[int, int]:
    """The limit before and after a request that fails once."""
    server = Server()
    server.delay = STEADY

    async def work(subject: Scorer) -> tuple[int, int]:
        await _grow(subject)
        before = subject.limit
        server.faults = [fault]
        await subject.score(factories.batch(1))
        return before, subject.limit

    return run_scorer(server, work, batch_size=1, **overrides)


@pytest.mark.parametrize("fault", [429, 503, 0], ids=["429", "503", "no answer in time"])
def test_an_overloaded_model_gets_half_as_many_requests(ceilings: list[float], fault: int) -> None:
    """Whichever way it says so."""
    before, after = _limit_after(fault, ml_api_timeout=1.0)
    assert after == before // 2
    assert ceilings == [1]


@pytest.mark.parametrize("fault", [408, 500, 502])
def test_a_failure_that_is_no_overload_leaves_the_limit(ceilings: list[float], fault: int) -> None:
    """Fewer requests would not help."""
    before, after = _limit_after(fault)
    assert after == before
    assert ceilings == [1]


@pytest.mark.usefixtures("ceilings")
def test_a_fixed_number_is_fixed() -> None:
    """With SCORING_ADAPTIVE=false it is SCORING_CONCURRENCY from the first, and stays so."""
    limits = _limit_after(503, scoring_adaptive=False, scoring_concurrency=ENOUGH)
    assert limits == (ENOUGH, ENOUGH)


def test_small_batches_are_told_from_full_ones() -> None:
    """They raise the limit where it is reached; that full ones take longer is no overload."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        transactions = await request.json()
        await asyncio.sleep(10 * STEADY if len(transactions) == 2 else STEADY)
        return predictions(transactions)

    async def reach(subject: Scorer, limit: int, *, size: int) -> None:
        while subject.limit < limit:
            batches = (factories.batch(size) for _ in range(subject.limit))
            await asyncio.gather(*map(subject.score, batches))

    async def work(subject: Scorer) -> int:
        await reach(subject, PARTIAL_REQUESTS, size=1)
        await reach(subject, PARTIAL_REQUESTS + 2, size=2)
        return subject.limit

    assert run_scorer(answer, work, batch_size=2) == PARTIAL_REQUESTS + 2


def test_after_an_outage_the_limit_begins_anew(
    monkeypatch: pytest.MonkeyPatch, ceilings: list[float]
) -> None:
    """A service that comes back is cold."""
    monkeypatch.setattr(breaker, "FAILURES", 3)
    server = Server()
    server.delay = STEADY

    async def work(subject: Scorer) -> int:
        await _grow(subject)
        server.faults = [500] * 3
        await subject.score(factories.batch(1))
        return subject.limit

    assert run_scorer(server, work, batch_size=1) == FIRST
    assert len(ceilings) == 3


HEDGED = {"scoring_hedge_after": 0.05, "max_retries": 0}


class Pair:
    """Lets two requests for the same arrive before either is answered.

    :arg first: What becomes of the first.

    :arg second: What becomes of the second; None is the right answer.

    """

    def __init__(self, first: Callable[[], web.Response] | None, second: int | None) -> None:
        self.first, self.second = first, second
        self.requests = 0
        self.both = asyncio.Event()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer."""
        self.requests += 1
        number = self.requests
        if number == 2:
            self.both.set()
        await self.both.wait()
        if number == 1 and self.first is not None:
            return self.first()
        if number == 2 and self.second == 0:
            await asyncio.Event().wait()
        if number == 2 and self.second is not None:
            return web.Response(status=self.second)
        return await _right(request)


def _failed() -> web.Response:
    return web.Response(status=500)


def _hedge(server: Pair, **overrides: Any) -> list[Outcome]:
    return run_scorer(
        server,
        lambda it: it.score(factories.batch(1)),
        **(HEDGED | {"ml_api_timeout": 60}),
        **overrides,
    )


def _metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_a_failure_waits_for_the_request_that_is_still_running() -> None:
    """Of two requests one good answer is enough, even if it is not the first answer."""
    server = Pair(_failed, None)

    async def later(request: web.BaseRequest) -> web.StreamResponse:
        answer = await server(request)
        if server.requests == 2 and answer.status == 200:
            await asyncio.sleep(0.1)  # the failure arrives before
        return answer

    [outcome] = run_scorer(later, lambda it: it.score(factories.batch(1)), **HEDGED)
    assert isinstance(outcome, Scored)
    assert server.requests == 2


@pytest.mark.parametrize(("first", "second"), [(_failed, None), (None, 500)])
def test_of_two_answers_at_once_the_good_one_counts(
    first: Callable[[], web.Response] | None, second: int | None
) -> None:
    """Whichever request it answers."""
    server = Pair(first, second)
    [outcome] = _hedge(server)
    assert isinstance(outcome, Scored)
    assert server.requests == 2


def test_a_refusal_is_an_answer() -> None:
    """The other request, which would be refused as well, is not waited for."""
    server = Pair(lambda: web.Response(status=422), 0)
    [outcome] = _hedge(server)
    assert isinstance(outcome, Failure)
    assert outcome.code == "model.status_422"


def test_two_requests_for_the_same_count_once() -> None:
    """One answer in the metrics, and nothing is left in flight."""
    answered = _metric("fraud_model_requests_total", outcome="answered")
    in_flight = _metric("fraud_model_requests_in_flight")
    server = Pair(None, 0)

    async def work(subject: Scorer) -> float:
        await subject.score(factories.batch(1))
        await asyncio.sleep(0.1)  # what is cancelled ends
        return _metric("fraud_model_requests_in_flight")

    assert run_scorer(server, work, **(HEDGED | {"ml_api_timeout": 60})) == in_flight
    assert _metric("fraud_model_requests_total", outcome="answered") == answered + 1
    assert server.requests == 2


async def _slow(request: web.BaseRequest) -> web.StreamResponse:
    await asyncio.sleep(0.3)
    return await _right(request)


def test_no_more_requests_are_in_flight_than_may_be() -> None:
    """SCORING_CONCURRENCY holds for hedged requests too."""
    requests = 0

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal requests
        requests += 1
        return await _slow(request)

    run_scorer(answer, lambda it: it.score(factories.batch(1)), scoring_concurrency=1, **HEDGED)
    assert requests == 1


@pytest.mark.usefixtures("ceilings")
def test_a_probe_is_sent_once() -> None:
    """A service that is down is asked by one request at a time."""
    scorers: list[Scorer] = []
    inside, most = 0, 0

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal inside, most
        if not scorers[0].paused:
            return _failed()
        inside += 1
        most = max(most, inside)
        response = await _slow(request)
        inside -= 1
        return response

    async def work(subject: Scorer) -> list[Outcome]:
        scorers.append(subject)
        return await subject.score(factories.batch(1))

    [outcome] = run_scorer(answer, work, **(HEDGED | {"max_retries": 9}))
    assert isinstance(outcome, Scored)
    assert most == 1
