"""Score a batch, whatever the service does: retries, the search for a culprit, the breaker.

The rule behind it: *a sick service is not a bad message*. A transaction is given up only while
others succeed.

1. A request that fails for a reason that may pass is sent again, up to `MAX_RETRIES` times.
2. If it still fails, or its content is refused, the batch is cut: where the answer names culprits
   they are asked for alone, else each half is. What passes is done; what fails is cut further, so
   that one culprit in n costs at most 2·log2(n)+1 more requests.
3. A transaction that stands alone and is refused (400, 413, 422) is rejected if anything else
   passed since its batch was sent, or if a witness, a transaction that passed before, passes again.
   One that stands alone and fails otherwise is given all retries once more, and is given up as
   exhausted if the service was well before that and is well after it: at least nine in ten other
   requests succeeded or, without any others, the witness passes `WITNESSES` times in a row.
   What has failed with all retries itself is not among these others, or several culprits at once
   would keep each other from being found: for ever, if they take all the places.
4. Else nothing is learnt: the whole batch is tried again, for as long as it takes, while the
   breaker sees to it that a sick service is asked by one request at a time. With
   `SCORING_ON_OUTAGE=dead_letter` it is given up instead.

A service that has taken nothing since the start has no witness. It may refuse `REFUSALS`
transactions in a row, then the stream stops.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

from operators.errors import ScoringError
from operators.model.breaker import Breaker, ServiceError
from operators.model.client import RefusedError, ScoringApi, UnavailableError
from operators.model.limiter import Limiter
from operators.records import Disposition, Failure, Prediction, Received, Scored, Transaction
from settings import Settings
from telemetry import log, metrics, tracing, worker_index

__all__ = ["Outcome", "Scorer"]

FIRST_PAUSE: Final = 1.0  # seconds, at most
LONGEST_PAUSE: Final = 30.0
REFUSALS: Final = 100
WITNESSES: Final = 3
SUCCESSES_PER_FAILURE: Final = 9  # of others, for a service to be well
NAMED: Final = 8  # culprits that are asked for alone; more are found by halves

Outcome = Scored | Failure


class _GivenUp(NamedTuple):
    disposition: Disposition
    code: str
    error: str
    attempts: int


class _Tally(NamedTuple):
    """How many requests succeeded and failed so far; a refusal is neither, nor is a suspect's."""

    successes: int = 0
    failures: int = 0


Verdicts = dict[UUID, Prediction | _GivenUp]
Failed = list[tuple[list[Transaction], RefusedError | ServiceError]]


class Scorer:
    """Scores the batches of one worker.

    :arg settings: The service, retries, limits, and what to do in an outage.

    """

    def __init__(self, settings: Settings) -> None:
        self._api = ScoringApi(settings)
        self._limiter = Limiter(settings.scoring_concurrency, adaptive=settings.scoring_adaptive)
        self._breaker = Breaker("model", on_open=self._limiter.restart)
        self._most = settings.scoring_concurrency
        self._full = settings.batch_size
        self._tries = settings.max_retries + 1
        self._backoff = settings.retry_backoff
        self._patient = settings.scoring_on_outage == "pause"
        hedge_after = settings.scoring_hedge_after
        self._hedge_after = hedge_after.total_seconds() if hedge_after else None
        self._tally = _Tally()
        self._in_flight = 0
        self._refusals = 0
        self._witness: Transaction | None = None

    @property
    def limit(self) -> int:
        """How many batches may be under way now."""
        return self._limiter.limit

    @property
    def paused(self) -> bool:
        """Whether the service is down."""
        return self._breaker.state != "closed"

    async def score(self, batch: Sequence[Received]) -> list[Outcome]:
        """Score a batch.

        :arg batch: Transactions; one that is there twice is asked for once.

        :returns: One outcome for each, in any order; it may take as long as an outage lasts.

        :raises ScoringError: The service refuses in a way that only another setting mends.

        """
        with tracing.scoring(batch):
            return await self._score(batch, tracing.traceparent())

    async def _score(self, batch: Sequence[Received], trace: str | None) -> list[Outcome]:
        asked: dict[UUID, Transaction] = {}
        now: list[Received] = []
        later: list[Received] = []
        for item in batch:
            same = asked.setdefault(item.transaction.id, item.transaction) == item.transaction
            (now if same else later).append(item)
        verdicts = await self._settle(list(asked.values()))
        outcomes = [_outcome(item, verdicts[item.transaction.id], trace) for item in now]
        # The same id with other content needs a request of its own: answers are known by id.
        return outcomes + await self._score(later, trace) if later else outcomes

    async def close(self) -> None:
        """Close the connections."""
        self._breaker.close()
        await self._api.close()

    async def _settle(
        self, transactions: list[Transaction], attempts: int = 0, *, well: bool = False
    ) -> Verdicts:
        """Try with all patience, until there is a verdict for each.

        :arg attempts: So far; if there were any, these are suspected.

        :arg well: Whether the service is known to be well, as far as others can tell.

        """
        pauses = 0
        while True:
            before, suspect = self._tally, attempts > 0
            try:
                return dict(await self._ask_repeatedly(transactions, suspect=suspect))
            except RefusedError as refusal:
                verdicts = await self._cut(transactions, refusal, before, attempts + 1)
                if verdicts is not None:
                    return verdicts
                cause: Exception = refusal
                attempts += 1
                pauses += 1
                pause = self._jitter(pauses)
                log.warning("model.refuses", reason=str(refusal), pause=pause)
                await asyncio.sleep(pause)
            except ServiceError as failure:
                cause = failure
                attempts += self._tries
                if not suspect:  # its own failures are not those of others
                    before = before._replace(failures=before.failures + self._tries)
                # Before and after, so that a service which comes back meanwhile proves nothing.
                was_well, well = well, await self._is_well(before)
                if len(transactions) > 1:
                    verdicts, failed = await self._ask_each(_halves(transactions))
                    if verdicts or well:
                        return verdicts | await self._follow(failed, before, attempts + 1)
                elif was_well and well:
                    return _exhausted(transactions, failure, attempts)
            if not self._patient:
                return _exhausted(transactions, cause, attempts)

    async def _cut(
        self,
        transactions: list[Transaction],
        cause: RefusedError | ServiceError,
        before: _Tally,
        attempts: int,
    ) -> Verdicts | None:
        """Find the culprits; None if the service may be the reason."""
        if len(transactions) > 1:
            blamed = cause.blamed if isinstance(cause, RefusedError) else set()
            parts = _around(transactions, blamed) or _halves(transactions)
            verdicts, failed = await self._ask_each(parts)
            if not await self._is_alive(before):
                return None
            return verdicts | await self._follow(failed, before, attempts + 1)
        if isinstance(cause, ServiceError) or not await self._is_alive(before):
            return None
        if self._witness is not None:
            return _rejected(transactions, cause, attempts)
        # It never took anything: a few may be as bad as that, not a whole topic.
        self._refusals += 1
        if self._refusals > REFUSALS:
            msg = f"ML_API_URL, ML_API_CONTRACT: {cause} to {REFUSALS} transactions in a row"
            raise ScoringError(msg)
        return _rejected(transactions, cause, attempts)

    async def _follow(self, failed: Failed, before: _Tally, attempts: int) -> Verdicts:
        """Cut further what failed."""
        verdicts: Verdicts = {}
        for transactions, cause in failed:
            found = await self._cut(transactions, cause, before, attempts)
            if found is None:
                found = await self._settle(transactions, attempts, well=True)
            verdicts |= found
        return verdicts

    async def _ask_each(self, parts: list[list[Transaction]]) -> tuple[Verdicts, Failed]:
        """Ask for each part once."""
        verdicts: Verdicts = {}
        failed: Failed = []
        for part in parts:
            try:
                verdicts |= await self._ask(part)
            except (RefusedError, ServiceError) as cause:
                failed.append((part, cause))
        return verdicts, failed

    async def _is_alive(self, before: _Tally) -> bool:
        """Whether anything passed since; if not, whether the witness, if there is one, passes."""
        if self._tally.successes > before.successes or self._witness is None:
            return True
        return await self._witness_passes()

    async def _is_well(self, before: _Tally) -> bool:
        """Whether other requests succeed; with none to look at, whether a known one does."""
        successes = self._tally.successes - before.successes
        failures = self._tally.failures - before.failures
        if successes or failures:
            return successes >= SUCCESSES_PER_FAILURE * failures
        for _ in range(WITNESSES):
            if not await self._witness_passes():
                return False
        return True

    async def _witness_passes(self) -> bool:
        """Ask again for a transaction that passed before."""
        if self._witness is None:
            return False
        try:
            await self._ask([self._witness], known=True)
        except ServiceError:
            return False
        return True

    async def _ask_repeatedly(
        self, transactions: list[Transaction], *, suspect: bool
    ) -> dict[UUID, Prediction]:
        for attempt in range(1, self._tries):
            try:
                return await self._ask(transactions, suspect=suspect)
            except UnavailableError as failure:
                # What the service asks for, and not all workers at the same moment.
                pause = failure.after + self._jitter(1 if failure.after else attempt)
                metrics.RETRIES.labels(failure.kind).inc()
                log.info("model.retry", reason=str(failure), attempt=attempt, pause=pause)
                await asyncio.sleep(pause)
        return await self._ask(transactions, suspect=suspect)

    def _jitter(self, attempt: int) -> float:
        """Seconds to wait, by full jitter.

        See https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
        """
        ceiling = min(LONGEST_PAUSE, FIRST_PAUSE * self._backoff ** (attempt - 1))
        return round(random.uniform(0, ceiling), 2)  # noqa: S311 - no secret

    async def _ask(
        self, transactions: list[Transaction], *, suspect: bool = False, known: bool = False
    ) -> dict[UUID, Prediction]:
        """Ask once, when the breaker lets it, and learn from the answer.

        If they are suspected, a failure may be theirs. If they are known to have passed before, a
        refusal is the service's failure too.
        """
        async with self._breaker.request(wait=self._patient):
            started = time.monotonic()
            # Now, not at the end: answers that come together would each look like the last one.
            in_flight = self._in_flight + 1
            try:
                predictions = await self._ask_hedged(transactions)
            except UnavailableError as failure:
                metrics.REQUESTS.labels("failed").inc()
                if failure.kind == "connection":
                    metrics.CONNECTION_LOSSES.labels("model").inc()
                if not suspect:
                    self._tally = self._tally._replace(failures=self._tally.failures + 1)
                if failure.overload:
                    self._limiter.overloaded()
                raise
            except RefusedError as refusal:
                metrics.REQUESTS.labels("refused").inc()
                if known:
                    reason = f"{refusal} to what it took before"
                    raise UnavailableError(reason, kind="status") from None
                raise
            finally:
                metrics.REQUEST_DURATION.observe(time.monotonic() - started)
            metrics.REQUESTS.labels("answered").inc()
            if not suspect:
                self._tally = self._tally._replace(successes=self._tally.successes + 1)
            self._witness = transactions[0]
            self._limiter.succeeded(
                time.monotonic() - started,
                in_flight=in_flight,
                full=len(transactions) == self._full,
            )
            return predictions

    async def _ask_hedged(self, transactions: list[Transaction]) -> dict[UUID, Prediction]:
        """Ask, and once more if the answer takes long; the first answer counts.

        Hedged requests: Dean and Barroso, The Tail at Scale (2013).
        """
        requests = {self._send(transactions)}
        try:
            done, _ = await asyncio.wait(requests, timeout=self._hedge_after)
            if not done and not self.paused and self._in_flight < self._most:
                requests.add(self._send(transactions))
            while True:
                done, running = await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
                best = min(done, key=_is_failure)
                if not (_is_failure(best) and running):
                    return best.result()
                requests = running
        finally:
            for request in requests:
                request.cancel()

    def _send(self, transactions: list[Transaction]) -> "asyncio.Task[dict[UUID, Prediction]]":
        self._in_flight += 1
        metrics.REQUESTS_IN_FLIGHT.inc()
        metrics.REQUEST_TRANSACTIONS.observe(len(transactions))
        request = asyncio.create_task(self._api.ask(transactions))
        request.add_done_callback(self._returned)
        return request

    def _returned(self, _request: "asyncio.Task[dict[UUID, Prediction]]") -> None:
        self._in_flight -= 1
        metrics.REQUESTS_IN_FLIGHT.dec()
        metrics.REQUESTS_LIMIT.labels(worker_index()).set(self._limiter.limit)


def _is_failure(request: "asyncio.Task[dict[UUID, Prediction]]") -> bool:
    return isinstance(request.exception(), UnavailableError)


def _halves(transactions: list[Transaction]) -> list[list[Transaction]]:
    middle = len(transactions) // 2
    return [transactions[:middle], transactions[middle:]]


def _around(transactions: list[Transaction], blamed: set[int]) -> list[list[Transaction]]:
    """The blamed, each alone, and the rest; nothing if the blame is of no use."""
    places = [place for place in sorted(blamed) if 0 <= place < len(transactions)]
    if not places or len(places) > NAMED:
        return []
    rest = [item for place, item in enumerate(transactions) if place not in blamed]
    return [*([rest] if rest else []), *([transactions[place]] for place in places)]


def _exhausted(transactions: list[Transaction], cause: Exception, attempts: int) -> Verdicts:
    error = f"transaction: the model failed {attempts} times, last: {cause}"
    given_up = _GivenUp("exhausted", "model.failed", error, attempts)
    return {transaction.id: given_up for transaction in transactions}


def _rejected(transactions: list[Transaction], cause: RefusedError, attempts: int) -> Verdicts:
    error = f"transaction: {cause} to it alone"
    given_up = _GivenUp("rejected", f"model.status_{cause.status}", error, attempts)
    return {transaction.id: given_up for transaction in transactions}


def _outcome(item: Received, verdict: Prediction | _GivenUp, trace: str | None) -> Outcome:
    if isinstance(verdict, Prediction):
        return Scored(item.message, item.transaction, verdict, trace)
    disposition, code, error, attempts = verdict
    return Failure(item.message, "score", disposition, code, error, attempts, trace)
