"""Answers that are none, and answers that stop the stream."""

import asyncio
from pathlib import Path

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from lab.servers import ModelApi
from operators.errors import DependencyError, ScoringError
from operators.model.check import check
from operators.model.client import ModelClient
from operators.model.errors import UnavailableError
from operators.model.evidence import MOST_UNMET
from operators.model.scorer import Outcome, Scorer
from operators.records import Received, Scored
from tests.kit import factories
from tests.kit.serving import failures, predictions, run_scorer, score, scores, serving, until


def _truth(model_api: ModelApi, batch: list[Received]) -> dict[int, float]:
    """Scores by offset, as a model without faults gives them."""
    model_api.reset()
    truth = scores(score(model_api.url, batch))
    model_api.reset()
    return truth


def test_an_endless_answer_is_broken_off(model_api: ModelApi) -> None:
    """A hundred megabytes are not taken in to find out that they are no answer."""
    model_api.control(name="huge")

    async def run() -> None:
        client = ModelClient(factories.settings(ml_api_url=model_api.url))
        try:
            await client.predict([item.transaction for item in factories.batch(10)])
        finally:
            await client.close()

    with pytest.raises(UnavailableError, match="an answer of more than 84000 bytes"):
        asyncio.run(run())


@pytest.mark.parametrize("code", [301, 302, 307, 401, 403, 404, 405, 415])
def test_an_answer_that_no_retry_mends_stops_the_stream(model_api: ModelApi, code: int) -> None:
    """Wrong credentials and wrong paths end the stream, and the message names the setting."""
    model_api.control(name="redirect" if code < 400 else "status", code=code)
    setting = "ML_API_TOKEN" if code in {401, 403} else "ML_API_URL"
    with pytest.raises(ScoringError, match=f"{setting}.*{code}"):
        score(model_api.url, factories.batch(3))
    assert model_api.state()["requests"] == 1


def test_a_token_that_was_rotated_is_read_again(servers_folder: Path, token_file: Path) -> None:
    """After a 401 the token's file is read once more before the stream stops."""
    old = {"ml_api_token": "old"}
    with ModelApi(servers_folder / "token", options=["--token", "new"]) as model_api:
        with pytest.raises(ScoringError, match="ML_API_TOKEN"):
            score(model_api.url, factories.batch(3), **old)
        token_file.write_text("new\n")
        assert not failures(score(model_api.url, factories.batch(3), **old))


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
    outcomes = score(model_api.url, batch)
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
    assert scores(score(model_api.url, batch)) == truth
    assert model_api.state()["requests"] == 1


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
def test_retry_after_is_respected(model_api: ModelApi, as_date: bool) -> None:  # noqa: FBT001 - pytest's
    """A request is not sent again before the time that the server names; others go on."""
    model_api.control(name="status", code=503, requests=1, retry_after=60, retry_after_date=as_date)

    async def work(subject: Scorer) -> tuple[bool, list[Outcome]]:
        held = asyncio.create_task(subject.score(factories.batch(10)))
        await until(lambda: model_api.state()["requests"] >= 1)
        others = [
            await subject.score(factories.batch(10, start=100 + 10 * number)) for number in range(5)
        ]
        waits = not held.done()
        held.cancel()
        return waits, [outcome for some in others for outcome in some]

    with capture_logs() as lines:
        waits, others = run_scorer(model_api.url, work)
    assert waits
    assert len(others) == 50
    assert not failures(others)
    [pause] = [line["pause"] for line in lines if line["event"] == "model.retry"]
    assert 30 < pause <= 60.01  # of the date some seconds may be gone already


async def _without_fields(request: web.BaseRequest) -> web.StreamResponse:
    rows = [{"transaction_id": row["id"], "label": "fraud"} for row in await request.json()]
    return web.json_response(rows)


def test_a_contract_that_is_never_met_stops_the_stream() -> None:
    """After some answers, with every field that is missing; no outage looks like that for ever."""
    with pytest.raises(
        ScoringError, match=r"never .*\.prediction: missing, .*fraud_score: missing"
    ):
        score(_without_fields, factories.batch(3))


def test_a_contract_that_was_met_before_is_waited_for() -> None:
    """A model that has answered rightly is sick, however long it answers otherwise."""
    answers = 0

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal answers
        answers += 1
        if 1 < answers < 3 * MOST_UNMET:
            return await _without_fields(request)
        return predictions(await request.json())

    async def work(subject: Scorer) -> list[Outcome]:
        first = await subject.score(factories.batch(1))
        return first + await subject.score(factories.batch(3))

    assert not failures(run_scorer(answer, work))
    assert answers >= 3 * MOST_UNMET


def test_the_check_asks_about_a_made_up_transaction() -> None:
    """What answers nothing to nothing may still keep no contract; unless that is not wanted."""

    async def run(*, asks: bool) -> None:
        async with serving(_without_fields) as url:
            settings = factories.settings(ml_api_url=url, ml_api_check=asks)
            await asyncio.to_thread(check, settings)

    with pytest.raises(DependencyError, match=r"CONTRACT: .*0\.prediction: missing, 0\.fraud_"):
        asyncio.run(run(asks=True))
    asyncio.run(run(asks=False))
