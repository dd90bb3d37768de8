"""Where the audit begins, and what it is not asked for."""

from datetime import UTC, datetime, timedelta

import pytest

from lab.servers import ApacheKafka
from tests.integration.audit.world import World
from tests.kit.kafka import Outgoing, produce

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_it_begins_where_it_is_told(world: World) -> None:
    """`--from`, by partition: what is before does not count in any way."""
    for number in (0, 1):
        world.send(10, number)
        world.store(range(6, 10), number)
        world.bury(2, 2, partition=number)
        world.commit(10, number)
    result = world.audited("--from", "0:6")
    assert result.partition(0)["from"] == 6
    assert result.partition(0)["settled"] == result.partition(0)["stored"] == 4
    assert result.partition(0)["missing"] == result.partition(0)["doubled"] == 0
    assert result.partition(0)["dead_letters"] == 0
    assert (result.partition(1)["missing"], result.partition(1)["doubled"]) == (5, 1)
    assert world.audited("--from", "0:6", "--from", "1:6").status == 0


@pytest.mark.parametrize("wrong", ["6", "0:x", "0:-1", "a:1", ":"])
def test_a_beginning_that_is_none_is_refused(world: World, wrong: str) -> None:
    """Exit code 2, before anything is asked."""
    assert world.audit("--from", wrong, KAFKA_BOOTSTRAP_SERVERS="").status == 2


def test_a_beginning_in_a_partition_that_is_not_there_is_refused(world: World) -> None:
    """Or a typing error would look at everything."""
    result = world.audit("--from", "9:0")
    assert result.status == 2
    [line] = result.errors
    assert line == f"audit: KAFKA_TOPIC: {world.topics.transactions} has no partition 9 to begin in"


def test_a_stream_that_began_with_the_latest_is_not_asked_for_what_was_before(
    world: World,
) -> None:
    """It begins with the lowest offset that a store knows."""
    world.send(10)
    world.store([4, 6, 7])
    world.bury(5)
    world.commit(8)
    result = world.audited(KAFKA_START_AT="latest")
    assert result.status == 0
    assert result.partition()["from"] == 4
    assert result.total["settled"] == 4


@pytest.mark.apache_kafka
def test_a_stream_that_began_at_a_time_is_asked_for_what_came_since(
    world: World, apache_kafka: ApacheKafka
) -> None:
    """What was before that time it was never to read."""
    for hours in range(6):
        time_ = int((NOON + timedelta(hours=hours)).timestamp() * 1000)
        sent = Outgoing(b"{}", partition=0, timestamp=time_)
        produce(apache_kafka, world.topics.transactions, [sent])
    world.store([3, 4, 5])
    world.commit(6)
    begin = (NOON + timedelta(hours=1, minutes=30)).isoformat()
    result = world.audited(KAFKA_START_AT=begin)
    assert result.partition()["from"] == 2
    assert result.partition()["missing_at"] == [{"first": 2, "last": 2}]
