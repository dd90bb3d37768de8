"""What tests of Kafka's side have in common."""

import pytest

from lab.servers import KafkaServer
from tests.kit.kafka import Topics
from tests.kit.reading import Reading


@pytest.fixture
def reading(broker: KafkaServer, topics: Topics) -> Reading:
    """Sources of the test's own topic, without a database."""
    return Reading(broker, topics)
