"""What happens in an episode: everything that is left to chance, drawn from one seed."""

import itertools
import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tests.chaos.proxy import Cut

__all__ = ["MOST_PROCESSES", "Kind", "Plan", "Shape", "Strike", "draw"]

MOST_PROCESSES: Final = 3
"""Of a flow."""


class Kind(StrEnum):
    """What is done to the stream or to what it depends on.

    To kill is SIGKILL, to freeze SIGSTOP, to terminate SIGTERM.
    """

    KILL = "kill the flow"
    KILL_ONE = "kill one process"
    TERMINATE = "terminate the flow"
    FREEZE = "replace a frozen flow"
    LOSE = "lose the snapshots"
    CLOCK = "move the clock"
    KILL_BROKER = "kill the broker"
    KILL_DATABASE = "kill Postgres"
    KILL_MODEL = "kill the model"
    PAUSE_BROKER = "freeze the broker"
    PAUSE_DATABASE = "freeze Postgres"
    PAUSE_MODEL = "freeze the model"
    CUT_BROKER = "cut off the broker"
    CUT_DATABASE = "cut off Postgres"
    CUT_MODEL = "cut off the model"


_OFTEN: Final = {
    Kind.KILL: 5,
    Kind.KILL_ONE: 3,
    Kind.TERMINATE: 2,
    Kind.FREEZE: 2,
    Kind.LOSE: 2,
    Kind.CLOCK: 2,
    Kind.KILL_BROKER: 2,
    Kind.KILL_DATABASE: 3,
    Kind.KILL_MODEL: 1,
    Kind.PAUSE_BROKER: 1,
    Kind.PAUSE_DATABASE: 1,
    Kind.PAUSE_MODEL: 1,
    Kind.CUT_BROKER: 2,
    Kind.CUT_DATABASE: 3,
    Kind.CUT_MODEL: 1,
}
"""How often each kind is in the bag from which strikes are drawn."""

_FROZEN: Final = (6.0, 9.0)
"""Seconds for which a flow is frozen: longer than every limit that it keeps or is kept to."""

_ASTRAY: Final = 145
"""Seconds by which a clock is ahead of the servers' or behind them at most: two of them, or one
before and after it was moved, then differ by less than the five minutes that the stream allows."""

_BRIEFLY: Final = 0.3
_OUTAGE: Final = 5.0
_PAUSE: Final = 2.0


@dataclass(frozen=True)
class Shape:
    """How the flow is run."""

    processes: int
    workers: int
    """Threads of each process."""


@dataclass(frozen=True)
class Strike:
    """One thing that is done, and when."""

    kind: Kind
    pause: float
    """Seconds to wait before it."""
    seconds: float
    """How long it lasts."""
    settle: bool
    """Whether to wait until the stream stores again; else the next strike may meet it down."""
    cut: Cut
    which: int
    """Of the processes, where one is struck."""
    gracefully: bool
    """Loss of the recovery directory: after SIGTERM, not SIGKILL."""
    fresh: bool
    """Replacement: with a recovery directory of its own."""
    severed: bool
    """Frozen flow: its database sessions end meanwhile, as they do when a host is lost."""
    comeback: bool
    """Frozen flow: it survives its replacement, if it still runs when both have run for a while."""
    ahead: int
    """Clock: seconds by which it is then ahead of the servers', until it is moved again."""


@dataclass(frozen=True)
class Plan:
    """One episode."""

    seed: int
    partitions: int
    rate: int
    """Messages a second."""
    broken: float
    """Share of the messages that no step takes."""
    batch_size: int
    impatient: bool
    """Whether a dead letter that is not acknowledged within seconds stops the flow."""
    strikes: list[Strike]

    def shapes(self, number: int) -> Iterator[Shape]:
        """How the flow is run at each of its starts.

        :arg number: Of the flow, since a replacement has shapes of its own.

        :returns: Without end.

        """
        rng = _rng(self.seed, f"shapes {number}")
        while True:
            yield rng.choice(
                [Shape(1, 1), Shape(1, 2), Shape(1, 3), Shape(2, 1), Shape(2, 1), Shape(3, 1)]
            )


def draw(
    seed: int, *, strikes: int, broker_dies: bool, only: Collection[Kind] = tuple(Kind)
) -> Plan:
    """Draw the plan of an episode.

    :arg seed: The same seed makes the same plan, if all else is the same.

    :arg strikes: How many.

    :arg broker_dies: Whether the broker keeps its messages when it is killed.

    :arg only: Kinds to draw from.

    :returns: The plan.

    """
    rng = _rng(seed, "plan")
    kinds = [kind for kind in only if broker_dies or kind is not Kind.KILL_BROKER]
    return Plan(
        seed,
        partitions=rng.choice([1, 3, 4, 7]),
        rate=rng.choice([200, 400, 800]),
        broken=rng.choice([0.02, 0.1, 0.3]),
        batch_size=rng.choice([10, 50, 100]),
        impatient=rng.random() < 0.5,
        strikes=[
            # The first comes early: nothing of the stream may be in a snapshot yet.
            _strike(rng, kind, longest_pause=_PAUSE if number else _BRIEFLY)
            for number, kind in enumerate(itertools.islice(_bag(rng, kinds), strikes))
        ],
    )


def _bag(rng: random.Random, kinds: list[Kind]) -> Iterator[Kind]:
    """All kinds in their shares, in any order: even a short row has most of them."""
    while True:
        bag = [kind for kind in kinds for _ in range(_OFTEN[kind])]
        rng.shuffle(bag)
        yield from bag


def _strike(rng: random.Random, kind: Kind, *, longest_pause: float) -> Strike:
    lasting = _FROZEN if kind is Kind.FREEZE else (_BRIEFLY, _OUTAGE)
    return Strike(
        kind,
        pause=rng.uniform(0, longest_pause),
        seconds=rng.uniform(*lasting),
        settle=rng.random() < 0.7,
        cut=rng.choice(list(Cut)),
        which=rng.randrange(MOST_PROCESSES),
        gracefully=rng.random() < 0.3,
        fresh=rng.random() < 0.5,
        severed=rng.random() < 0.7,
        comeback=rng.random() < 0.5,
        ahead=rng.randint(-_ASTRAY, _ASTRAY),
    )


def _rng(seed: int, purpose: str) -> random.Random:
    return random.Random(f"{seed} {purpose}")  # noqa: S311 - chance that can be repeated
