"""Another program subscribes with the group: Kafka takes commits from its members alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import Consumer

from lab.servers import wait_until
from tests.acceptance.world import LONG, World, events, stop, valid

pytestmark = [pytest.mark.apache_kafka, pytest.mark.timeout(300)]


@contextmanager
def _subscriber(world: World) -> Iterator[None]:
    consumer = Consumer(
        {
            **world.broker.client_settings,
            "group.id": world.topics.group,
            "enable.auto.commit": False,
            "session.timeout.ms": 45_000,
        }
    )
    try:
        consumer.subscribe([world.topics.transactions])
        wait_until(lambda: consumer.poll(0.1) or consumer.assignment(), LONG, what="a member")
        yield
    finally:
        consumer.close()


def test_commits_that_a_subscriber_prevents_are_told_once(
    make_world: Callable[..., World],
) -> None:
    """In words, with the setting; and they go on when it has left."""
    world = make_world()
    with world.flow() as flow:
        world.send(valid(8))
        world.wait_until_committed()
        with _subscriber(world):
            for count in range(3):
                world.send(valid(8))
                wait_until(lambda: len(world.account().stored) == 16 + 8 * count, LONG)  # noqa: B023
                flow.wait_for("source.commit_failed", LONG)
        world.send(valid(8))
        world.wait_until_committed()
        [line] = events(flow, "source.commit_failed")
        assert line["error"].startswith("KAFKA_CONSUMER_GROUP: another program subscribes")
        stop(flow)
    world.account().expect_each_once(world.sent)
