"""Know, for each source partition, how far it was read and what of that is done.

A message is done when the transaction that stores its row, or that holds its dead letter, is
committed. What was read together from one partition is a `Fetch`, and is counted together, so that
finishing a message costs next to nothing:

    offsets     0 . . . . . 400 . . . . . 800 . . . . . 1200
    fetches     |   all done   | 12 pending  |  all done  |
                               ^ done                     ^ read

`done` is the low watermark: everything before it is durable. It is the only position that a later
run starts from. This is what Kafka Connect does (its `SubmittedRecords`) and Redpanda Connect (its
`checkpoint` package), with one count for a fetch instead of one entry for a message.

What is in hand, the messages of fetches that are not done, is what a worker's memory goes to. So
`InHand` is the one place where the stream is held back: a source reads only while there is room.

Everything here belongs to one worker's thread.
"""

from collections import Counter, deque
from collections.abc import Iterable
from typing import Protocol

__all__ = ["Fetch", "Fetched", "InHand", "Tracker", "finish"]


class InHand:
    """What a worker has read and not finished.

    :arg messages: So many it may have before it stops to read.

    :arg size: So many bytes of keys, values and headers.

    """

    def __init__(self, messages: int, size: int) -> None:
        self._most_messages, self._most_bytes = messages, size
        self.messages = self.bytes = 0
        self.has_moved = False
        """Whether a message was finished since somebody has set this to False."""

    @property
    def has_room(self) -> bool:
        """Whether more may be read."""
        return self.messages < self._most_messages and self.bytes < self._most_bytes

    @property
    def room(self) -> tuple[int, int]:
        """Messages and bytes that may still be read; not below 0."""
        return (
            max(0, self._most_messages - self.messages),
            max(0, self._most_bytes - self.bytes),
        )


class Fetch:
    """What was read together from one partition."""

    __slots__ = ("_messages", "_size", "end", "pending", "tracker")

    def __init__(self, tracker: "Tracker", messages: int, end: int) -> None:
        self.tracker, self.end = tracker, end
        self.pending = self._messages = messages
        self._size = 0

    def weigh(self, size: int) -> None:
        """Note how many bytes its messages have."""
        self._size += size
        self.tracker.in_hand.bytes += size

    def finish(self, messages: int = 1) -> None:
        """Note that some of its messages are durable."""
        self.pending -= messages
        self.tracker.in_hand.has_moved = True
        if self.pending == 0:
            self.tracker.let_go(self._messages, self._size)
        elif self.pending < 0:
            msg = f"{self.tracker.partition}: more messages are done than were read"
            raise AssertionError(msg)


class Tracker:
    """Positions of one source partition.

    :arg start: The first offset that is read.

    :arg horizon: Where the partition ended when it was taken over: a message before it may have
        been handled by a predecessor.

    """

    def __init__(self, partition: int, start: int, *, horizon: int, in_hand: InHand) -> None:
        self.partition, self.horizon = partition, horizon
        self.read = self.done = start
        self.in_hand = in_hand
        self._fetches: deque[Fetch] = deque()

    @property
    def is_idle(self) -> bool:
        """Whether everything that was read is done."""
        return not self._fetches

    def add(self, messages: int, end: int) -> Fetch:
        """Note what was read together.

        :arg end: The offset behind the last of them.

        :returns: What each of them has to carry.

        """
        fetch = Fetch(self, messages, end)
        self._fetches.append(fetch)
        self.in_hand.messages += messages
        self.read = end
        return fetch

    def skip_to(self, position: int) -> None:
        """Note that there is no message before a position: markers, aborted messages, gaps.

        :arg position: The client's; one that is not ahead changes nothing.

        """
        if position > self.read:
            self._fetches.append(Fetch(self, 0, position))
            self.read = position
            self._advance()

    def let_go(self, messages: int, size: int) -> None:
        """Note that a fetch is done."""
        self.in_hand.messages -= messages
        self.in_hand.bytes -= size
        self._advance()

    def _advance(self) -> None:
        while self._fetches and self._fetches[0].pending == 0:
            self.done = self._fetches.popleft().end


class Fetched(Protocol):
    """A message that came with others."""

    @property
    def fetch(self) -> Fetch | None:
        """None if no partition keeps account of it."""


def finish(messages: Iterable[Fetched]) -> None:
    """Note that messages are durable.

    :arg messages: Of one worker; each once.

    """
    for fetch, count in Counter(message.fetch for message in messages).items():
        if fetch is not None:
            fetch.finish(count)
