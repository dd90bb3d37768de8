"""The stores of a stream for each test of the audit."""

import pytest

from lab.servers import KafkaServer
from tests.integration.audit.world import World
from tests.kit.kafka import Topics


@pytest.fixture
def world(broker: KafkaServer, topics: Topics, database_url: str) -> World:
    """A stream's stores, empty."""
    return World(broker, topics, database_url)


@pytest.fixture
def healthy(world: World) -> World:
    """Two partitions of a stream that has consumed all: ten messages each, in all three places."""
    for number in (0, 1):
        world.send(10, number)
        world.store([0, 1, 2, 5, 6, 9], number)
        world.store([3, 8], number, table="duplicates")
        world.bury(4, 7, partition=number)
        world.commit(10, number)
    return world
