"""Send a request as the state of the service allows, and learn from its answer.

The breaker says when it may go, the limiter how many may be in flight. A request that takes long
may be sent a second time (*hedged*: Dean and Barroso, The Tail at Scale, 2013).
"""

import asyncio
import time
from typing import Final

from operators.backoff import Backoff
from operators.model.breaker import FAILURES, Breaker
from operators.model.client import ModelClient
from operators.model.errors import RefusedError, UnavailableError
from operators.model.isolation import Predictions
from operators.model.limiter import Limiter
from operators.records import Transaction
from settings import Settings
from telemetry import metrics, worker_index

__all__ = ["PROBES", "Sender"]

PROBES: Final = Backoff(first=0.5, longest=5.0, least=0.5)

_Request = asyncio.Task[Predictions]


class Sender:
    """Sends the requests of one worker.

    :arg probes: Pauses between two requests to a service that is down.

    """

    def __init__(
        self, settings: Settings, *, probes: Backoff = PROBES, failures: int = FAILURES
    ) -> None:
        self._client = ModelClient(settings)
        self._limiter = Limiter(settings.scoring_concurrency, adaptive=settings.scoring_adaptive)
        self._breaker = Breaker(
            "model", on_open=self._limiter.restart, backoff=probes, failures=failures
        )
        self._most = settings.scoring_concurrency
        self._full = settings.batch_size
        self._patient = settings.scoring_on_outage == "pause"
        hedge_after = settings.scoring_hedge_after
        self._hedge_after = hedge_after.total_seconds() if hedge_after else None
        self._in_flight = 0

    @property
    def limit(self) -> int:
        """How many requests may be in flight now."""
        return self._limiter.limit

    @property
    def paused(self) -> bool:
        """Whether the service is down."""
        return self._breaker.state != "closed"

    async def close(self) -> None:
        """Close the connections."""
        self._breaker.close()
        await self._client.close()

    async def send(self, transactions: list[Transaction], *, canary: bool = False) -> Predictions:
        """Ask for predictions, as soon as the breaker lets it.

        :arg transactions: Each id once.

        :arg canary: Whether they have passed before: a refusal is the service's failure then.

        :returns: Predictions by id.

        :raises UnavailableError: Another time it may go well.

        :raises RefusedError: The content is refused.

        """
        async with self._breaker.request(wait=self._patient):
            started = time.monotonic()
            # Now, not at the end: answers that come together would each look like the last one.
            in_flight = self._in_flight + 1
            try:
                predictions = await self._send_hedged(transactions)
            except UnavailableError as failure:
                self._note_failure(failure)
                raise
            except RefusedError as refusal:
                metrics.REQUESTS.labels("refused").inc()
                if canary:
                    reason = f"{refusal} to what it took before"
                    raise UnavailableError(reason, kind="status") from None
                raise
            finally:
                seconds = time.monotonic() - started
                metrics.REQUEST_DURATION.observe(seconds)
            metrics.REQUESTS.labels("answered").inc()
            full = len(transactions) == self._full
            self._limiter.succeeded(seconds, in_flight=in_flight, full=full)
            return predictions

    def _note_failure(self, failure: UnavailableError) -> None:
        metrics.REQUESTS.labels("failed").inc()
        if failure.kind == "connection":
            metrics.CONNECTION_LOSSES.labels("model").inc()
        if failure.overload and not self.paused:  # the limit has begun again where it is down
            self._limiter.overloaded()

    async def _send_hedged(self, transactions: list[Transaction]) -> Predictions:
        """Send, and once more if the answer takes long; the first answer counts."""
        requests = {self._start(transactions)}
        try:
            done, _ = await asyncio.wait(requests, timeout=self._hedge_after)
            if not done and not self.paused and self._in_flight < self._most:
                requests.add(self._start(transactions))
            while True:
                done, running = await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
                best = min(done, key=_is_failure)
                if not (_is_failure(best) and running):
                    return best.result()
                requests = running
        finally:
            for request in requests:
                request.cancel()

    def _start(self, transactions: list[Transaction]) -> _Request:
        self._in_flight += 1
        metrics.REQUESTS_IN_FLIGHT.inc()
        metrics.REQUEST_TRANSACTIONS.observe(len(transactions))
        request = asyncio.create_task(self._client.predict(transactions))
        request.add_done_callback(self._returned)
        return request

    def _returned(self, _request: _Request) -> None:
        self._in_flight -= 1
        metrics.REQUESTS_IN_FLIGHT.dec()
        metrics.REQUESTS_LIMIT.labels(worker_index()).set(self._limiter.limit)


def _is_failure(request: _Request) -> bool:
    return isinstance(request.exception(), UnavailableError)
