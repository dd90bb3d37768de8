"""The messages of an episode, and what should become of each."""

import random
from collections.abc import Iterator
from typing import Final, Literal

from lab.sample import DUPLICATE, STORED, transactions
from tests.chaos.plan import Plan

__all__ = ["UNSTORABLE", "Messages", "Place"]

Place = Literal["row", "dead letter", "either"]
"""Where a message may end: `transactions` or `duplicates`, or the error topic."""

UNSTORABLE: Final = "unstorable"
"""In a description: Postgres is to refuse it."""

_UNSCORABLE: Final = "poison"
_FICKLE: Final = "fickle"
_SHARE: Final = 0.002
"""Of the messages, for each of: unscorable, unstorable, in conflict with another."""

_DESCRIPTION: Final = b'"description": "'


def _marked(value: bytes, mark: str) -> bytes:
    return value.replace(_DESCRIPTION, _DESCRIPTION + mark.encode() + b" ", 1)


class Messages:
    """Sample messages without end; the same seed makes the same ones.

    Beside those that decoding refuses there are some that only the model, only the database or only
    a comparison with what is stored refuses, and some on which the model changes its mind.

    :arg plan: Says how many of which.

    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._places: dict[bytes, Place] = {}

    def place(self, value: bytes | None) -> Place | None:
        """Say where a message has to end; None if it is not from here."""
        return self._places.get(value or b"")

    def __iter__(self) -> Iterator[bytes]:
        """Make their values."""
        plan = self._plan
        rng = random.Random(f"{plan.seed} load")  # noqa: S311 - chance that can be repeated
        samples = transactions(10**9, seed=plan.seed, broken=plan.broken, repeated=0.02)
        good: Place = "row" if plan.strict else "either"
        for sample in samples:
            place: Place = good if sample.expected in {STORED, DUPLICATE} else "dead letter"
            value, chance = sample.value, rng.random()
            if sample.expected != STORED or chance > 3 * _SHARE + plan.fickle:
                # A repetition of one of a pair may come after its other one.
                self._places.setdefault(value, place)
                yield value
            elif chance < 2 * _SHARE:
                value = _marked(value, _UNSCORABLE if chance < _SHARE else UNSTORABLE)
                self._places[value] = "dead letter"
                yield value
            elif chance < 3 * _SHARE:
                # Which of the two comes to the database first is open.
                pair = [value, _marked(value, "corrected")]
                self._places |= dict.fromkeys(pair, "either")
                yield from pair
            else:
                # Its repetition, to which nobody objects, is in conflict with it if it is stored.
                fickle = _marked(value, _FICKLE)
                self._places |= dict.fromkeys([value, fickle], "either")
                yield fickle
