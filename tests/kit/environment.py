"""The stream's settings in a test."""

from collections.abc import Mapping
from typing import Any

from lab.servers import KafkaServer
from settings import Settings
from tests.kit.kafka import Topics

__all__ = ["environment", "settings_of"]


def environment(
    broker: KafkaServer, topics: Topics, *, database_url: str, model_url: str, **more: str
) -> dict[str, str]:
    """Put the stream's settings together, as environment variables.

    :arg broker: Its address.

    :arg topics: Topics and group.

    :arg database_url: Of the test's own database.

    :arg model_url: Of the stand-in.

    :arg more: Variables over these, or more of them.

    :returns: All that the stream needs, and limits that suit a test.

    """
    return {
        "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "KAFKA_CONSUMER_GROUP": topics.group,
        "KAFKA_TOPIC": topics.transactions,
        "KAFKA_ERROR_TOPIC": topics.failed,
        "DATABASE_URL": database_url,
        "ML_API_URL": model_url,
        "DATABASE_TIMEOUT": "5",
        "START_TIMEOUT": "10",
        "HTTP_PORT": "0",
        **more,
    }


def settings_of(variables: Mapping[str, str]) -> Settings:
    """Make settings of variables, for a stream in this process."""
    fields: dict[str, Any] = {name.lower(): value for name, value in variables.items()}
    return Settings(**fields)
