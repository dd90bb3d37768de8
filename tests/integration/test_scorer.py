"""What becomes of a batch, against the stand-in for the model."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from lab.servers import ModelApi
from operators.errors import ScoringError
from operators.model.scorer import Outcome, Scorer
from operators.records import Received, Scored
from tests.kit import factories
from tests.kit.serving import QUICK, failures, run_scorer, score, scores, until


def _truth(model_api: ModelApi, batch: list[Received]) -> dict[int, float]:
    """Scores by offset, as a model without faults gives them."""
    model_api.reset()
    truth = scores(score(model_api.url, batch))
    model_api.reset()
    return truth


async def _among_others(subject: Scorer, batch: list[Received]) -> list[Outcome]:
    """Score a batch while a stream of good ones passes."""
    task = asyncio.create_task(subject.score(batch))
    start = 10_000
    while not task.done():
        await subject.score(factories.batch(10, start=start))
        start += 10
    return task.result()


def test_a_batch_is_scored_with_one_request(model_api: ModelApi) -> None:
    """Each transaction of a batch gets its prediction, for one request."""
    outcomes = score(model_api.url, factories.batch(100))
    assert all(isinstance(outcome, Scored) for outcome in outcomes)
    assert model_api.state()["requests"] == 1


def test_a_transaction_that_is_there_twice_is_asked_for_once(model_api: ModelApi) -> None:
    """Repeats within a batch share one prediction."""
    item = factories.received()
    repeated = item._replace(message=factories.message(offset=1))
    outcomes = score(model_api.url, [item, repeated])
    assert [type(outcome) for outcome in outcomes] == [Scored, Scored]
    assert model_api.state()["elements"] == 1


def test_the_same_id_with_other_content_is_asked_for_on_its_own(model_api: ModelApi) -> None:
    """Two contents of one id in a batch get the scores of their own contents."""
    one = factories.received(amount=Decimal(1))
    other = factories.received(of=factories.message(offset=1), amount=Decimal(9_999))
    alone = _truth(model_api, [one]) | _truth(model_api, [other])
    together = _truth(model_api, [one, other])
    assert together == alone
    assert together[0] != together[1]


@pytest.mark.parametrize(("fault", "most"), [("poison", 14), ("poison_index", 2)])
def test_a_refused_batch_is_bisected_until_the_culprit_stands_alone(
    model_api: ModelApi, fault: str, most: int
) -> None:
    """One refused transaction costs a few more requests, fewer if the refusal names it."""
    model_api.control(name=fault)
    given_up = failures(score(model_api.url, factories.batch(100, poison=[42])))
    assert list(given_up) == [42]
    assert (given_up[42].stage, given_up[42].disposition) == ("score", "rejected")
    assert model_api.state()["requests"] - 1 <= most


@pytest.mark.parametrize("code", [400, 413, 422])
def test_several_culprits_are_all_found(model_api: ModelApi, code: int) -> None:
    """Each refused transaction of a batch is rejected, and nothing else is."""
    culprits = [0, 1, 50, 99]
    model_api.control(name="poison", code=code)
    given_up = failures(score(model_api.url, factories.batch(100, poison=culprits)))
    assert sorted(given_up) == culprits
    assert {failure.code for failure in given_up.values()} == {f"model.status_{code}"}


def test_a_blame_that_is_wrong_rejects_nobody(model_api: ModelApi) -> None:
    """A transaction that a refusal names is scored if it passes alone."""
    # One refusal that names the culprit; after it, everything is accepted.
    model_api.control(name="poison_index", requests=1)
    assert not failures(score(model_api.url, factories.batch(10, poison=[3])))


def test_a_batch_that_is_too_large_is_bisected(model_api: ModelApi) -> None:
    """A server that takes fewer elements than a batch has gets smaller ones."""
    model_api.control(name="too_large", elements=30)
    assert not failures(score(model_api.url, factories.batch(100)))


def test_a_service_that_never_took_anything_may_refuse_a_few(model_api: ModelApi) -> None:
    """As many as the limit are dead letters; it is the next one that stops the stream.

    So a topic is not drained into the error topic by a service that takes nothing at all.
    """
    pauses = QUICK | {"refusals": 20}
    model_api.control(name="status", code=422)
    given_up = failures(score(model_api.url, factories.batch(20), pauses=pauses))
    assert {failure.disposition for failure in given_up.values()} == {"rejected"}
    assert len(given_up) == 20
    with pytest.raises(ScoringError, match="20 transactions in a row"):
        score(model_api.url, factories.batch(21), pauses=pauses)


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_service_that_refuses_everything_for_a_while_gives_up_nothing(
    model_api: ModelApi, code: int
) -> None:
    """A service that refuses what it took before is sick; all is scored once it is well again."""
    batches = [factories.batch(10, start=10 * number) for number in range(4)]

    async def work(subject: Scorer) -> list[list[Outcome]]:
        await subject.score(factories.batch(10, start=1_000))
        model_api.control(name="status", code=code)
        tasks = [asyncio.create_task(subject.score(batch)) for batch in batches]
        await until(lambda: subject.paused)
        model_api.reset()
        return await asyncio.gather(*tasks)

    outcomes = run_scorer(model_api.url, work)
    assert [len(some) for some in outcomes] == [10] * 4
    assert not [failure for some in outcomes for failure in failures(some)]


def test_a_refused_transaction_alone_is_rejected_if_another_passes_again(
    model_api: ModelApi,
) -> None:
    """At low rates, what passed before is asked for again to tell a bad message from an outage."""
    model_api.control(name="poison")

    async def work(subject: Scorer) -> list[Outcome]:
        await subject.score(factories.batch(1, start=1))
        return await subject.score(factories.batch(1, poison=[0]))

    assert list(failures(run_scorer(model_api.url, work))) == [0]
    assert model_api.state()["requests"] == 3


@pytest.mark.parametrize(
    "fault",
    [{"name": "status", "code": 500}, {"name": "reset"}, {"name": "truncate"}],
    ids=lambda fault: str(fault["name"]),
)
def test_what_fails_while_others_succeed_is_exhausted(
    model_api: ModelApi, fault: dict[str, Any]
) -> None:
    """A transaction that breaks the server is given up; its neighbours are scored."""
    model_api.control(**fault, marker="poison")
    batch = factories.batch(100, poison=[42])
    given_up = failures(run_scorer(model_api.url, lambda it: _among_others(it, batch)))
    assert list(given_up) == [42]
    assert given_up[42].disposition == "exhausted"
    assert given_up[42].attempts > 3


def test_neighbours_alone_show_that_it_is_the_message(model_api: ModelApi) -> None:
    """Without other traffic, the halves of a failing batch tell the culprit from an outage."""
    model_api.control(name="status", code=500, marker="poison")
    given_up = failures(score(model_api.url, factories.batch(100, poison=[42])))
    assert list(given_up) == [42]


def test_a_transaction_alone_is_given_up_if_another_passes_again(model_api: ModelApi) -> None:
    """Without other traffic, a transaction that passed before is the comparison."""
    model_api.control(name="status", code=500, marker="poison")

    async def work(subject: Scorer) -> list[Outcome]:
        await subject.score(factories.batch(1, start=1))
        return await subject.score(factories.batch(1, poison=[0]))

    [failure] = failures(run_scorer(model_api.url, work)).values()
    assert (failure.disposition, failure.attempts) == ("exhausted", 8)


def test_a_transaction_is_not_given_up_without_comparison(model_api: ModelApi) -> None:
    """With nothing to compare with, a failing transaction waits until there is something."""
    model_api.control(name="status", code=500, marker="poison")

    async def work(subject: Scorer) -> tuple[bool, list[Outcome]]:
        task = asyncio.create_task(subject.score(factories.batch(1, poison=[0])))
        await until(lambda: model_api.state()["requests"] >= 15)
        waited = not task.done()
        await subject.score(factories.batch(1, start=1))
        return waited, await task

    waited, outcomes = run_scorer(model_api.url, work)
    assert waited
    assert failures(outcomes)[0].disposition == "exhausted"
