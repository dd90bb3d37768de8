"""A service that is down, and comes back: nothing is given up."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import REGISTRY

from lab.servers import ModelApi, free_port
from operators.backoff import Backoff
from operators.model.scorer import Outcome, Scorer
from tests.kit import factories
from tests.kit.serving import QUICK, failures, predictions, run_scorer, score, until


def _failed() -> float:
    return REGISTRY.get_sample_value("fraud_model_requests_total", {"outcome": "failed"}) or 0


async def _until_failed(number: int, tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Wait for failures, or until there is nothing left that could fail."""
    before = _failed()
    await until(lambda: _failed() >= before + number or all(task.done() for task in tasks))


OUTAGES: dict[str, dict[str, Any]] = {
    "503": {"name": "outage"},
    "429": {"name": "status", "code": 429},
    "408": {"name": "status", "code": 408},
    "425": {"name": "status", "code": 425},
    "500": {"name": "status", "code": 500},
    "hang": {"name": "hang"},
    "reset": {"name": "reset"},
    "truncate": {"name": "truncate"},
    "refuse": {"name": "refuse"},
    "html": {"name": "html"},
    "half the requests": {"name": "status", "code": 503, "share": 0.5},
}


@pytest.mark.parametrize("fault", OUTAGES.values(), ids=OUTAGES.keys())
def test_an_outage_gives_up_nothing(model_api: ModelApi, fault: dict[str, Any]) -> None:
    """Whatever a sick service does to everybody, all is scored once it is well again."""
    batches = [factories.batch(10, start=10 * number) for number in range(8)]

    async def work(subject: Scorer) -> list[list[Outcome]]:
        await subject.score(factories.batch(10, start=1_000))
        model_api.control(**fault)
        tasks = [asyncio.create_task(subject.score(batch)) for batch in batches]
        await _until_failed(12, tasks)
        model_api.reset()
        return await asyncio.gather(*tasks)

    outcomes = run_scorer(model_api.url, work, ml_api_timeout=0.3)
    assert [len(some) for some in outcomes] == [10] * 8
    assert not [failure for some in outcomes for failure in failures(some)]


def test_an_outage_gives_up_no_single_transaction(model_api: ModelApi) -> None:
    """Also without retries, and however often one alone has failed, an outage is no verdict."""
    batches = [factories.batch(1, start=number) for number in range(8)]

    async def work(subject: Scorer) -> list[list[Outcome]]:
        await subject.score(factories.batch(10, start=1_000))
        model_api.control(name="outage")
        tasks = [asyncio.create_task(subject.score(batch)) for batch in batches]
        await _until_failed(40, tasks)
        model_api.reset()
        return await asyncio.gather(*tasks)

    outcomes = run_scorer(model_api.url, work, max_retries=0)
    assert not [failure for some in outcomes for failure in failures(some)]


def test_after_an_outage_batches_are_whole(model_api: ModelApi) -> None:
    """An outage teaches nothing about a batch, so it is not left in pieces by one."""
    batches = [factories.batch(16, start=16 * number) for number in range(4)]

    async def work(subject: Scorer) -> int:
        await subject.score(factories.batch(10, start=1_000))
        model_api.control(name="outage")
        tasks = [asyncio.create_task(subject.score(batch)) for batch in batches]
        await _until_failed(40, tasks)
        model_api.reset()
        await asyncio.gather(*tasks)
        requests: int = model_api.state()["requests"]
        return requests

    # Once each, and halves of those that were just looked at in halves.
    assert run_scorer(model_api.url, work, max_retries=0) <= 4 * 3


def test_a_name_that_does_not_resolve_is_an_outage(model_api: ModelApi) -> None:
    """With a wrong host name transactions wait, and none is given up."""

    async def work(subject: Scorer) -> bool:
        task = asyncio.create_task(subject.score(factories.batch(10)))
        await until(lambda: subject.paused)
        task.cancel()
        return not task.done()

    assert run_scorer(model_api.url, work, ml_api_url="http://model.invalid:8000")


def test_in_an_outage_transactions_are_given_up_if_that_is_wanted(model_api: ModelApi) -> None:
    """With SCORING_ON_OUTAGE=dead_letter a failing batch ends after its retries."""
    model_api.control(name="outage")
    outcomes = score(
        model_api.url, factories.batch(100), scoring_on_outage="dead_letter", max_retries=2
    )
    given_up = failures(outcomes).values()
    assert len(given_up) == 100
    assert {failure.disposition for failure in given_up} == {"exhausted"}


def test_nothing_listens_is_an_outage(model_api: ModelApi) -> None:
    """A port that nobody listens on pauses the scoring."""

    async def work(subject: Scorer) -> bool:
        task = asyncio.create_task(subject.score(factories.batch(1)))
        await until(lambda: subject.paused)
        task.cancel()
        return not task.done()

    assert run_scorer(model_api.url, work, ml_api_url=f"http://127.0.0.1:{free_port()}")


def test_in_an_outage_one_request_at_a_time_goes() -> None:
    """A service that is down gets a probe now and then, not the backlog."""
    scorers: list[Scorer] = []
    inside = most = probes = 0

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal inside, most, probes
        if not scorers[0].paused or probes == 5:
            return predictions(await request.json()) if probes else web.Response(status=503)
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.01)  # others could come meanwhile
        inside -= 1
        probes += 1
        return web.Response(status=503)

    async def work(subject: Scorer) -> list[list[Outcome]]:
        scorers.append(subject)
        batches = [factories.batch(10, start=10 * number) for number in range(16)]
        return await asyncio.gather(*map(subject.score, batches))

    # The last of those that are on their way as it opens have failed before the first probe goes.
    pauses = QUICK | {"probes": Backoff(first=0.2, longest=0.2, least=1)}
    outcomes = run_scorer(answer, work, pauses=pauses)
    assert sum(map(len, outcomes)) == 160
    assert (most, probes) == (1, 5)
