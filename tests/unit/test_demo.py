"""The demo's proof finds every way in which a message can go astray."""

from dataclasses import replace

import pytest

from lab.demo.feed import Position, Sent
from lab.demo.ledger import DeadLetter, Places
from lab.demo.proof import differences
from lab.sample import DUPLICATE, STORED, Sample

FIRST, REPEAT, OTHER, BROKEN = (0, 0), (0, 1), (1, 0), (1, 1)

SENT = {
    FIRST: Sent(Sample(b"first", None, STORED), 0.0),
    REPEAT: Sent(Sample(b"first", None, DUPLICATE), 0.0),
    OTHER: Sent(Sample(b"other", None, STORED), 0.0),
    BROKEN: Sent(Sample(b"", None, "empty"), 0.0),
}
RIGHT = Places(
    stored={FIRST: 1.0, OTHER: 1.0},
    duplicates=[REPEAT],
    dead_letters=[DeadLetter(BROKEN, "decode", "not_json")],
)


def _dead(*positions: Position) -> list[DeadLetter]:
    return [DeadLetter(position, "decode", "not_json") for position in positions]


def test_all_in_their_places() -> None:
    """Nothing differs."""
    assert differences(SENT, RIGHT) == []


def test_either_of_two_repeated_messages_may_be_the_stored_one() -> None:
    """It depends on which is read first."""
    other_way = replace(RIGHT, stored={REPEAT: 1.0, OTHER: 1.0}, duplicates=[FIRST])

    assert differences(SENT, other_way) == []


@pytest.mark.parametrize(
    ("places", "line"),
    [
        (replace(RIGHT, duplicates=[]), "1 produced, and found nowhere, such as 0:1"),
        (replace(RIGHT, dead_letters=[]), "1 produced, and found nowhere, such as 1:1"),
        (
            replace(RIGHT, duplicates=[REPEAT, OTHER]),
            "1 found more than once, such as 1:0",
        ),
        (
            replace(RIGHT, dead_letters=_dead(BROKEN, BROKEN)),
            "1 found more than once, such as 1:1",
        ),
        (
            replace(RIGHT, stored=RIGHT.stored | {(5, 5): 1.0}),
            "1 found, and never produced, such as 5:5",
        ),
        (
            replace(RIGHT, stored=RIGHT.stored | {BROKEN: 1.0}, dead_letters=[]),
            "1 broken, and not in the error topic, such as 1:1",
        ),
        (
            replace(RIGHT, stored={FIRST: 1.0}, dead_letters=_dead(BROKEN, OTHER)),
            "1 valid, and in the error topic, such as 1:0",
        ),
        (
            replace(RIGHT, stored={FIRST: 1.0, OTHER: 1.0, REPEAT: 1.0}, duplicates=[]),
            "3 stored, expected 2",
        ),
    ],
)
def test_what_went_astray_is_named(places: Places, line: str) -> None:
    """With how many there are and where one is."""
    assert line in differences(SENT, places)


def test_what_the_model_refuses_belongs_into_the_error_topic() -> None:
    """The marker of the fault tells which."""
    refused = replace(RIGHT, stored={FIRST: 1.0}, dead_letters=_dead(BROKEN, OTHER))

    assert differences(SENT, refused, poison="oth") == []
