"""Read the whole error topic, and decide what goes back."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, get_args

from confluent_kafka import OFFSET_BEGINNING, Message

from operators.dead_letters.envelope import text_headers, to_message
from operators.kafka.contents import position, readable_headers
from operators.kafka.topic_reader import TopicReader, read_each
from ops.replay.choice import Choice
from ops.replay.letter import Letter, record_of
from ops.replayed import Replayed

__all__ = ["REASONS", "Group", "Plan", "Planner", "Reason", "read"]

Reason = Literal[
    "not chosen by the options",
    "replayed already",
    "over the limit of --max-replays",
    "cut: the original is not in it",
    "the original cannot be restored",
    "written twice: the first goes",
    "its partition is not there any more",
    "of another stream",
    "no dead letter",
]
"""Why a record of the error topic stays where it is."""

REASONS: Final[tuple[Reason, ...]] = get_args(Reason)


class Group(NamedTuple):
    """What dead letters are counted by."""

    stage: str
    disposition: str
    code: str


@dataclass
class Plan:
    """What goes, and what stays."""

    goes: Counter[Group] = field(default_factory=Counter)
    stays: Counter[Reason] = field(default_factory=Counter)
    positions: dict[int, set[int]] = field(default_factory=dict)
    """Where in the error topic that is which goes: offsets by partition."""

    @property
    def total(self) -> int:
        """How many go."""
        return self.goes.total()


class _Candidate(NamedTuple):
    partition: int
    offset: int
    group: Group
    obstacle: Reason | None


Original = tuple[int, int, int]
"""Partition, offset and time of a message in the topic that is read."""


class Planner:
    """Takes the records of the error topic in any order of partitions.

    :arg choice: What is to be replayed.

    :arg group: Of the stream: dead letters of others stay.

    :arg topic: That it reads: the same.

    :arg partitions: Of that topic.

    """

    def __init__(self, choice: Choice, *, group: str, topic: str, partitions: set[int]) -> None:
        self._choice, self._partitions = choice, partitions
        self._group, self._topic = group, topic
        self._stays: Counter[Reason] = Counter()
        self._candidates: dict[Original, _Candidate] = {}
        self._replayed: set[Original] = set()
        self._groups: dict[Group, Group] = {}

    def take(self, message: Message) -> None:
        """Take one record."""
        told = text_headers(readable_headers(message))
        mark = Replayed.read(told)
        if mark is not None:
            if mark.origin.belongs_to(self._group, self._topic):
                self._replayed.add((*mark.origin[2:], mark.timestamp))
            return
        _, failed_at = message.timestamp()
        letter = Letter.read(told, failed_at)
        reason = self._stranger(letter)
        if letter is None or reason is not None:
            self._stays[reason or "no dead letter"] += 1
            return
        key = (*letter.origin[2:], letter.timestamp)
        if key in self._candidates:
            self._stays["written twice: the first goes"] += 1
            return
        group = Group(letter.stage, letter.disposition, letter.code)
        group = self._groups.setdefault(group, group)  # one of each is enough
        obstacle = self._obstacle(letter, message)
        self._candidates[key] = _Candidate(*position(message), group, obstacle)

    def plan(self) -> Plan:
        """Decide, when all is read."""
        plan = Plan(stays=self._stays.copy())
        for key, each in self._candidates.items():
            # First of all: it need not be repaired any more.
            reason = "replayed already" if key in self._replayed else each.obstacle
            if reason is not None:
                plan.stays[reason] += 1
                continue
            plan.goes[each.group] += 1
            plan.positions.setdefault(each.partition, set()).add(each.offset)
        return plan

    def _stranger(self, letter: Letter | None) -> Reason | None:
        if letter is None:
            return "no dead letter"
        if not letter.origin.belongs_to(self._group, self._topic):
            return "of another stream"
        return None if self._choice.fits(letter) else "not chosen by the options"

    def _obstacle(self, letter: Letter, message: Message) -> Reason | None:
        if letter.is_cut:
            return "cut: the original is not in it"
        if letter.replays >= self._choice.max_replays:
            return "over the limit of --max-replays"
        if letter.origin.partition not in self._partitions:
            return "its partition is not there any more"
        if to_message(record_of(message)) is None:
            return "the original cannot be restored"
        return None


def read(reader: TopicReader, planner: Planner, *, stopped: Callable[[], bool]) -> Plan:
    """Read the error topic and decide.

    :arg reader: Of the error topic.

    :arg planner: Decides.

    :arg stopped: Whether to give up.

    :returns: The plan; an empty one if it was given up.

    :raises DependencyError: Which setting to look at.

    """
    for messages in _everything(reader):
        for _ in read_each(messages, planner.take):
            pass
        if stopped():
            return Plan()
    return planner.plan()


def _everything(reader: TopicReader) -> Iterator[list[Message]]:
    partitions = reader.partitions()
    ends = reader.ends(partitions)
    return reader.read_to_end(dict.fromkeys(partitions, OFFSET_BEGINNING), ends)
