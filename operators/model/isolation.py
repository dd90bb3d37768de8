"""Find the transactions at fault in a batch that failed, by asking for parts of it.

1. If the refusal names a few positions, each of them is asked for alone, and the rest together.
   Otherwise the two halves are.
2. A part that passes is done. One that fails is bisected again, until a transaction stands alone.

One culprit among n costs at most 2·log2(n)+1 more requests.
"""

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, TypeVar

from operators.model.errors import RefusedError, UnavailableError
from operators.records import Prediction, Transaction

__all__ = ["Bisected", "Predictions", "Suspects", "bisect", "bisect_failed"]

X = TypeVar("X")

NAMED: Final = 8  # culprits that are asked for alone; more are found by halves

Predictions = dict[int, Prediction]
"""By the `int` of the transaction's id."""
Ask = Callable[[list[Transaction]], Awaitable[Predictions]]
"""Send one request; raises `RefusedError` or `UnavailableError`."""


class Suspects(NamedTuple):
    """Transactions that failed together: at least one of them may be at fault."""

    transactions: list[Transaction]
    cause: RefusedError | UnavailableError
    attempts: int
    """How many requests each of them was part of."""

    @property
    def alone(self) -> bool:
        """Whether it is a single transaction."""
        return len(self.transactions) == 1


class Bisected(NamedTuple):
    """What became of the parts."""

    passed: Predictions
    failed: list[Suspects]


async def bisect(suspects: Suspects, ask: Ask) -> Bisected:
    """Ask once for each part, one after the other.

    :arg suspects: Two transactions or more.

    :arg ask: Sends a request.

    :returns: Predictions of the parts that passed, and the other parts.

    """
    passed: Predictions = {}
    failed: list[Suspects] = []
    for part in _around_the_blamed(suspects) or _halves(suspects.transactions):
        try:
            passed |= await ask(part)
        except (RefusedError, UnavailableError) as cause:
            failed.append(Suspects(part, cause, suspects.attempts + 1))
    return Bisected(passed, failed)


async def bisect_failed(
    bisected: Bisected, ask: Ask, judge: Callable[[Suspects], Awaitable[dict[int, Prediction | X]]]
) -> dict[int, Prediction | X]:
    """Bisect again what failed, until every culprit stands alone.

    :arg bisected: From `bisect`.

    :arg ask: Sends a request.

    :arg judge: Decides on a transaction that failed alone, at once: it may end the search.

    :returns: A prediction or a judgement for every transaction, by id.

    """
    verdicts: dict[int, Prediction | X] = {**bisected.passed}
    for suspects in bisected.failed:
        if suspects.alone:
            verdicts |= await judge(suspects)
        else:
            verdicts |= await bisect_failed(await bisect(suspects, ask), ask, judge)
    return verdicts


def _halves(transactions: list[Transaction]) -> list[list[Transaction]]:
    middle = len(transactions) // 2
    return [transactions[:middle], transactions[middle:]]


def _around_the_blamed(suspects: Suspects) -> list[list[Transaction]]:
    """The rest, and each of the blamed alone; nothing if the blame is of no use."""
    transactions, cause, _ = suspects
    blamed = cause.blamed if isinstance(cause, RefusedError) else set()
    places = [place for place in sorted(blamed) if 0 <= place < len(transactions)]
    if not places or len(places) > NAMED:
        return []
    rest = [item for place, item in enumerate(transactions) if place not in blamed]
    return [*([rest] if rest else []), *([transactions[place]] for place in places)]
