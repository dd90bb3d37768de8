"""Records go between processes and into snapshots."""

import pickle
from typing import Any

import pytest

from operators.records import Message, partition_key
from tests.factories import failure, message, received, scored


@pytest.mark.parametrize("record", [message(), received(), scored(), failure()], ids=type)
def test_a_record_is_equal_after_a_journey(record: object) -> None:
    """Workers of a cluster hand them over pickled."""
    assert pickle.loads(pickle.dumps(record)) == record  # noqa: S301 - our own


def test_a_message_is_made_again_from_its_plain_tuple() -> None:
    """Snapshots hold tuples, which outlive a renamed class."""
    of = message(headers=[("a", None)], offset=7)

    plain: Any = tuple(of)

    assert Message(*plain) == of


def test_a_partitions_key_is_bytewaxs_own() -> None:
    """Number first: recovery data of Bytewax's own Kafka source has the same keys."""
    assert partition_key("a-topic", 12) == "12-a-topic"
    assert message(topic="a-topic", partition=12).partition_key == "12-a-topic"
