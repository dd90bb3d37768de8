"""What the scorer makes of a batch that fails: who is the culprit, and whether there is one."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from aiohttp import web

from operators.model.scorer import Outcome, Scorer
from operators.records import Failure, Scored
from tests.kit import factories
from tests.kit.serving import QUICK, failures, predictions, run_scorer, until


class Server:
    """Answers batches without poison rightly, and those with it as it is told.

    :arg status: Of the answer to a batch with poison.

    :arg blame: Positions that it names, whatever the batch.

    """

    def __init__(self, status: int, blame: Callable[[int], list[int]] = lambda _size: []) -> None:
        self.status, self.blame = status, blame
        self.sizes: list[int] = []
        self.poisoned = 0

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer."""
        transactions: list[Mapping[str, Any]] = await request.json()
        self.sizes.append(len(transactions))
        if all(item["description"] != "poison" for item in transactions):
            return predictions(transactions)
        self.poisoned += 1
        places = self.blame(len(transactions))
        detail = [{"loc": ["body", place, "amount"]} for place in places]
        return web.json_response({"detail": detail}, status=self.status)


@pytest.mark.parametrize(("size", "parts"), [(1, 1), (2, 2), (4, 3), (8, 4)])
def test_a_dead_letter_says_how_often_it_was_sent(size: int, parts: int) -> None:
    """Alone and as part of others."""
    server = Server(400)
    outcomes = run_scorer(server, lambda it: it.score(factories.batch(size, poison=[0])))
    [failure] = failures(outcomes).values()
    assert failure.attempts == server.poisoned == parts


def test_one_that_breaks_the_server_says_how_often_it_was_sent() -> None:
    """With all retries as part of its batch, once in a half, and with all retries alone."""
    server = Server(500)
    outcomes = run_scorer(server, lambda it: it.score(factories.batch(2, poison=[0])))
    [failure] = failures(outcomes).values()
    assert failure.disposition == "exhausted"
    assert failure.attempts == server.poisoned == 4 + 1 + 4


def test_a_batch_of_nothing_but_culprits_is_cut_if_others_succeed() -> None:
    """None of its halves passes; what else passes shows that the server is well."""
    server = Server(500)

    async def work(subject: Scorer) -> list[Outcome]:
        task = asyncio.create_task(subject.score(factories.batch(2, poison=[0, 1])))
        while not task.done():
            await subject.score(factories.batch(1, start=10))
        return task.result()

    given_up = failures(run_scorer(server, work))
    assert sorted(given_up) == [0, 1]
    assert {failure.disposition for failure in given_up.values()} == {"exhausted"}


def test_its_own_failures_are_not_held_against_a_server() -> None:
    """One success of others, while a transaction fails with all its retries, says enough."""
    server = Server(500)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = await server(request)
        if response.status == 500 and server.poisoned % 4 == 2:
            number = len(server.sizes)
            await until(lambda: len(server.sizes) > number)
        return response

    async def work(subject: Scorer) -> list[Outcome]:
        task = asyncio.create_task(subject.score(factories.batch(1, poison=[0])))

        async def succeed(during: int) -> None:
            await until(lambda: server.poisoned == during)
            await subject.score(factories.batch(3, start=10))

        await succeed(2)
        await succeed(6)
        return await task

    # No breaker: others would wait for what waits for them here.
    outcomes = run_scorer(answer, work, pauses=QUICK | {"failures": 100})
    [failure] = failures(outcomes).values()
    assert failure.attempts == server.poisoned == 8
    assert server.sizes.count(3) == 2


def test_a_server_that_often_fails_others_too_is_sick() -> None:
    """A transaction is not given up while half of all other requests fail."""
    server = Server(500)
    sick = True
    others = 0

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal others
        response = await server(request)
        if response.status == 200:
            others += 1
            if sick and others % 2:
                return web.Response(status=500)
        return response

    async def work(subject: Scorer) -> list[Outcome]:
        nonlocal sick
        task = asyncio.create_task(subject.score(factories.batch(1, poison=[0])))
        while not task.done():
            sick = server.poisoned < 24
            await subject.score(factories.batch(1, start=10))
        return task.result()

    [failure] = failures(run_scorer(answer, work)).values()
    assert failure.attempts >= 24


def test_one_success_of_what_passed_before_is_not_enough() -> None:
    """A server that fails one request in three may have failed this one by chance."""
    server = Server(500)
    comparisons = 0
    sick = True

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal comparisons
        response = await server(request)
        if response.status == 200:
            comparisons += 1
            if sick and comparisons % 3 == 0:
                return web.Response(status=500)
        return response

    async def work(subject: Scorer) -> list[Outcome]:
        nonlocal sick
        await subject.score(factories.batch(1, start=1))
        task = asyncio.create_task(subject.score(factories.batch(1, poison=[0])))
        await until(lambda: comparisons > 10 or task.done())
        assert not task.done()
        sick = False
        return await task

    [outcome] = run_scorer(answer, work)
    assert isinstance(outcome, Failure)
    assert outcome.disposition == "exhausted"


def test_what_is_refused_by_a_server_that_takes_others_waits_for_nobody() -> None:
    """What passed while it was asked for is comparison enough: nothing is asked for again."""
    server = Server(400)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = await server(request)
        if response.status == 400:
            await until(lambda: 3 in server.sizes)
        return response

    async def work(subject: Scorer) -> list[Outcome]:
        await subject.score(factories.batch(2, start=20))
        task = asyncio.create_task(subject.score(factories.batch(1, poison=[0])))
        await until(lambda: server.poisoned == 1)
        others = await subject.score(factories.batch(3, start=10))
        assert all(isinstance(outcome, Scored) for outcome in others)
        return await task

    assert list(failures(run_scorer(answer, work))) == [0]
    assert server.sizes == [2, 1, 3]


@pytest.mark.parametrize("size", [1, 20])
@pytest.mark.parametrize("batches", [2, 16])
def test_several_culprits_at_once_are_all_found(batches: int, size: int) -> None:
    """Though nothing else is asked for meanwhile: what they do is no sign of a sick server."""
    server = Server(500)
    culprits = [100 * number for number in range(batches)]

    async def work(subject: Scorer) -> list[list[Outcome]]:
        await subject.score(factories.batch(1, start=1))
        tasks = [subject.score(factories.batch(size, start=it, poison=[it])) for it in culprits]
        return await asyncio.gather(*tasks)

    outcomes = [outcome for some in run_scorer(server, work) for outcome in some]
    assert sorted(failures(outcomes)) == culprits
    assert len(outcomes) == batches * size


def test_batches_of_nothing_but_culprits_are_cut() -> None:
    """Also if nothing else is asked for: what passed before is the comparison."""
    server = Server(500)

    async def work(subject: Scorer) -> list[list[Outcome]]:
        await subject.score(factories.batch(1, start=9))
        tasks = [
            subject.score(factories.batch(4, start=start, poison=range(start, start + 4)))
            for start in (100, 200)
        ]
        return await asyncio.gather(*tasks)

    outcomes = [outcome for some in run_scorer(server, work) for outcome in some]
    assert sorted(failures(outcomes)) == [*range(100, 104), *range(200, 204)]


def test_a_part_that_passes_by_chance_is_no_proof_that_a_server_is_well() -> None:
    """A server that fails half of all it is asked gives up nothing, whatever it is cut into."""
    asked = 0
    sick = True

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal asked
        items = await request.json()
        asked += 1
        # Only parts pass, now and then; that of the marked one never, so that no batch is done.
        marked = any(item["description"] == "poison" for item in items)
        if sick and (asked % 2 or marked or len(items) in {1, 8}):
            return web.Response(status=500)
        return predictions(items)

    async def work(subject: Scorer) -> list[list[Outcome]]:
        nonlocal sick
        sick = False
        await subject.score(factories.batch(1, start=1_000))
        sick = True
        batches = [
            factories.batch(8, start=start, poison=[start + 7]) for start in range(0, 400, 100)
        ]
        tasks = [asyncio.create_task(subject.score(batch)) for batch in batches]
        await until(lambda: asked > 150)
        sick = False
        return await asyncio.gather(*tasks)

    outcomes = [outcome for some in run_scorer(answer, work) for outcome in some]
    assert not failures(outcomes)
    assert len(outcomes) == 4 * 8


def test_what_is_suspected_is_no_proof_that_a_server_is_well() -> None:
    """Of what failed before some pass at last; its failures do not count, nor does this."""
    sick = True
    poisoned = 0
    asked: Counter[str] = Counter()
    held: list[asyncio.Event] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal poisoned
        [item] = await request.json()
        if item["description"] == "poison":
            poisoned += 1
            if held:
                held.pop().set()
            await asyncio.sleep(0.05)  # that one has passed before this one fails
            return web.Response(status=500)
        asked[item["id"]] += 1
        if sick and asked[item["id"]] != 2:  # once more: it is asked for again as a comparison
            return web.Response(status=500)
        if sick:
            held.append(asyncio.Event())
            await held[-1].wait()
        return predictions([item])

    async def work(subject: Scorer) -> list[Outcome]:
        nonlocal sick
        others = [
            asyncio.create_task(subject.score(factories.batch(1, start=start)))
            for start in range(10, 16)
        ]
        await until(lambda: len(held) == len(others))
        task = asyncio.create_task(subject.score(factories.batch(1, poison=[0])))
        await until(lambda: poisoned == len(others) or task.done())
        assert not task.done()
        sick = False
        await asyncio.gather(*others)
        return await task

    # No breaker: nothing waits for a probe here.
    [outcome] = run_scorer(answer, work, pauses=QUICK | {"failures": 1_000}, max_retries=0)
    assert isinstance(outcome, Failure)
    assert outcome.disposition == "exhausted"
