"""With SCORING_HEDGE_AFTER a request that takes long is sent once more."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import REGISTRY

from lab.servers import ModelApi
from operators.model.scorer import Outcome, Scorer
from operators.records import Failure, Scored
from tests.kit import factories
from tests.kit.serving import predictions, run_scorer, score, scores


async def _right(request: web.BaseRequest) -> web.StreamResponse:
    return predictions(await request.json())


def _metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_a_slow_request_is_sent_once_more_if_that_is_wanted(model_api: ModelApi) -> None:
    """With SCORING_HEDGE_AFTER the first of two answers counts, and it is right."""
    batch = factories.batch(20)
    truth = scores(score(model_api.url, batch))
    model_api.reset()
    model_api.control(name="hang", requests=1)
    outcomes = score(model_api.url, batch, scoring_hedge_after=0.1, ml_api_timeout=50)
    assert scores(outcomes) == truth
    assert model_api.state()["requests"] == 2


def test_no_request_is_sent_twice_by_itself(model_api: ModelApi) -> None:
    """Without SCORING_HEDGE_AFTER a slow request is waited for."""
    model_api.control(name="slow", delay_ms=500, requests=1)
    score(model_api.url, factories.batch(20))
    assert model_api.state()["requests"] == 1


HEDGED: dict[str, Any] = {"scoring_hedge_after": 0.05, "max_retries": 0}


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
        **(HEDGED | {"ml_api_timeout": 60} | overrides),
    )


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
