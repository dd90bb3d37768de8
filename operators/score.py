"""Score transactions in batches through the model's API.

A batch stays on the worker that read it: it passes `stateful_batch` under a key of that worker's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import bytewax.operators as op
from bytewax.dataflow import Stream, operator

from operators.engine.loop import WorkerLocal
from operators.engine.routing import WorkerKeys
from operators.model.batcher import AsyncBatcher, Outcomes
from operators.records import Failure, Received, Scored
from operators.workers import Worker

__all__ = ["ScoreOut", "score"]


@dataclass(frozen=True)
class ScoreOut:
    """Streams from {py:obj}`score`."""

    oks: Stream[list[Scored]]
    """Transactions with their predictions."""

    errs: Stream[list[Failure]]
    """Those that the model refuses while it takes others."""


def _under_key(
    keys: WorkerKeys, batches: list[Sequence[Received]]
) -> list[tuple[str, Sequence[Received]]]:
    key = keys.here()
    return [(key, batch) for batch in batches]


def _without_key(keyed: list[tuple[str, Outcomes]]) -> list[Outcomes]:
    return [outcomes for _, outcomes in keyed]


def _are_scored(outcomes: Outcomes) -> bool:
    return isinstance(outcomes[0], Scored)


@operator
def score(step_id: str, up: Stream[list[Received]], *, workers: WorkerLocal[Worker]) -> ScoreOut:
    """Score transactions in batches through the model's API.

    :returns: Transactions with predictions, and failures.

    :raises ScoringError: The API fails in a way that is not the fault of one transaction.

    """
    keys = WorkerKeys()
    op.input("keys", up.flow(), keys)

    def build(_state: None) -> AsyncBatcher:
        return workers().batcher(is_alone=keys.workers == 1)

    keyed = op.flat_map_batch("key", up, partial(_under_key, keys))
    outcomes = op.stateful_batch("api", keyed, build)
    branches = op.branch(
        "scored", op.flat_map_batch("outcome", outcomes, _without_key), _are_scored
    )
    return ScoreOut(oks=branches.trues, errs=branches.falses)  # type: ignore[arg-type]
