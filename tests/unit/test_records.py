"""What passes through the stream."""

from operators.records import partition_key
from tests.kit.factories import message


def test_a_partitions_key_is_bytewaxs_own() -> None:
    """Number first: recovery data of Bytewax's own Kafka source has the same keys."""
    assert partition_key("a-topic", 12) == "12-a-topic"
    assert message(topic="a-topic", partition=12).partition_key == "12-a-topic"
