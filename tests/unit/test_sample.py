"""What the demo and the tests are fed with."""

from collections import Counter

import pytest

from lab.sample import BROKEN, DUPLICATE, STORED, Sample, transactions
from operators.decode import decode_message
from operators.records import Failure, Message, Received


def _decoded(sample: Sample, offset: int = 0) -> Received | Failure:
    message = Message(sample.key, sample.value, [], "transactions", 0, offset, 0)
    return decode_message(message)


def test_the_same_seed_makes_the_same_messages() -> None:
    """Two runs with one seed can be compared; another seed makes other messages."""
    first, second, other = (list(transactions(500, seed=seed)) for seed in (1, 1, 2))

    assert first == second
    assert first != other


@pytest.mark.parametrize("count", [0, 1, 999])
def test_the_count_includes_broken_and_repeated_messages(count: int) -> None:
    """As many messages come out as were asked for."""
    assert len(list(transactions(count, seed=3, broken=0.2, repeated=0.2))) == count


def test_every_way_to_break_a_transaction_occurs() -> None:
    """The ways come in turn, so that a short run has all of them."""
    kinds = Counter(sample.expected for sample in transactions(4_000, seed=4))

    assert set(kinds) == {STORED, DUPLICATE, *BROKEN}
    assert 40 <= sum(kinds[way] for way in BROKEN) <= 80


def test_validation_agrees_with_what_is_expected() -> None:
    """Broken messages are refused, the others are not."""
    samples = list(transactions(4_000, seed=5, broken=0.1))

    disagreeing = [
        sample
        for sample in samples
        if isinstance(_decoded(sample), Failure) is not (sample.expected in BROKEN)
    ]

    assert not disagreeing


def test_a_repeated_message_comes_after_its_first_and_is_the_same() -> None:
    """Each duplicate repeats the bytes of one stored message before it, and no other does."""
    seen: set[bytes] = set()
    repeated = 0
    for sample in transactions(4_000, seed=6, broken=0, repeated=0.05):
        assert (sample.value in seen) is (sample.expected == DUPLICATE)
        seen.add(sample.value)
        repeated += sample.expected == DUPLICATE

    assert repeated > 100


def test_ids_and_times_come_in_several_spellings() -> None:
    """UUIDs in all their spellings, and ids of other kinds, all of them different."""
    samples = transactions(2_000, seed=7, broken=0, repeated=0)
    received = [item for sample in samples if isinstance(item := _decoded(sample), Received)]
    values = b"\n".join(item.message.value or b"" for item in received)

    assert len({item.transaction.id for item in received}) == 2_000
    assert {True, False} == {item.transaction.external_id is None for item in received}
    assert b'"{' in values
    assert b"urn:uuid:" in values
    assert b'"merchant": null' in values
    assert b'"amount": -' in values
