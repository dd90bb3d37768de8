"""A model's API that a test writes itself, for what the stand-in has no fault for."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from aiohttp import web

from operators.model.scorer import Scorer
from tests import factories

__all__ = ["Answer", "predictions", "run_scorer", "serving"]

X = TypeVar("X")

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[str]:
    """Answer requests on a port of its own, on the loop of the test.

    :arg answer: What becomes of a request.

    :returns: Base URL.

    """
    runner = web.ServerRunner(web.Server(answer, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
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
    answer: Answer, work: Callable[[Scorer], Coroutine[Any, Any, X]], **overrides: Any
) -> X:
    """Let a scorer of a server that answers so do something.

    :arg answer: What becomes of a request.

    :arg work: What it does.

    :arg overrides: Of its settings.

    :returns: What that gives.

    """

    async def run() -> X:
        async with serving(answer) as url, asyncio.timeout(20):
            subject = Scorer(factories.settings(**({"ml_api_url": url} | overrides)))
            try:
                return await work(subject)
            finally:
                await subject.close()

    return asyncio.run(run())
