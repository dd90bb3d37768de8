"""What an audit found."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from ops.audit.spans import Examples, Span

__all__ = ["FIGURES", "Account", "Audit", "Figure"]

Figure = Literal[
    "settled",
    "stored",
    "duplicates",
    "dead_letters",
    "replayed",
    "put_back",
    "missing",
    "doubled",
    "no_prediction",
    "no_record",
    "gone",
    "in_progress",
]
"""What is counted for each partition.

`stored`, `duplicates`, `dead_letters`: what the stores have, at or after the committed offset too.
`replayed`: the dead letters of messages that had been replayed before. `put_back`: the dead letters
that were replayed.

Before the committed offset: `settled` are messages with a place, `missing` those without, and
`no_record` the offsets that hold none. At or after it: `in_progress` are the offsets without a
place. Anywhere: `doubled` are positions that are in more than one place or more than once in the
error topic, `no_prediction` transactions that are stored without one, `gone` the offsets below the
log start that have no place.
"""

FIGURES: Final[tuple[Figure, ...]] = get_args(Figure)


@dataclass
class Account:
    """Where the messages of one partition ended.

    :arg partition: Its number.

    :arg committed: The group's offset; None if it has none: then nothing is judged.

    :arg missing: The first that are missing.

    :arg doubled: The first that are doubled.

    :arg no_prediction: The first that have none.

    """

    partition: int
    committed: int | None
    missing: Examples
    doubled: Examples
    no_prediction: Examples
    first: int = 0
    """The first offset that was looked at."""

    counts: Counter[Figure] = field(default_factory=Counter)
    doubled_in: dict[int, list[str]] = field(default_factory=dict)
    """The places of the first position of each span in `doubled`."""


@dataclass
class Audit:
    """All partitions of a topic.

    :arg topic: That is read.

    :arg group: Whose offsets say how far.

    :arg error_topic: Where the dead letters are.

    :arg partitions: In the order of their numbers.

    """

    topic: str
    group: str
    error_topic: str
    partitions: list[Account]

    @property
    def adds_up(self) -> bool:
        """Whether nothing is missing, nothing doubled, and no transaction without prediction."""
        wrong: tuple[Figure, ...] = ("missing", "doubled", "no_prediction")
        return not any(self.total(figure) for figure in wrong)

    @property
    def is_read(self) -> bool:
        """Whether the group has an offset anywhere."""
        return len(self.not_read) < len(self.partitions)

    @property
    def not_read(self) -> list[int]:
        """Partitions in which the group has no offset: nothing of them is judged.

        The stream gives each partition one when it starts. So these were added to the topic since,
        and are read after the next start.
        """
        return [account.partition for account in self.partitions if account.committed is None]

    def total(self, figure: Figure) -> int:
        """The sum of a figure over all partitions."""
        return sum(account.counts[figure] for account in self.partitions)

    def as_json(self) -> dict[str, Any]:
        """Everything, as `json.dumps` takes it."""
        return {
            "topic": self.topic,
            "group": self.group,
            "error_topic": self.error_topic,
            "adds_up": self.adds_up,
            "not_read": self.not_read,
            "total": {figure: self.total(figure) for figure in FIGURES},
            "partitions": [_as_json(account) for account in self.partitions],
        }


def _as_json(account: Account) -> dict[str, Any]:
    return {
        "partition": account.partition,
        "from": account.first,
        "committed": account.committed,
        **{figure: account.counts[figure] for figure in FIGURES},
        "missing_at": [_span(span) for span in account.missing.spans],
        "doubled_at": [
            {**_span(span), "places": account.doubled_in[span.first]}
            for span in account.doubled.spans
        ],
        "no_prediction_at": [_span(span) for span in account.no_prediction.spans],
    }


def _span(span: Span) -> dict[str, Any]:
    return {"first": span.first, "last": span.last}
