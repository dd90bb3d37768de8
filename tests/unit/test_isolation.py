"""The search for culprits, without a service."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest

from operators.model.errors import RefusedError, UnavailableError
from operators.model.isolation import Suspects, bisect, bisect_failed
from operators.records import Prediction, Transaction
from tests.kit import factories

Cause = RefusedError | UnavailableError
REFUSED = RefusedError(422, set())
FAILED = UnavailableError("status 500", kind="status")


def _blame(*places: int) -> RefusedError:
    return RefusedError(422, set(places))


class Service:
    """Takes everything but its culprits.

    :arg size: Of the batch.

    :arg culprits: Their positions in it.

    :arg cause: How it fails with one of them.

    """

    def __init__(
        self, size: int, culprits: set[int], cause: Callable[[int], Cause] = lambda _size: REFUSED
    ) -> None:
        self.batch = [item.transaction for item in factories.batch(size)]
        self.culprits = {self.batch[place].id.int for place in culprits}
        self.cause = cause
        self.sizes: list[int] = []

    async def ask(self, transactions: list[Transaction]) -> dict[int, Prediction]:
        """Answer one request."""
        self.sizes.append(len(transactions))
        if any(transaction.id.int in self.culprits for transaction in transactions):
            raise self.cause(len(transactions))
        return {transaction.id.int: factories.prediction() for transaction in transactions}

    def search(self) -> dict[int, Any]:
        """Look for the culprits; `Suspects` stand for each one's judgement."""

        async def judge(suspects: Suspects) -> dict[int, Any]:
            [transaction] = suspects.transactions
            return {transaction.id.int: suspects}

        async def run() -> dict[int, Any]:
            suspects = Suspects(self.batch, self.cause(len(self.batch)), 1)
            return await bisect_failed(await bisect(suspects, self.ask), self.ask, judge)

        return asyncio.run(run())


def _found(verdicts: dict[int, Any]) -> set[int]:
    return {key for key, verdict in verdicts.items() if isinstance(verdict, Suspects)}


@pytest.mark.parametrize("size", [2, 7, 64, 100])
@pytest.mark.parametrize("cause", [REFUSED, FAILED], ids=["refused", "failed"])
def test_one_culprit_costs_little_wherever_it_stands(size: int, cause: Cause) -> None:
    """At most 2·log2(n)+1 more requests."""
    for place in range(size):
        subject = Service(size, {place}, lambda _size: cause)
        verdicts = subject.search()
        assert _found(verdicts) == subject.culprits
        assert len(verdicts) == size
        assert len(subject.sizes) <= 2 * math.log2(size) + 1


def test_several_culprits_are_all_found() -> None:
    """And nothing else is judged."""
    subject = Service(100, {0, 1, 50, 99})
    assert _found(subject.search()) == subject.culprits


def test_who_is_named_is_asked_for_alone() -> None:
    """And the rest together, so that one culprit costs two requests."""
    subject = Service(64, {21}, lambda size: _blame(21) if size == 64 else REFUSED)
    assert _found(subject.search()) == subject.culprits
    assert subject.sizes == [63, 1]


def test_a_batch_in_which_all_are_named_has_no_rest() -> None:
    """Nothing is asked for with no transactions in it."""
    subject = Service(3, {0, 1, 2}, lambda size: _blame(*range(size)))
    assert _found(subject.search()) == subject.culprits
    assert subject.sizes == [1, 1, 1]


@pytest.mark.parametrize(
    "blame",
    [
        _blame,
        lambda _size: _blame(-1),
        lambda size: _blame(*range(size)),
    ],
    ids=["behind the end", "before the beginning", "everybody"],
)
def test_a_blame_that_is_of_no_use_costs_little(blame: Callable[[int], Cause]) -> None:
    """The culprit is found by halves, and nobody else is judged."""
    subject = Service(64, {21}, blame)
    assert _found(subject.search()) == subject.culprits
    # Of eight who are named each is asked for alone, where halves would cost six.
    assert len(subject.sizes) <= 2 * math.log2(64) + 2


def test_a_blame_that_is_partly_wrong_names_the_right_ones() -> None:
    """Positions that do not exist are passed over."""
    subject = Service(64, {21}, lambda size: _blame(21, 64) if size == 64 else REFUSED)
    subject.search()
    assert subject.sizes == [63, 1]


@pytest.mark.parametrize(("size", "attempts"), [(2, 2), (4, 3), (8, 4)])
def test_each_request_that_it_was_part_of_counts(size: int, attempts: int) -> None:
    """The first of the whole batch included."""
    subject = Service(size, {0})
    [suspects] = [it for it in subject.search().values() if isinstance(it, Suspects)]
    assert suspects.attempts == attempts
    assert suspects.cause is REFUSED


def test_a_judgement_ends_the_search() -> None:
    """Who stands alone is judged at once, so a service that takes nothing is asked for little."""
    subject = Service(1_000, set(range(1_000)))

    async def judge(_suspects: Suspects) -> dict[int, Any]:
        raise LookupError

    async def run() -> None:
        suspects = Suspects(subject.batch, REFUSED, 1)
        await bisect_failed(await bisect(suspects, subject.ask), subject.ask, judge)

    with pytest.raises(LookupError):
        asyncio.run(run())
    assert len(subject.sizes) <= 2 * math.log2(1_000) + 2
