"""When the scorer asks, and how often: retries, their pauses, requests in flight."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from operators.backoff import Backoff
from operators.model.limiter import FIRST, PARTIAL_REQUESTS
from operators.model.scorer import RETRIES, Outcome, Scorer
from operators.records import Failure, Scored
from tests.kit import factories
from tests.kit.serving import QUICK, NotedPauses, predictions, run_scorer, until

GIVE_UP = {"scoring_on_outage": "dead_letter"}  # so that it ends by itself
NEVER = Backoff(first=3_600, longest=3_600, least=1)
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


def _score(server: Server, retries: Backoff, **overrides: Any) -> list[Outcome]:
    pauses = QUICK | {"retries": retries}
    return run_scorer(server, lambda it: it.score(factories.batch(1)), pauses=pauses, **overrides)


@pytest.fixture
def noted() -> NotedPauses:
    """Pauses before retries, of which none is made."""
    return NotedPauses(first=RETRIES.first, longest=RETRIES.longest)


@pytest.mark.parametrize("retries", [0, 1, 5])
def test_a_request_is_sent_again_as_often_as_is_set(retries: int, noted: NotedPauses) -> None:
    """MAX_RETRIES times after the first, and that is what the dead letter says."""
    server = Server([500] * 100)
    [failure] = _score(server, noted, max_retries=retries, **GIVE_UP)
    assert isinstance(failure, Failure)
    assert server.requests == failure.attempts == retries + 1
    assert len(noted.ceilings) == retries


@pytest.mark.parametrize(("factor", "expected"), [(1.0, [1] * 7), (2.0, [1, 2, 4, 8, 16, 30, 30])])
def test_pauses_grow_as_is_set(noted: NotedPauses, factor: float, expected: list[float]) -> None:
    """By RETRY_BACKOFF from a second, up to 30 s."""
    _score(Server([500] * 100), noted, max_retries=7, retry_backoff=factor, **GIVE_UP)
    assert noted.ceilings == expected


def test_after_what_the_server_asks_for_not_all_come_at_once() -> None:
    """A first pause comes on top of `Retry-After`, at every retry."""
    server = Server([500] * 3)
    server.headers["Retry-After"] = "0.05"
    with capture_logs() as lines:
        _score(server, Backoff(first=0.01, longest=60, least=1), retry_backoff=10.0)
    pauses = [line["pause"] for line in lines if line["event"] == "model.retry"]
    assert pauses == [pytest.approx(0.06)] * 3


def test_a_model_that_refuses_all_is_asked_at_growing_pauses(noted: NotedPauses) -> None:
    """They grow like those of retries."""
    server = Server()

    async def work(subject: Scorer) -> list[Outcome]:
        await subject.score(factories.batch(1, start=1))
        server.faults = [422, 422] * 4  # the batch, and the canary
        return await subject.score(factories.batch(1))

    pauses = QUICK | {"retries": noted}
    [outcome] = run_scorer(server, work, pauses=pauses, retry_backoff=2.0)
    assert isinstance(outcome, Scored)
    assert noted.ceilings == [1, 2, 4, 8]


@pytest.mark.parametrize("faults", [[500], [422, 422]], ids=["failure", "refusal of all"])
def test_pauses_are_made(faults: list[int]) -> None:
    """The server is left alone until they are over."""
    server = Server()

    async def work(subject: Scorer) -> int:
        await subject.score(factories.batch(1, start=1))
        server.faults = list(faults)
        task = asyncio.create_task(subject.score(factories.batch(1)))
        await until(lambda: not server.faults)
        await asyncio.wait([task], timeout=0.2)
        task.cancel()
        return server.requests

    pauses = QUICK | {"retries": NEVER}
    assert run_scorer(server, work, pauses=pauses) == 1 + len(faults)


def test_a_refusal_of_all_is_an_outage_that_may_be_given_up(noted: NotedPauses) -> None:
    """With SCORING_ON_OUTAGE=dead_letter nothing waits for the model to take again what it took."""
    server = Server()

    async def work(subject: Scorer) -> list[Outcome]:
        await subject.score(factories.batch(1, start=1))
        server.faults = [422] * 100
        return await subject.score(factories.batch(1))

    [failure] = run_scorer(server, work, pauses=QUICK | {"retries": noted}, **GIVE_UP)
    assert isinstance(failure, Failure)
    assert (failure.disposition, failure.code) == ("exhausted", "model.failed")
    assert noted.ceilings == [1]


def test_the_breaker_holds_nothing_that_may_be_given_up() -> None:
    """With SCORING_ON_OUTAGE=dead_letter an outage goes through as fast as retries allow."""
    server = Server([500] * 100)

    async def work(subject: Scorer) -> list[list[Outcome]]:
        tasks = [subject.score(factories.batch(1, start=number)) for number in range(10)]
        return await asyncio.gather(*tasks)

    pauses = QUICK | {"probes": NEVER}
    outcomes = run_scorer(server, work, pauses=pauses, max_retries=3, **GIVE_UP)
    assert all(isinstance(outcome, Failure) for [outcome] in outcomes)
    assert server.requests == 10 * 4


def _metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


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
def test_an_overloaded_model_gets_half_as_many_requests(fault: int) -> None:
    """Whichever way it says so."""
    before, after = _limit_after(fault, ml_api_timeout=1.0)
    assert after == before // 2


@pytest.mark.parametrize("fault", [408, 500, 502])
def test_a_failure_that_is_no_overload_leaves_the_limit(fault: int) -> None:
    """Fewer requests would not help."""
    before, after = _limit_after(fault)
    assert after == before


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
        await reach(subject, 2 * PARTIAL_REQUESTS, size=2)
        return subject.limit

    assert run_scorer(answer, work, batch_size=2) == 2 * PARTIAL_REQUESTS


@pytest.mark.parametrize("status", [500, 503])
def test_in_an_outage_the_limit_begins_again(status: int) -> None:
    """A service that comes back is cold. What failed on its way down lowers it no further."""
    server = Server()
    server.delay = STEADY
    down = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        last = len(server.faults) == 1
        response = await server(request)
        if last:
            await down.wait()
            await asyncio.sleep(2 * STEADY)  # a round trip later
        return response

    async def work(subject: Scorer) -> int:
        await _grow(subject)
        failed = _metric("fraud_model_requests_total", outcome="failed")
        server.faults = [status] * ENOUGH
        tasks = [asyncio.create_task(subject.score(factories.batch(1))) for _ in range(ENOUGH)]
        await until(lambda: subject.paused)
        down.set()
        await until(
            lambda: _metric("fraud_model_requests_total", outcome="failed") == failed + ENOUGH
        )
        for task in tasks:
            task.cancel()
        return subject.limit

    pauses = {"retries": NEVER, "probes": NEVER, "failures": ENOUGH - 1}
    assert run_scorer(answer, work, pauses=pauses, batch_size=1) == FIRST
