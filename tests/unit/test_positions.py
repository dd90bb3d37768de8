"""Which positions are done, in whatever order messages are."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.engine.positions import Fetch, InHand, Tracker, finish


def tracking(start: int = 0, *, messages: int = 1_000, size: int = 1_000_000) -> Tracker:
    """Make a tracker of a partition that is read from an offset on."""
    return Tracker(0, start, horizon=0, in_hand=InHand(messages, size))


def test_nothing_is_done_before_it_is_read() -> None:
    """The first offset is where it starts."""
    tracker = tracking(7)

    assert (tracker.done, tracker.read, tracker.is_idle) == (7, 7, True)


def test_a_position_is_done_when_all_before_it_is() -> None:
    """Fetches that are finished out of order wait for those before them."""
    tracker = tracking()
    first, second, third = (tracker.add(2, end) for end in (2, 4, 6))
    assert (tracker.done, tracker.read) == (0, 6)

    third.finish(2)
    second.finish()
    assert tracker.done == 0
    first.finish(2)
    assert tracker.done == 2
    second.finish()
    assert tracker.done == 6
    assert tracker.is_idle


def test_a_fetch_is_done_with_its_last_message() -> None:
    """Whichever that is: what lies between may be read again."""
    tracker = tracking()
    fetch = tracker.add(400, 400)

    fetch.finish(399)
    assert (tracker.done, fetch.pending) == (0, 1)

    fetch.finish()
    assert tracker.done == 400


def test_what_holds_no_message_is_skipped() -> None:
    """Markers, aborted messages, gaps: the position is past them when all before is done."""
    tracker = tracking()
    tracker.skip_to(3)
    assert (tracker.done, tracker.read) == (3, 3)

    fetch = tracker.add(2, 5)
    tracker.skip_to(6)
    assert (tracker.done, tracker.read, tracker.is_idle) == (3, 6, False)

    fetch.finish(2)
    assert (tracker.done, tracker.is_idle) == (6, True)


@pytest.mark.parametrize("position", [-1001, 0, 4, 5])
def test_a_position_that_is_not_ahead_skips_nothing(position: int) -> None:
    """The client has none before it reads, and is behind for a moment after that."""
    tracker = tracking()
    tracker.add(5, 5)

    tracker.skip_to(position)

    assert (tracker.done, tracker.read) == (0, 5)


def test_what_is_in_hand_is_counted_until_its_fetch_is_done() -> None:
    """In messages and bytes, of all partitions of a worker together."""
    in_hand = InHand(10, 1_000)
    trackers = [Tracker(number, 0, horizon=0, in_hand=in_hand) for number in range(2)]
    fetches = [tracker.add(3, 3) for tracker in trackers]
    for fetch in fetches:
        fetch.weigh(200)
    assert (in_hand.messages, in_hand.bytes, in_hand.room) == (6, 400, (4, 600))

    fetches[0].finish(2)
    assert (in_hand.messages, in_hand.bytes) == (6, 400)
    fetches[0].finish()
    assert (in_hand.messages, in_hand.bytes) == (3, 200)
    fetches[1].finish(3)
    assert (in_hand.messages, in_hand.bytes) == (0, 0)


@pytest.mark.parametrize(
    ("messages", "size", "has_room", "room"),
    [
        (9, 999, True, (1, 1)),
        (10, 1, False, (0, 999)),
        (1, 1_000, False, (9, 0)),
        (12, 3_000, False, (0, 0)),
    ],
)
def test_there_is_room_below_both_limits(
    messages: int,
    size: int,
    has_room: bool,  # noqa: FBT001 - a column of the table
    room: tuple[int, int],
) -> None:
    """What was read together may go beyond them; then there is none, and not less."""
    tracker = tracking(messages=10, size=1_000)
    tracker.add(messages, messages).weigh(size)

    assert (tracker.in_hand.has_room, tracker.in_hand.room) == (has_room, room)


def test_more_than_was_read_cannot_be_done() -> None:
    """A message that is finished twice would hide one that is not."""
    tracker = tracking()
    fetch = tracker.add(2, 2)
    fetch.finish(2)

    with pytest.raises(AssertionError, match="more messages are done than were read"):
        fetch.finish()
    assert tracker.in_hand.messages == 0


def test_messages_of_many_fetches_are_finished_together() -> None:
    """Those that no partition keeps account of too."""
    tracker = tracking()
    first, second = tracker.add(2, 2), tracker.add(3, 5)
    fetches = [second, first, None, second, first]

    finish(SimpleNamespace(fetch=fetch) for fetch in fetches)

    assert (tracker.done, second.pending) == (2, 1)


STEPS = st.lists(st.tuples(st.sampled_from(["read", "skip", "finish"]), st.integers(0, 99)))


@given(steps=STEPS)
def test_done_is_always_the_lowest_that_is_not_finished(steps: list[tuple[str, int]]) -> None:
    """However reading, skipping and finishing go on, and what is in hand adds up."""
    tracker = tracking()
    fetches: dict[int, Fetch] = {}  # by first offset
    pending: dict[int, list[int]] = {}  # messages that are left, and messages that there were
    for step, number in steps:
        if step == "read":
            first, messages = tracker.read, 1 + number % 4
            gap = number % 3  # where there is no message
            fetches[first] = tracker.add(messages, first + messages + gap)
            fetches[first].weigh(10 * messages)
            pending[first] = [messages, messages]
        elif step == "skip":
            tracker.skip_to(tracker.read + number % 4)
        elif pending:
            first = [*pending][number % len(pending)]
            fetches[first].finish()
            pending[first][0] -= 1
            if pending[first][0] == 0:
                del pending[first]
        in_hand = sum(messages for _, messages in pending.values())
        assert tracker.done == min(pending, default=tracker.read)
        assert tracker.is_idle is not bool(pending)
        assert (tracker.in_hand.messages, tracker.in_hand.bytes) == (in_hand, 10 * in_hand)
