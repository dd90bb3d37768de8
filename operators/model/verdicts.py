"""What becomes of a transaction: a prediction, or that it is given up."""

from typing import NamedTuple

from operators.model.errors import RefusedError
from operators.model.isolation import Suspects
from operators.records import Disposition, Failure, Prediction, Received, Scored

__all__ = ["Outcome", "Verdicts", "exhausted", "outcome", "rejected"]

Outcome = Scored | Failure


class _GivenUp(NamedTuple):
    disposition: Disposition
    code: str
    error: str
    attempts: int


Verdicts = dict[int, Prediction | _GivenUp]
"""By the `int` of the transaction's id."""


def exhausted(suspects: Suspects) -> Verdicts:
    """Give up what failed as often as retries are allowed."""
    transactions, cause, attempts = suspects
    error = f"transaction: the model failed {attempts} times, last: {cause}"
    given_up = _GivenUp("exhausted", "model.failed", error, attempts)
    return {transaction.id.int: given_up for transaction in transactions}


def rejected(suspects: Suspects, refusal: RefusedError) -> Verdicts:
    """Give up what is refused while others are taken."""
    error = f"transaction: {refusal} to it alone"
    given_up = _GivenUp("rejected", f"model.status_{refusal.status}", error, suspects.attempts)
    return {transaction.id.int: given_up for transaction in suspects.transactions}


def outcome(item: Received, verdict: Prediction | _GivenUp, trace: str | None) -> Outcome:
    """Make what leaves the scoring step.

    :arg item: What came in.

    :arg verdict: On its transaction.

    :arg trace: `traceparent` of the batch.

    """
    if isinstance(verdict, Prediction):
        return Scored(item.message, item.transaction, verdict, trace)
    disposition, code, error, attempts = verdict
    return Failure(item.message, "score", disposition, code, error, attempts, trace)
