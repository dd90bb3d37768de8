"""A stream of the test's own, to be driven from outside."""

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.servers import KafkaServer, ModelApi, Postgres
from tests.acceptance.world import World
from tests.kit.environment import environment
from tests.kit.kafka import Topics
from tests.kit.wall_clock import WallClock


@pytest.fixture
def make_world(
    broker: KafkaServer,
    make_topics: Callable[..., Topics],
    database_url: str,
    model_api: ModelApi,
    tmp_path: Path,
) -> Callable[..., World]:
    """Make a stream: `make_world(partitions=64, BATCH_SIZE="10")`."""

    def make(*, partitions: int = 4, **variables: str) -> World:
        topics = make_topics(partitions=partitions)
        more = {"STOP_TIMEOUT": "4", "LOG_FORMAT": "json", **variables}
        given = {"database_url": database_url, "model_url": model_api.url}
        return World(
            broker,
            topics,
            model_api,
            tmp_path / topics.group,
            environment(broker, topics, **given, **more),
        )

    return make


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """A stream whose topics have four partitions."""
    return make_world()


@pytest.fixture
def other_database_url(postgres: Postgres, _template: str) -> Iterator[str]:
    """URL of a second database, for a second stream."""
    name = f"other_{secrets.token_hex(6)}"
    postgres.create_database(name, template=_template)
    yield postgres.url(name)
    postgres.drop_database(name)


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    """The wall clock of a stream."""
    if reason := WallClock.missing():
        pytest.skip(reason)
    return WallClock(tmp_path)
