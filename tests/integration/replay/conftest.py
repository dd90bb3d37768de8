"""A stream's topics for each test of the replay."""

import pytest

from lab.servers import KafkaServer
from tests.integration.replay.world import World
from tests.kit.kafka import Topics


@pytest.fixture
def world(broker: KafkaServer, topics: Topics) -> World:
    """A stream's topics, empty."""
    return World(broker, topics)
