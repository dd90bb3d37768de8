"""What an outbox knows of dead letters that are in the error topic already; nothing is written."""

import asyncio
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.dead_letters.already_written import Written
from operators.dead_letters.outbox import IsStored, Outbox
from operators.engine.loop import EventLoop
from operators.engine.positions import Fetch, InHand, Tracker
from operators.errors import DeliveryError
from operators.kafka.metadata import LettersPosition
from operators.records import Failure
from telemetry import Progress
from tests.kit.factories import failure, message, settings

PARTITION, HORIZON = 1, 10
TIME = message().timestamp


@pytest.fixture
def loop() -> EventLoop:
    """A loop of the test's own thread."""
    return EventLoop()


def written(*letters: tuple[int, int, int]) -> list[Written]:
    """Make what was read back, of partition and offset there and the source's offset."""
    return sorted(
        Written(LettersPosition(at, offset), source, TIME) for at, offset, source in letters
    )


async def _nothing() -> None:
    pass


def outbox(
    loop: EventLoop,
    known: Iterable[Written] = (),
    *,
    end: int = 0,
    is_stored: IsStored | None = None,
) -> Outbox:
    """Make the outbox of a source partition that has just been taken over."""
    return Outbox(
        settings(),
        0,
        error_partition=PARTITION,
        written=list(known),
        end=end,
        loop=loop,
        turns=asyncio.Semaphore(),
        progress=Progress(),
        confirm=_nothing,
        is_stored=is_stored,
    )


@pytest.mark.parametrize(
    ("done", "expected"),
    [(0, 4), (5, 4), (6, 7), (8, 7), (9, 12)],
    ids=["all", "the first", "the second", "between", "none"],
)
def test_dead_letters_of_what_is_done_are_left_behind(
    loop: EventLoop, done: int, expected: int
) -> None:
    """A successor begins with the first that may matter; behind the last if none does."""
    subject = outbox(loop, written((PARTITION, 4, 5), (PARTITION, 7, 8)), end=12)

    assert subject.position(done) == (PARTITION, expected)


def test_a_dead_letter_of_a_later_message_may_come_first(loop: EventLoop) -> None:
    """They are written in the order in which they fail."""
    subject = outbox(loop, written((PARTITION, 4, 8), (PARTITION, 5, 3)), end=6)

    assert [subject.position(done) for done in (0, 4, 8)] == [(PARTITION, 4)] * 3
    assert subject.position(9) == (PARTITION, 6)


def test_where_dead_letters_begin_is_not_known_while_some_are_elsewhere(loop: EventLoop) -> None:
    """Version 0.1.0 wrote to all partitions of the error topic."""
    subject = outbox(loop, written((PARTITION, 4, 5), (PARTITION + 1, 0, 6)), end=12)

    assert subject.position(6) is None
    assert subject.position(7) == (PARTITION, 12)


LETTERS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 1)), max_size=10)


@given(letters=LETTERS, dones=st.lists(st.integers(0, 22), max_size=5).map(sorted))
def test_no_dead_letter_that_matters_is_before_the_position(
    letters: list[tuple[int, int]], dones: list[int]
) -> None:
    """Whatever was read back, as the partition goes on."""
    known = written(*((at, number, source) for number, (source, at) in enumerate(letters)))
    subject = outbox(EventLoop(), known, end=len(letters))

    for done in dones:
        position = subject.position(done)
        for letter in known:
            if letter.source_offset >= done and position is not None:
                assert letter.at.partition == position.partition
                assert letter.at.offset >= position.offset


def failures(*offsets: int) -> tuple[list[Failure], Fetch]:
    """Make failures that were read together, from a partition that ended at the horizon."""
    tracker = Tracker(0, min(offsets), horizon=HORIZON, in_hand=InHand(100, 1_000_000))
    fetch = tracker.add(len(offsets), max(offsets) + 1)
    return [failure(of=message(offset=offset, fetch=fetch)) for offset in offsets], fetch


def place(loop: EventLoop, subject: Outbox, given: list[Failure]) -> None:
    """Hand failures over and wait for what becomes of them; there is no broker."""
    subject.put(given)
    subject.flush_soon()
    loop.run_until(lambda: subject.unacknowledged == 0)
    loop.pump()  # raises what has failed


def test_what_the_error_topic_holds_already_is_done(loop: EventLoop) -> None:
    """It is not written again, and the tables are not asked for it."""
    asked: list[int] = []

    async def is_stored(_partition: int, offsets: list[int]) -> set[int]:
        asked.extend(offsets)
        return set()

    given, fetch = failures(3, 4)
    subject = outbox(
        loop, written((PARTITION, 0, 3), (PARTITION, 1, 4)), end=2, is_stored=is_stored
    )

    place(loop, subject, given)

    assert (fetch.pending, fetch.tracker.done, asked) == (0, 5, [])
    assert not subject.is_open


def test_what_is_in_the_tables_is_no_dead_letter(loop: EventLoop) -> None:
    """A predecessor stored it, and the model refuses it now."""
    asked: list[int] = []

    async def is_stored(partition: int, offsets: list[int]) -> set[int]:
        assert partition == 0
        asked.extend(offsets)
        return {*offsets}

    given, fetch = failures(3, 4)
    subject = outbox(loop, written((PARTITION, 0, 3)), end=1, is_stored=is_stored)

    place(loop, subject, given)

    assert (fetch.pending, asked) == (0, [4])
    assert not subject.is_open


def test_what_a_predecessor_cannot_have_handled_is_not_looked_up(loop: EventLoop) -> None:
    """It came after the partition was taken over; to write it a producer is opened."""
    asked: list[int] = []

    async def is_stored(_partition: int, offsets: list[int]) -> set[int]:
        asked.extend(offsets)
        return set()

    given, fetch = failures(HORIZON, HORIZON + 1)
    subject = outbox(loop, is_stored=is_stored)

    with pytest.raises(DeliveryError, match="KAFKA_ERROR_TOPIC: cannot write to"):
        place(loop, subject, given)
    assert (fetch.pending, asked) == (2, [])
