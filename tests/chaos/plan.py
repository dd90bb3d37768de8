"""What happens in an episode: everything that is left to chance, drawn from one seed."""

import itertools
import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from tests.chaos.proxy import Cut

__all__ = ["MOST_PROCESSES", "MOST_STREAMS", "SHAPES", "Kind", "Plan", "Shape", "Strike", "draw"]

MOST_STREAMS: Final = 2
"""Beside each other, each a group of its own."""


class Shape(NamedTuple):
    """How a flow is run."""

    processes: int
    workers: int
    """Threads of each process."""


SHAPES: Final = [Shape(1, 1), Shape(2, 1), Shape(3, 1), Shape(1, 2), Shape(1, 3)]
MOST_PROCESSES: Final = max(shape.processes for shape in SHAPES)
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
    RESIZE = "resize the cluster"
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
    SICKEN_MODEL = "sicken the model"

    @property
    def dependency(self) -> str | None:
        """What is struck, if it is not the flow: the broker, Postgres or the model."""
        last = self.split()[-1]
        return last if last in {"broker", "Postgres", "model"} else None


_OFTEN: Final = {
    Kind.KILL: 5,
    Kind.KILL_ONE: 3,
    Kind.TERMINATE: 2,
    Kind.FREEZE: 2,
    Kind.LOSE: 2,
    Kind.RESIZE: 5,
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
    Kind.SICKEN_MODEL: 3,
}
"""How often each kind is in the bag from which strikes are drawn."""

_FROZEN: Final = (6.0, 9.0)
"""Seconds for which a flow is frozen: longer than every limit that it keeps or is kept to."""

_SICK: Final = (1.0, 10.0)
"""Seconds for which a model is sick: a flow that is killed meanwhile often meets it again."""

_ASTRAY: Final = 145
"""Seconds by which a clock is ahead of the servers' or behind them at most: two of them, or one
before and after it was moved, then differ by less than the five minutes that the stream allows."""

_BRIEFLY: Final = 0.3
_OUTAGE: Final = 5.0
_PAUSE: Final = 2.0
_LOST_TOO: Final = 0.25
"""Of the strikes that last, and of the changes of processes."""

_SELDOM: Final = 0.3
"""Of the episodes, for each way in which they differ from the usual."""

_REFUSED: Final = 422


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
    stream: int
    """Of the streams, where one is struck."""
    which: int
    """Of the processes, where one is struck."""
    loses: bool
    """Whether the recovery directory is lost meanwhile."""
    gracefully: bool
    """Loss of the recovery directory, change of processes: after SIGTERM, not SIGKILL."""
    step: int
    """Change of processes, replacement: by how much further in `SHAPES`, counted around."""
    code: int
    """Sick model: its answer to everything."""
    fresh: bool
    """Replacement: with a recovery directory of its own."""
    severed: bool
    """Frozen flow: its database sessions end meanwhile, as they do when a host is lost."""
    comeback: bool
    """Frozen flow: it survives its replacement, if it still runs when both have run for a while."""
    ahead: int
    """Clock: seconds by which it is then ahead of the servers', until it is moved again."""

    def __str__(self) -> str:
        """Say what is done, with what a reader of a summary wants to know."""
        told = f"{self.kind} ({self.code})" if self.kind is Kind.SICKEN_MODEL else self.kind.value
        return f"{told} + {Kind.LOSE}" if self.loses and self.kind is not Kind.LOSE else told


@dataclass(frozen=True)
class Plan:
    """One episode."""

    seed: int
    partitions: int
    rate: int
    """Messages a second."""
    broken: float
    """Share of the messages that no step takes."""
    fickle: float
    """Share of the messages on which the model changes its mind all the time."""
    transactional: bool
    """Whether messages are written in transactions, of which some are aborted."""
    streams: int
    """Groups that read them, with a database each and one error topic."""
    batch_size: int
    retries: int
    gives_up: bool
    """Whether an outage of the model makes dead letters."""
    impatient: bool
    """Whether a dead letter that is not acknowledged within seconds stops the flow."""
    shape: Shape
    """At first."""
    strikes: list[Strike]

    @property
    def strict(self) -> bool:
        """Whether a good message has to be stored.

        A flow that was just started, and has seen the model take nothing yet, may believe it when
        it refuses everything.
        """
        refusing = any(
            strike.kind is Kind.SICKEN_MODEL and strike.code == _REFUSED for strike in self.strikes
        )
        return not (self.gives_up or refusing)


def draw(seed: int, *, strikes: int, apache: bool, only: Collection[Kind] = tuple(Kind)) -> Plan:
    """Draw the plan of an episode.

    :arg seed: The same seed makes the same plan, if all else is the same.

    :arg strikes: How many.

    :arg apache: Whether the broker keeps its messages when it is killed, and transactions of one
        producer in several partitions.

    :arg only: Kinds to draw from.

    :returns: The plan.

    """
    rng = _rng(seed, "plan")
    kinds = [kind for kind in only if apache or kind is not Kind.KILL_BROKER]
    return Plan(
        seed,
        partitions=rng.choice([1, 3, 4, 7]),
        rate=rng.choice([200, 400, 800]),
        broken=rng.choice([0.02, 0.1, 0.3]),
        fickle=rng.choice([0.0, 0.02, 0.1]),
        transactional=rng.random() < _SELDOM and apache,
        streams=MOST_STREAMS if rng.random() < _SELDOM else 1,
        batch_size=rng.choice([10, 50, 100]),
        retries=rng.choice([1, 3]),
        gives_up=rng.random() < _SELDOM,
        impatient=rng.random() < 0.5,
        shape=rng.choice(SHAPES),
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
    lost = kind is Kind.LOSE or (
        rng.random() < _LOST_TOO and (kind is Kind.RESIZE or kind.dependency is not None)
    )
    lasting = {Kind.FREEZE: _FROZEN, Kind.SICKEN_MODEL: _SICK}.get(kind, (_BRIEFLY, _OUTAGE))
    return Strike(
        kind,
        pause=rng.uniform(0, longest_pause),
        seconds=rng.uniform(*lasting),
        settle=rng.random() < 0.7,
        cut=rng.choice(list(Cut)),
        stream=rng.randrange(MOST_STREAMS),
        which=rng.randrange(MOST_PROCESSES),
        loses=lost,
        gracefully=rng.random() < 0.3,
        step=rng.randrange(1, len(SHAPES)),
        code=rng.choice([_REFUSED, 500, 503]),
        fresh=rng.random() < 0.5,
        severed=rng.random() < 0.7,
        comeback=rng.random() < 0.5,
        ahead=rng.randint(-_ASTRAY, _ASTRAY),
    )


def _rng(seed: int, purpose: str) -> random.Random:
    return random.Random(f"{seed} {purpose}")  # noqa: S311 - chance that can be repeated
