"""Tell a sick service from a bad message: what other requests say.

A failure counts against a message only while others succeed. What others do is counted. Where there
are none, a *canary* is asked for again: a transaction that passed before.

A transaction that has failed with all its retries is a suspect, and so is not among the others.
Several culprits at once would otherwise keep each other from being found: for ever, if they take
all the places.
"""

from typing import Final, NamedTuple

from operators.errors import ScoringError
from operators.model.errors import UnavailableError
from operators.model.isolation import Predictions
from operators.model.sender import Sender
from operators.records import Transaction

__all__ = ["MOST_UNMET", "Evidence", "Tally"]

MOST_UNMET: Final = 20  # answers that are not the contract's, of a service that never kept it
NEVER_MET: Final = "ML_API_URL, ML_API_CONTRACT: the model answers, but never as the contract says"
CANARIES: Final = 3  # that pass in a row, for a service to be well
SUCCESSES_PER_FAILURE: Final = 9  # of others, for a service to be well


class Tally(NamedTuple):
    """How many requests succeeded and failed so far; a refusal is neither, nor is a suspect's."""

    successes: int = 0
    failures: int = 0

    def plus(self, *, successes: int = 0, failures: int = 0) -> "Tally":
        """Add to it."""
        return Tally(self.successes + successes, self.failures + failures)


class Evidence:
    """Sends requests, and remembers what became of them.

    :arg sender: Sends one request.

    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._canary: Transaction | None = None
        self._answers_unmet = 0
        self.tally = Tally()

    @property
    def has_canary(self) -> bool:
        """Whether the service has ever taken anything."""
        return self._canary is not None

    async def ask(
        self, transactions: list[Transaction], *, suspect: bool = False, canary: bool = False
    ) -> Predictions:
        """Send one request, and count it.

        :arg transactions: Each id once.

        :arg suspect: Whether they have failed with all retries; then nothing is counted.

        :arg canary: Whether they have passed before; see `Sender.send`.

        :returns: Predictions by id.

        :raises UnavailableError: Another time it may go well.

        :raises RefusedError: The content is refused.

        :raises ScoringError: The service answers, and has never kept the contract.

        """
        try:
            predictions = await self._sender.send(transactions, canary=canary)
        except UnavailableError as failure:
            if not suspect:
                self.tally = self.tally.plus(failures=1)
            if failure.kind == "answer" and not self.has_canary:
                self._answers_unmet += 1
                if self._answers_unmet >= MOST_UNMET:
                    msg = f"{NEVER_MET}: {failure}"
                    raise ScoringError(msg) from None
            raise
        if not suspect:
            self.tally = self.tally.plus(successes=1)
        self._canary = transactions[0]
        return predictions

    async def is_alive(self, before: Tally) -> bool:
        """Tell whether the service takes anything, so that a refusal is of the content.

        :arg before: From when the content was first sent.

        :returns: Whether anything has passed since, or else the canary passes now; true as long as
            there is no canary.

        """
        if self.tally.successes > before.successes or self._canary is None:
            return True
        return await self._canary_passes()

    async def is_well(self, before: Tally) -> bool:
        """Tell whether the service works, so that a failure is the content's.

        :arg before: From when the content was first sent.

        :returns: Whether at least nine in ten others succeeded since or, without any others, the
            canary passes three times in a row now; false as long as there is no canary.

        """
        successes = self.tally.successes - before.successes
        failures = self.tally.failures - before.failures
        if successes or failures:
            return successes >= SUCCESSES_PER_FAILURE * failures
        for _ in range(CANARIES):
            if not await self._canary_passes():
                return False
        return True

    async def _canary_passes(self) -> bool:
        if self._canary is None:
            return False
        try:
            await self.ask([self._canary], canary=True)
        except UnavailableError:
            return False
        return True
