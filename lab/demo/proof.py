"""Prove that every message ended in exactly one place, and in the right one."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from lab.demo.feed import Position, Sent
from lab.demo.ledger import Places
from lab.sample import DUPLICATE, STORED

__all__ = ["astray", "differences"]

_SHOWN = 3


def astray(sent: Collection[Position], found: Iterable[Position]) -> dict[str, list[Position]]:
    """Name the positions that are not in exactly one place, by what is wrong with them.

    :arg found: Each as often as there is a place that has it.

    """
    places = Counter(found)
    return {
        "produced, and found nowhere": [at for at in sent if at not in places],
        "found more than once": [at for at, times in places.items() if times > 1],
        "found, and never produced": [at for at in places if at not in sent],
    }


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
    found = set(places.positions())
    dead = {letter.position for letter in places.dead_letters}
    expected = Counter(_expected(message, poison) for message in sent.values())
    wanted = {STORED: len(places.stored), DUPLICATE: len(places.duplicates)}
    broken = {at for at, message in sent.items() if _expected(message, poison) is None}
    checks = astray(sent, places.positions()) | {
        "broken, and not in the error topic": sorted(broken & found - dead),
        "valid, and in the error topic": sorted(sent.keys() & dead - broken),
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
