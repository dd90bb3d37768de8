"""Prove that every message ended in exactly one place, and in the right one."""

from collections import Counter
from collections.abc import Mapping

from lab.demo.feed import Position, Sent
from lab.demo.ledger import Places
from lab.sample import DUPLICATE, STORED

__all__ = ["differences"]

_SHOWN = 3


def differences(
    sent: Mapping[Position, Sent], places: Places, *, poison: str | None = None
) -> list[str]:
    """Compare what was sent with where it was found.

    Of a message and its repetition either may be the stored one, so these two are told apart by
    their numbers, and all others one by one.

    :arg sent: What the broker acknowledged.

    :arg places: What was found.

    :arg poison: Text that makes the model refuse a transaction.

    :returns: One line for each difference; empty if there is none.

    """
    dead = {letter.position for letter in places.dead_letters}
    found = Counter(places.positions())
    expected = Counter(_expected(message, poison) for message in sent.values())
    wanted = {STORED: len(places.stored), DUPLICATE: len(places.duplicates)}
    checks = {
        "produced, and found nowhere": [at for at in sent if at not in found],
        "found more than once": [at for at, times in found.items() if times > 1],
        "found, and never produced": [at for at in found if at not in sent],
        "broken, and not in the error topic": [
            at
            for at, message in sent.items()
            if at in found and _expected(message, poison) is None and at not in dead
        ],
        "valid, and in the error topic": [
            at
            for at, message in sent.items()
            if _expected(message, poison) is not None and at in dead
        ],
    }
    lines = [
        f"{len(positions)} {what}, such as {_name(positions)}"
        for what, positions in checks.items()
        if positions
    ]
    lines += [
        f"{count} {kind}, expected {expected[kind]}"
        for kind, count in wanted.items()
        if count != expected[kind]
    ]
    return lines


def _expected(message: Sent, poison: str | None) -> str | None:
    """`stored` or `duplicate`; None for what belongs into the error topic."""
    kind = message.sample.expected
    if kind not in {STORED, DUPLICATE} or (poison and poison.encode() in message.sample.value):
        return None
    return kind


def _name(positions: list[Position]) -> str:
    return ", ".join(f"{partition}:{offset}" for partition, offset in positions[:_SHOWN])
