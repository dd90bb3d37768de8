"""The topic itself changes: it is made again, or gets more partitions."""

import json
from collections.abc import Callable

import pytest
from confluent_kafka.admin import AdminClient

from lab.servers import ApacheKafka, wait_until
from operators.errors import DependencyError
from tests.acceptance.world import LONG, World, events, garbage, starts, stop, valid
from tests.kit.kafka import Outgoing
from tests.kit.postgres import query

pytestmark = [pytest.mark.apache_kafka, pytest.mark.timeout(300)]

IDS = "SELECT id FROM transactions"


def _delete(kafka: ApacheKafka, topic: str) -> None:
    admin = AdminClient(kafka.client_settings)
    admin.delete_topics([topic])[topic].result(10)
    wait_until(lambda: topic not in admin.list_topics(timeout=10).topics, LONG, what="its end")


def _id(message: Outgoing) -> str:
    return str(json.loads(message.value or b"")["id"])


def test_a_topic_made_again_under_the_stream_is_not_read_from_the_middle(
    world: World, apache_kafka: ApacheKafka
) -> None:
    """The stream stops and names the topic, or reads the new one from its beginning."""
    topic = world.topics.transactions
    with world.flow() as flow:
        world.send(valid(40))
        world.wait_until_committed()
        flow.pause()  # it sees nothing but that the topic goes on
        _delete(apache_kafka, topic)
        apache_kafka.create_topic(topic, 4)
        new = valid(200)
        world.send(new)
        first = {_id(message) for message in new[:40]}  # which have the positions of the old ones
        flow.resume()

        def decided() -> bool:
            stored = {str(found) for [found] in query(world.variables["DATABASE_URL"], IDS)}
            return not flow.running or first <= stored

        wait_until(decided, LONG, what="a stop, or the new topic's first messages")
        if not flow.running:
            assert flow.wait() == 1
            [line] = events(flow, "source.stopped")
            assert topic in line["error"]


def test_a_topic_made_again_while_the_stream_was_down_is_told_from_the_old_one(
    world: World, apache_kafka: ApacheKafka
) -> None:
    """Without a snapshot and without offsets, which Kafka drops with the topic: the tables know."""
    with world.flow() as flow:
        world.send(valid(40))
        world.wait_until_committed()
        stop(flow)
    _delete(apache_kafka, world.topics.transactions)
    apache_kafka.create_topic(world.topics.transactions, 4)
    world.lose_recovery()
    world.send(garbage(40))  # at the positions of rows, where they would count as stored
    with world.flow() as flow:
        assert flow.wait() == 1
        [line] = events(flow, "source.stopped")
        assert "deleted and created again" in line["error"]
    with pytest.raises(DependencyError, match="deleted and created again"):
        world.audit()


def test_partitions_added_while_the_stream_is_stopped_are_read_from_their_beginning(
    make_world: Callable[..., World],
) -> None:
    """`KAFKA_START_AT=latest` is for a group without offsets, not for partitions new to a group."""
    world = make_world(partitions=2, KAFKA_START_AT="latest")
    with world.flow() as flow:
        wait_until(lambda: len(starts(flow)) == 2, LONG, what="both partitions")
        world.send(valid(20, partitions=2))
        world.wait_until_committed()
        stop(flow)
    world.add_partitions(4)
    world.send(valid(40))
    _expect_all_of_all_partitions(world)


def test_partitions_added_while_the_stream_runs_are_reported(
    make_world: Callable[..., World],
) -> None:
    """The log says so by itself; the next start reads them from their beginning."""
    world = make_world(partitions=2, KAFKA_START_AT="latest")
    with world.flow() as flow:
        wait_until(lambda: len(starts(flow)) == 2, LONG, what="both partitions")
        world.send(valid(20, partitions=2))
        world.wait_until_committed()
        world.add_partitions(4)
        world.send(valid(40))
        flow.wait_for("source.new_partitions", LONG)
        stop(flow)
    _expect_all_of_all_partitions(world)


def _expect_all_of_all_partitions(world: World) -> None:
    with world.flow() as flow:
        wait_until(lambda: len(starts(flow)) == 4, LONG, what="all partitions")
        canaries = {(sent.partition(), sent.offset()) for sent in world.send(valid(4))}
        wait_until(lambda: canaries <= world.account().stored, LONG, what="what was sent last")
        stop(flow)
    world.account().expect_each_once(world.sent)
    assert world.audit().adds_up
