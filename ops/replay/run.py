"""Read, decide, send: a replay from its beginning to its end."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from confluent_kafka import Message

from operators.dead_letters.envelope import text_headers, to_message
from operators.errors import DeliveryError, StreamError
from operators.kafka import client as topics
from operators.kafka.contents import position, readable_headers
from operators.kafka.topic_reader import TopicReader
from ops.replay import plan as planning
from ops.replay.choice import Choice
from ops.replay.interruption import Interruption
from ops.replay.letter import Letter, record_of
from ops.replay.pace import Pace
from ops.replay.plan import Plan, Planner
from ops.replay.sender import Outgoing, Sender, replayed_message
from settings import Settings

__all__ = ["Audience", "Outcome", "replay"]


@dataclass
class Outcome:
    """What a replay did."""

    plan: Plan = field(default_factory=Plan)
    sent: int = 0
    too_large: list[str] = field(default_factory=list)
    """`dlq.id` of those that the topic does not take."""
    expired: int = 0
    """Dead letters that retention removed before they could be sent."""
    error: str | None = None
    """Why it ended early, if it did."""


class Audience(Protocol):
    """Is told how far it is."""

    def show_plan(self, plan: Plan) -> None:
        """All is read; now it begins."""

    def show(self, sent: int) -> None:
        """So many have been sent."""


def replay(
    settings: Settings,
    choice: Choice,
    *,
    dry_run: bool,
    interruption: Interruption,
    audience: Audience,
) -> Outcome:
    """Send dead letters back to where they came from.

    :arg settings: Of the stream.

    :arg choice: What goes, and how fast.

    :arg dry_run: Only decide: nothing is sent, and another replay goes on undisturbed.

    :arg interruption: Ends it early.

    :arg audience: Is told.

    :returns: What was done.

    :raises DependencyError: Which setting to look at; nothing was sent.

    """
    partitions = set(topics.partitions(settings))
    topics.check(settings, settings.kafka_error_topic)
    outcome = Outcome()
    sender = None if dry_run else Sender(settings)
    if sender is not None:
        # Before anything is read: from now on no other replay adds marks.
        sender.open()
    # What expires between the two times that the topic is read is told in the end.
    with TopicReader(settings, settings.kafka_error_topic, reset="earliest") as reader:
        planner = Planner(
            choice,
            group=settings.kafka_consumer_group,
            topic=settings.kafka_topic,
            partitions=partitions,
        )
        outcome.plan = planning.read(reader, planner, stopped=interruption.came)
        if not interruption.came():
            audience.show_plan(outcome.plan)
        if sender is not None and outcome.plan.total:
            pace = Pace(choice.rate, wait=interruption.wait)
            items = _Letters(reader, outcome.plan)
            try:
                for refused, sent in _send(items, sender, pace, interruption.came):
                    outcome.too_large += [item.mark.id for item in refused]
                    outcome.sent += sent
                    audience.show(outcome.sent)
                outcome.expired = 0 if interruption.came() else items.left
            except StreamError as error:
                outcome.error = str(error)
    return outcome


class _Letters:
    """The dead letters of a plan, read once more."""

    def __init__(self, reader: TopicReader, plan: Plan) -> None:
        self._reader = reader
        self._left = {number: set(offsets) for number, offsets in plan.positions.items()}

    @property
    def left(self) -> int:
        """How many have not been read yet."""
        return sum(len(offsets) for offsets in self._left.values())

    def __iter__(self) -> Iterator[Outgoing]:
        """What is to be sent, in the order of each partition."""
        starts = {number: min(offsets) for number, offsets in self._left.items()}
        ends = {number: max(offsets) + 1 for number, offsets in self._left.items()}
        for messages in self._reader.read_to_end(starts, ends):
            for message in messages:
                number, at = position(message)
                if at in self._left[number]:
                    self._left[number].remove(at)
                    yield _outgoing(message)
            if not self.left:
                return


def _outgoing(message: Message) -> Outgoing:
    letter = Letter.read(text_headers(readable_headers(message)), 0)
    back = to_message(record_of(message))
    number, _ = position(message)
    if letter is None or back is None:
        msg = "a record of the error topic has changed since it was read"
        raise DeliveryError(msg)
    return Outgoing(replayed_message(back, letter.mark), letter.mark, number)


def _send(
    letters: _Letters, sender: Sender, pace: Pace, stopped: Callable[[], bool]
) -> Iterator[tuple[list[Outgoing], int]]:
    """For each transaction, what was refused and how many were sent."""
    for items in _chunks(letters, pace.at_once):
        pace.keep(len(items))
        if stopped():
            return
        refused = sender.send(items)
        yield refused, len(items) - len(refused)


def _chunks(letters: _Letters, size: int) -> Iterator[list[Outgoing]]:
    chunk = []
    for item in letters:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
