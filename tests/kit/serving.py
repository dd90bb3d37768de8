"""A model's API that a test writes itself, for what the stand-in has no fault for."""

import asyncio
import json
import ssl
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from aiohttp import web

from operators.backoff import Backoff
from operators.model.scorer import Outcome, Scorer
from operators.records import Failure, Received, Scored
from tests.kit import factories

__all__ = [
    "QUICK",
    "Answer",
    "NotedPauses",
    "failures",
    "predictions",
    "run_scorer",
    "score",
    "scores",
    "serving",
    "until",
]

X = TypeVar("X")

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

QUICK: Final[dict[str, Any]] = {
    "retries": Backoff(first=0.01, longest=0.05),
    "probes": Backoff(first=0.01, longest=0.02, least=0.5),
}
"""Of a scorer whose tests would else wait for retries and probes."""


@dataclass(frozen=True, kw_only=True)
class NotedPauses(Backoff):
    """Pauses that are noted, and not made."""

    ceilings: list[float] = field(default_factory=list)
    """The longest that each could have been."""

    def pause(self, attempt: int) -> float:
        """Note it."""
        self.ceilings.append(self.ceiling(attempt))
        return 0.0


@asynccontextmanager
async def serving(answer: Answer, certificates: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Answer requests on a port of its own, on the loop of the test.

    :arg answer: What becomes of a request.

    :arg certificates: For TLS; None for none.

    :returns: Base URL.

    """
    runner = web.ServerRunner(web.Server(answer, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=certificates).start()
        scheme = "https" if certificates else "http"
        yield f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def predictions(
    transactions: list[Mapping[str, Any]], headers: Mapping[str, str] | None = None, **more: Any
) -> web.Response:
    """Make the right answer of the native contract.

    :arg transactions: Of the request.

    :arg headers: Of the answer.

    :arg more: Other fields of each prediction.

    """
    rows = [
        {"transaction_id": item["id"], "prediction": "legitimate", "fraud_score": 0.25} | more
        for item in transactions
    ]
    return web.Response(
        body=json.dumps(rows).encode(), content_type="application/json", headers=headers
    )


def run_scorer(
    where: Answer | str,
    work: Callable[[Scorer], Coroutine[Any, Any, X]],
    *,
    pauses: Mapping[str, Any] = QUICK,
    **overrides: Any,
) -> X:
    """Let a scorer do something.

    :arg where: What becomes of a request to a server of the test's own, or another one's URL.

    :arg work: What the scorer does.

    :arg pauses: Other keyword arguments of the scorer.

    :arg overrides: Of its settings.

    :returns: What that gives.

    """

    async def run(url: str) -> X:
        settings = factories.settings(**({"ml_api_url": url} | overrides))
        subject = Scorer(settings, **pauses)
        try:
            async with asyncio.timeout(60):
                return await work(subject)
        finally:
            await subject.close()

    async def serve(answer: Answer) -> X:
        async with serving(answer) as url:
            return await run(url)

    return asyncio.run(run(where) if isinstance(where, str) else serve(where))


def score(where: Answer | str, batch: Sequence[Received], **overrides: Any) -> list[Outcome]:
    """Score one batch with a scorer of its own; see `run_scorer`.

    :returns: One outcome for each.

    """
    outcomes = run_scorer(where, lambda it: it.score(batch), **overrides)
    assert sorted(o.message.offset for o in outcomes) == [i.message.offset for i in batch]
    return outcomes


def failures(outcomes: Iterable[Outcome]) -> dict[int, Failure]:
    """Those that were given up, by offset."""
    return {it.message.offset: it for it in outcomes if isinstance(it, Failure)}


def scores(outcomes: Iterable[Outcome]) -> dict[int, float]:
    """Scores of the others, by offset."""
    return {
        it.message.offset: it.prediction.fraud_score for it in outcomes if isinstance(it, Scored)
    }


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until something is so that tells nobody."""
    while not condition():  # noqa: ASYNC110 - a server's, a metric's, a scorer's own
        await asyncio.sleep(0.001)
