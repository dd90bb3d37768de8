"""Score a batch, whatever the service does: retries and verdicts.

The rule behind it: *a sick service is not a bad message*. A transaction is given up only while
others succeed.

1. A request that fails for a reason that may pass is sent again, up to `MAX_RETRIES` times.
2. If it still fails, or its content is refused, the batch is bisected (`isolation`).
3. A transaction that is refused alone is rejected, if the service is alive (`evidence`). One that
   fails alone otherwise is given all retries once more, and is given up as exhausted if the service
   was well before that and is well after it.
4. Else nothing is learnt: the whole batch is tried again, for as long as it takes, while the
   breaker sees to it that a sick service is asked by one request at a time. With
   `SCORING_ON_OUTAGE=dead_letter` it is given up instead.

A service that has taken nothing since the start has no canary. It may refuse `REFUSALS`
transactions in a row, then the stream stops.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from operators.backoff import Backoff
from operators.errors import ScoringError
from operators.model.breaker import FAILURES
from operators.model.errors import RefusedError, UnavailableError
from operators.model.evidence import Evidence, Tally
from operators.model.isolation import Predictions, Suspects, bisect, bisect_failed
from operators.model.sender import PROBES, Sender
from operators.model.verdicts import Outcome, Verdicts, exhausted, outcome, rejected
from operators.records import Received, Transaction
from settings import Settings
from telemetry import log, metrics, tracing

__all__ = ["Outcome", "Scorer"]

RETRIES: Final = Backoff(first=1.0, longest=30.0)  # the factor is `RETRY_BACKOFF`
REFUSALS: Final = 100


class Scorer:
    """Scores the batches of one worker.

    :arg retries: Pauses before a request is sent again; their factor is that of the settings.

    :arg probes: Pauses between two requests to a service that is down.

    :arg refusals: How many transactions a service may refuse that has never taken any.

    """

    def __init__(
        self,
        settings: Settings,
        *,
        retries: Backoff = RETRIES,
        probes: Backoff = PROBES,
        failures: int = FAILURES,
        refusals: int = REFUSALS,
    ) -> None:
        self._sender = Sender(settings, probes=probes, failures=failures)
        self._evidence = Evidence(self._sender)
        self._tries = settings.max_retries + 1
        self._backoff = replace(retries, factor=settings.retry_backoff)
        self._patient = settings.scoring_on_outage == "pause"
        self._most_refusals = refusals
        self._refusals = 0

    @property
    def limit(self) -> int:
        """How many batches may be under way now."""
        return self._sender.limit

    @property
    def paused(self) -> bool:
        """Whether the service is down."""
        return self._sender.paused

    async def score(self, batch: Sequence[Received]) -> list[Outcome]:
        """Score a batch.

        :arg batch: Transactions; one that is there twice is asked for once.

        :returns: One outcome for each, in any order; it may take as long as an outage lasts.

        :raises ScoringError: The service refuses in a way that only another setting mends.

        """
        with tracing.scoring(batch):
            return await self._score(batch, tracing.traceparent())

    async def close(self) -> None:
        """Close the connections."""
        await self._sender.close()

    async def _score(self, batch: Sequence[Received], trace: str | None) -> list[Outcome]:
        asked: dict[int, Transaction] = {}
        now: list[Received] = []
        later: list[Received] = []
        for item in batch:
            transaction = item.transaction
            first = asked.setdefault(transaction.id.int, transaction)
            (now if first is transaction or first == transaction else later).append(item)
        verdicts = await self._score_until_settled(list(asked.values()))
        outcomes = [outcome(item, verdicts[item.transaction.id.int], trace) for item in now]
        # The same id with other content needs a request of its own: answers are known by id.
        return outcomes + await self._score(later, trace) if later else outcomes

    async def _score_until_settled(
        self, transactions: list[Transaction], attempts: int = 0, *, well: bool = False
    ) -> Verdicts:
        """Try again, until there is a verdict for each.

        :arg attempts: So far; if there were any, these are suspects.

        :arg well: Whether the service was well while they failed.

        """
        refusals = 0
        while True:
            before, suspect = self._evidence.tally, attempts > 0
            try:
                return {**await self._ask_repeatedly(transactions, suspect=suspect)}
            except RefusedError as refusal:
                suspects = Suspects(transactions, refusal, attempts + 1)
                verdicts = await self._bisect_refused(suspects, refusal, before)
                if verdicts is None:
                    refusals += 1
                    await self._pause_after_refusal(refusal, refusals)
            except UnavailableError as failure:
                suspects = Suspects(transactions, failure, attempts + self._tries)
                if not suspect:  # its own failures are not those of others
                    before = before.plus(failures=self._tries)
                # Before and after, so that a service which comes back meanwhile proves nothing.
                was_well, well = well, await self._evidence.is_well(before)
                verdicts = await self._bisect_failing(suspects, was_well=was_well, well=well)
            if verdicts is not None:
                return verdicts
            if not self._patient:
                return exhausted(suspects)
            attempts = suspects.attempts

    async def _ask_repeatedly(
        self, transactions: list[Transaction], *, suspect: bool
    ) -> Predictions:
        """Ask, with all retries."""
        for attempt in range(1, self._tries):
            try:
                return await self._evidence.ask(transactions, suspect=suspect)
            except UnavailableError as failure:
                # What the service asks for, and not all workers at the same moment.
                jitter = self._backoff.pause(1 if failure.after else attempt)
                pause = round(failure.after + jitter, 2)
                metrics.RETRIES.labels(failure.kind).inc()
                log.info("model.retry", reason=str(failure), attempt=attempt, pause=pause)
                await asyncio.sleep(pause)
        return await self._evidence.ask(transactions, suspect=suspect)

    async def _bisect_refused(
        self, suspects: Suspects, refusal: RefusedError, before: Tally
    ) -> Verdicts | None:
        """Find what is refused; None if the service refuses everything."""
        if suspects.alone:
            alive = await self._evidence.is_alive(before)
            return self._reject(suspects, refusal) if alive else None
        bisected = await bisect(suspects, self._evidence.ask)
        if not await self._evidence.is_alive(before):
            return None
        return await bisect_failed(bisected, self._evidence.ask, self._judge)

    async def _bisect_failing(
        self, suspects: Suspects, *, was_well: bool, well: bool
    ) -> Verdicts | None:
        """Find what breaks the service; None if the service may be sick."""
        if suspects.alone:
            return exhausted(suspects) if was_well and well else None
        bisected = await bisect(suspects, self._evidence.ask)
        if not (bisected.passed or well):
            return None
        return await bisect_failed(bisected, self._evidence.ask, self._judge)

    async def _judge(self, suspects: Suspects) -> Verdicts:
        """Decide on one that failed alone while the service took others."""
        if isinstance(suspects.cause, RefusedError):
            return self._reject(suspects, suspects.cause)
        return await self._score_until_settled(suspects.transactions, suspects.attempts, well=True)

    def _reject(self, suspects: Suspects, refusal: RefusedError) -> Verdicts:
        if not self._evidence.has_canary:
            # It never took anything: a few may be as bad as that, not a whole topic.
            self._refusals += 1
            if self._refusals > self._most_refusals:
                number = self._most_refusals
                msg = f"ML_API_URL, ML_API_CONTRACT: {refusal} to {number} transactions in a row"
                raise ScoringError(msg)
        return rejected(suspects, refusal)

    async def _pause_after_refusal(self, refusal: RefusedError, refusals: int) -> None:
        pause = round(self._backoff.pause(refusals), 2)
        log.warning("model.refuses", reason=str(refusal), pause=pause)
        await asyncio.sleep(pause)
