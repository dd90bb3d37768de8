"""Scoring against the stand-in model API, with every fault that it knows."""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from lab.servers import ModelApi, free_port
from operators.errors import ScoringError
from operators.model import breaker, scorer
from operators.model.client import ScoringApi, UnavailableError
from operators.model.scorer import Outcome, Scorer
from operators.records import Failure, Received, Scored
from tests import factories

QUICK = {"retry_backoff": 1.0, "ml_api_timeout": 2.0}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries and probes come at once, or these tests would wait."""
    monkeypatch.setattr(scorer, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(breaker, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(breaker, "LONGEST_PAUSE", 0.2)


def _run(
    model_api: ModelApi,
    work: Callable[[Scorer], Coroutine[Any, Any, Any]],
    **overrides: Any,
) -> Any:
    async def run() -> Any:
        subject = Scorer(factories.settings(**(QUICK | {"ml_api_url": model_api.url} | overrides)))
        try:
            async with asyncio.timeout(30):
                return await work(subject)
        finally:
            await subject.close()

    return asyncio.run(run())


def _score(model_api: ModelApi, batch: list[Received], **overrides: Any) -> list[Outcome]:
    outcomes: list[Outcome] = _run(model_api, lambda it: it.score(batch), **overrides)
    assert sorted(o.message.offset for o in outcomes) == [i.message.offset for i in batch]
    return outcomes


async def _until(condition: Callable[[], bool]) -> None:
    """Let the loop run until something outside of it is so."""
    while not condition():  # noqa: ASYNC110 - in another process, no event tells of it
        await asyncio.sleep(0.01)


def _truth(model_api: ModelApi, batch: list[Received]) -> dict[int, float]:
    """Scores by offset, as a model without faults gives them."""
    model_api.reset()
    return {
        outcome.message.offset: outcome.prediction.fraud_score
        for outcome in _score(model_api, batch)
        if isinstance(outcome, Scored)
    }


def _failures(outcomes: list[Outcome]) -> dict[int, Failure]:
    return {o.message.offset: o for o in outcomes if isinstance(o, Failure)}


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
    outcomes = _score(model_api, factories.batch(100))
    assert all(isinstance(outcome, Scored) for outcome in outcomes)
    assert model_api.state()["requests"] == 1


def test_a_transaction_that_is_there_twice_is_asked_for_once(model_api: ModelApi) -> None:
    """Repeats within a batch share one prediction."""
    item = factories.received()
    repeated = item._replace(message=factories.message(offset=1))
    outcomes = _score(model_api, [item, repeated])
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


@pytest.mark.parametrize("size", [2, 7, 64, 100])
@pytest.mark.parametrize("place", [0, 0.4, 1])
@pytest.mark.parametrize("fault", ["poison", "poison_index"])
def test_a_refused_batch_is_cut_until_the_culprit_stands_alone(
    model_api: ModelApi, fault: str, size: int, place: float
) -> None:
    """One refused transaction costs at most 2·log2(n)+1 more requests, wherever it stands."""
    culprit = int(place * (size - 1))
    model_api.control(name=fault)
    failures = _failures(_score(model_api, factories.batch(size, poison=[culprit])))
    assert list(failures) == [culprit]
    assert (failures[culprit].stage, failures[culprit].disposition) == ("score", "rejected")
    extra = model_api.state()["requests"] - 1
    assert extra <= (2 if fault == "poison_index" else 2 * math.log2(size) + 1)


@pytest.mark.parametrize("code", [400, 413, 422])
def test_several_culprits_are_all_found(model_api: ModelApi, code: int) -> None:
    """Each refused transaction of a batch is rejected, and nothing else is."""
    culprits = [0, 1, 50, 99]
    model_api.control(name="poison", code=code)
    failures = _failures(_score(model_api, factories.batch(100, poison=culprits)))
    assert sorted(failures) == culprits
    assert {failure.code for failure in failures.values()} == {f"model.status_{code}"}


def test_a_blame_that_is_wrong_rejects_nobody(model_api: ModelApi) -> None:
    """A transaction that a refusal names is scored if it passes alone."""
    # One refusal that names the culprit; after it, everything is accepted.
    model_api.control(name="poison_index", requests=1)
    assert not _failures(_score(model_api, factories.batch(10, poison=[3])))


def test_a_batch_that_is_too_large_is_cut(model_api: ModelApi) -> None:
    """A server that takes fewer elements than a batch has gets smaller ones."""
    model_api.control(name="too_large", elements=30)
    assert not _failures(_score(model_api, factories.batch(100)))


def test_a_service_that_never_took_anything_stops_the_stream(
    model_api: ModelApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A topic is not drained into the error topic by a service that takes nothing at all."""
    monkeypatch.setattr(scorer, "REFUSALS", 20)
    model_api.control(name="status", code=422)
    with pytest.raises(ScoringError, match="20 transactions in a row"):
        _score(model_api, factories.batch(100))


def test_a_service_that_never_took_anything_may_refuse_a_few(
    model_api: ModelApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as the limit are dead letters; it is the next one that stops the stream."""
    monkeypatch.setattr(scorer, "REFUSALS", 20)
    model_api.control(name="status", code=422)
    failures = _failures(_score(model_api, factories.batch(20)))
    assert {failure.disposition for failure in failures.values()} == {"rejected"}
    assert len(failures) == 20
    with pytest.raises(ScoringError, match="20 transactions in a row"):
        _score(model_api, factories.batch(21))


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
        await _until(lambda: subject.paused)
        model_api.reset()
        return await asyncio.gather(*tasks)

    outcomes = _run(model_api, work)
    assert [len(some) for some in outcomes] == [10] * 4
    assert not [failure for some in outcomes for failure in _failures(some)]


def test_a_refused_transaction_alone_is_rejected_if_another_passes_again(
    model_api: ModelApi,
) -> None:
    """At low rates, what passed before is asked for again to tell a bad message from an outage."""
    model_api.control(name="poison")

    async def work(subject: Scorer) -> list[Outcome]:
        await subject.score(factories.batch(1, start=1))
        return await subject.score(factories.batch(1, poison=[0]))

    assert list(_failures(_run(model_api, work))) == [0]
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
    failures = _failures(_run(model_api, lambda it: _among_others(it, batch)))
    assert list(failures) == [42]
    assert failures[42].disposition == "exhausted"
    assert failures[42].attempts > 3


def test_neighbours_alone_show_that_it_is_the_message(model_api: ModelApi) -> None:
    """Without other traffic, the halves of a failing batch tell the culprit from an outage."""
    model_api.control(name="status", code=500, marker="poison")
    failures = _failures(_score(model_api, factories.batch(100, poison=[42])))
    assert list(failures) == [42]


def test_a_transaction_alone_is_given_up_if_another_passes_again(model_api: ModelApi) -> None:
    """Without other traffic, a transaction that passed before is the comparison."""
    model_api.control(name="status", code=500, marker="poison")

    async def work(subject: Scorer) -> list[Outcome]:
        await subject.score(factories.batch(1, start=1))
        return await subject.score(factories.batch(1, poison=[0]))

    [failure] = _failures(_run(model_api, work)).values()
    assert (failure.disposition, failure.attempts) == ("exhausted", 8)


def test_a_transaction_is_not_given_up_without_comparison(model_api: ModelApi) -> None:
    """With nothing to compare with, a failing transaction waits until there is something."""
    model_api.control(name="status", code=500, marker="poison")

    async def work(subject: Scorer) -> tuple[bool, list[Outcome]]:
        task = asyncio.create_task(subject.score(factories.batch(1, poison=[0])))
        await _until(lambda: model_api.state()["requests"] >= 15)
        waited = not task.done()
        await subject.score(factories.batch(1, start=1))
        return waited, await task

    waited, outcomes = _run(model_api, work)
    assert waited
    assert _failures(outcomes)[0].disposition == "exhausted"


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
        await asyncio.wait(tasks, timeout=0.7)  # the outage lasts so long
        model_api.reset()
        return await asyncio.gather(*tasks)

    outcomes = _run(model_api, work, ml_api_timeout=0.3)
    assert [len(some) for some in outcomes] == [10] * 8
    assert not [failure for some in outcomes for failure in _failures(some)]


def test_an_outage_gives_up_no_single_transaction(model_api: ModelApi) -> None:
    """Also without retries, and however often one alone has failed, an outage is no verdict."""
    batches = [factories.batch(1, start=number) for number in range(8)]

    async def work(subject: Scorer) -> list[list[Outcome]]:
        await subject.score(factories.batch(10, start=1_000))
        model_api.control(name="outage")
        tasks = [asyncio.create_task(subject.score(batch)) for batch in batches]
        await asyncio.wait(tasks, timeout=1.5)
        model_api.reset()
        return await asyncio.gather(*tasks)

    outcomes = _run(model_api, work, max_retries=0)
    assert not [failure for some in outcomes for failure in _failures(some)]


def test_after_an_outage_batches_are_whole(model_api: ModelApi) -> None:
    """An outage teaches nothing about a batch, so it is not cut to pieces by one."""
    batches = [factories.batch(16, start=16 * number) for number in range(4)]

    async def work(subject: Scorer) -> int:
        await subject.score(factories.batch(10, start=1_000))
        model_api.control(name="outage")
        tasks = [asyncio.create_task(subject.score(batch)) for batch in batches]
        await asyncio.wait(tasks, timeout=2.5)
        model_api.reset()
        await asyncio.gather(*tasks)
        requests: int = model_api.state()["requests"]
        return requests

    # Once each, and halves of those that were just looked at in halves.
    assert _run(model_api, work, max_retries=0) <= 4 * 3


def test_an_endless_answer_is_broken_off(model_api: ModelApi) -> None:
    """A hundred megabytes are not taken in to find out that they are no answer."""
    model_api.control(name="huge")

    async def run() -> None:
        api = ScoringApi(factories.settings(ml_api_url=model_api.url))
        try:
            await api.ask([item.transaction for item in factories.batch(10)])
        finally:
            await api.close()

    with pytest.raises(UnavailableError, match="an answer of more than 84000 bytes"):
        asyncio.run(run())


def test_a_name_that_does_not_resolve_is_an_outage(model_api: ModelApi) -> None:
    """With a wrong host name transactions wait, and none is given up."""

    async def work(subject: Scorer) -> bool:
        task = asyncio.create_task(subject.score(factories.batch(10)))
        done, _ = await asyncio.wait([task], timeout=1)
        task.cancel()
        return not done and subject.paused

    assert _run(model_api, work, ml_api_url="http://model.invalid:8000")


def test_during_an_outage_one_request_at_a_time_goes(model_api: ModelApi) -> None:
    """While the service is down it gets a probe now and then, not the backlog."""
    batches = [factories.batch(10, start=10 * number) for number in range(16)]

    async def work(subject: Scorer) -> int:
        model_api.control(name="outage")
        tasks = [asyncio.create_task(subject.score(batch)) for batch in batches]
        await _until(lambda: subject.paused)
        await asyncio.sleep(0.1)  # what was on its way has come back
        before: int = model_api.state()["requests"]
        await asyncio.wait(tasks, timeout=1)
        for task in tasks:
            task.cancel()
        after: int = model_api.state()["requests"]
        return after - before

    # A probe after each pause, of 0.05 s and then up to 0.2 s: ten or so, not hundreds.
    assert 1 <= _run(model_api, work) <= 20


def test_in_an_outage_transactions_are_given_up_if_that_is_wanted(model_api: ModelApi) -> None:
    """With SCORING_ON_OUTAGE=dead_letter a failing batch ends after its retries."""
    model_api.control(name="outage")
    outcomes = _score(
        model_api, factories.batch(100), scoring_on_outage="dead_letter", max_retries=2
    )
    failures = _failures(outcomes).values()
    assert len(failures) == 100
    assert {failure.disposition for failure in failures} == {"exhausted"}


@pytest.mark.parametrize("code", [301, 302, 307, 401, 403, 404, 405, 415])
def test_an_answer_that_no_retry_mends_stops_the_stream(model_api: ModelApi, code: int) -> None:
    """Wrong credentials and wrong paths end the stream, and the message names the setting."""
    model_api.control(name="redirect" if code < 400 else "status", code=code)
    setting = "ML_API_TOKEN" if code in {401, 403} else "ML_API_URL"
    with pytest.raises(ScoringError, match=f"{setting}.*{code}"):
        _score(model_api, factories.batch(3))
    assert model_api.state()["requests"] == 1


def test_a_token_that_was_rotated_is_read_again(servers_folder: Path, token_file: Path) -> None:
    """After a 401 the token's file is read once more before the stream stops."""
    old = {"ml_api_token": "old"}
    with ModelApi(servers_folder / "token", options=["--token", "new"]) as model_api:
        with pytest.raises(ScoringError, match="ML_API_TOKEN"):
            _score(model_api, factories.batch(3), **old)
        token_file.write_text("new\n")
        assert not _failures(_score(model_api, factories.batch(3), **old))


BAD_ANSWERS = [
    *("missing", "doubled", "foreign", "anonymous", "short", "nan", "text", "no_score"),
    *("out_of_range", "no_prediction", "html", "not_json", "truncate", "huge"),
]


@pytest.mark.parametrize("fault", BAD_ANSWERS)
def test_a_bad_answer_is_never_stored(model_api: ModelApi, fault: str) -> None:
    """After two bad answers every transaction has the score that the model gives it."""
    batch = factories.batch(20)
    truth = _truth(model_api, batch)
    model_api.control(name=fault, requests=2)
    outcomes = _score(model_api, batch)
    assert {
        o.message.offset: o.prediction.fraud_score for o in outcomes if isinstance(o, Scored)
    } == truth
    assert model_api.state()["requests"] >= 3


def test_the_order_of_an_answer_does_not_matter(model_api: ModelApi) -> None:
    """A shuffled answer gives each transaction its own score, at once."""
    batch = factories.batch(50)
    truth = _truth(model_api, batch)
    model_api.reset()
    model_api.control(name="shuffle")
    assert _truth_of(_score(model_api, batch)) == truth
    assert model_api.state()["requests"] == 1


def _truth_of(outcomes: list[Outcome]) -> dict[int, float]:
    return {o.message.offset: o.prediction.fraud_score for o in outcomes if isinstance(o, Scored)}


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
def test_retry_after_is_respected(model_api: ModelApi, as_date: bool) -> None:  # noqa: FBT001 - pytest's
    """A request is not sent again before the time that the server names."""
    model_api.control(name="status", code=503, requests=1, retry_after=2, retry_after_date=as_date)
    started = time.monotonic()
    _score(model_api, factories.batch(3))
    assert time.monotonic() - started >= (1 if as_date else 2)  # a date has whole seconds


def test_a_retry_does_not_hold_up_the_others(model_api: ModelApi) -> None:
    """While one batch waits to be sent again, others are scored."""
    model_api.control(name="status", code=503, requests=1, retry_after=1.5)

    async def work(subject: Scorer) -> tuple[bool, list[Outcome]]:
        slow = asyncio.create_task(subject.score(factories.batch(10)))
        await _until(lambda: model_api.state()["requests"] >= 1)
        for number in range(5):
            await subject.score(factories.batch(10, start=100 + 10 * number))
        return slow.done(), await slow

    done_first, outcomes = _run(model_api, work)
    assert not done_first
    assert not _failures(outcomes)


def test_a_slow_request_is_sent_once_more_if_that_is_wanted(model_api: ModelApi) -> None:
    """With SCORING_HEDGE_AFTER the first of two answers counts, and it is right."""
    batch = factories.batch(20)
    truth = _truth(model_api, batch)
    model_api.reset()
    model_api.control(name="slow", delay_ms=1_500, requests=1)
    started = time.monotonic()
    outcomes = _score(model_api, batch, scoring_hedge_after=0.1)
    assert time.monotonic() - started < 1.0
    assert _truth_of(outcomes) == truth
    assert model_api.state()["requests"] == 2


def test_no_request_is_sent_twice_by_itself(model_api: ModelApi) -> None:
    """Without SCORING_HEDGE_AFTER a slow request is waited for."""
    model_api.control(name="slow", delay_ms=500, requests=1)
    _score(model_api, factories.batch(20))
    assert model_api.state()["requests"] == 1


def test_nothing_listens_is_an_outage(model_api: ModelApi) -> None:
    """A port that nobody listens on pauses the scoring."""

    async def work(subject: Scorer) -> bool:
        task = asyncio.create_task(subject.score(factories.batch(1)))
        await _until(lambda: subject.paused)
        task.cancel()
        return not task.done()

    assert _run(model_api, work, ml_api_url=f"http://127.0.0.1:{free_port()}")
