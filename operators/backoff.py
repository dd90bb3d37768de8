"""How long to wait before something is tried again.

Pauses grow exponentially up to a limit, and a part of each is random, so that many workers do not
come back at the same moment. See
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
"""

import random
from dataclasses import dataclass

__all__ = ["Backoff"]


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Pauses of which each is `factor` times as long as the one before."""

    first: float
    """Seconds, at most."""

    longest: float
    """Seconds, at most."""

    factor: float = 2.0

    least: float = 0.0
    """Share of a pause that is not random: 0 is full jitter, 0.5 is equal jitter."""

    def ceiling(self, attempt: int) -> float:
        """Return the longest that a pause can be.

        :arg attempt: How many pauses this makes, from 1.

        :returns: Seconds.

        """
        try:
            return min(self.longest, self.first * self.factor ** (attempt - 1))
        except OverflowError:  # after a thousand attempts, which is an outage of an hour
            return self.longest

    def pause(self, attempt: int) -> float:
        """Choose how long to wait.

        :arg attempt: How many pauses this makes, from 1.

        :returns: Seconds, at random between `least` of the ceiling and all of it.

        """
        ceiling = self.ceiling(attempt)
        return random.uniform(self.least * ceiling, ceiling)  # noqa: S311 - jitter, no secret
