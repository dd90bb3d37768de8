"""A topic that is written in transactions, of which some were given up."""

import pytest
from confluent_kafka import OFFSET_END, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from lab.servers import KafkaServer, free_port, wait_until
from tests.acceptance.world import LONG, World, metric, stop, valid, wait_for_epochs
from tests.kit.kafka import read_all

pytestmark = [pytest.mark.apache_kafka, pytest.mark.timeout(300)]

PARTITIONS = 4


def _write_and_give_up(world: World) -> None:
    """Commit ten messages a partition in two transactions, and give up three behind them."""
    producer = Producer(
        {**world.broker.client_settings, "transactional.id": f"feed-{world.topics.group}"}
    )
    producer.init_transactions(30)
    for messages, committed in ((valid(20), True), (valid(20), True), (valid(12), False)):
        producer.begin_transaction()
        for message in messages:
            producer.produce(
                world.topics.transactions, value=message.value, partition=message.partition
            )
        producer.flush(30)
        producer.commit_transaction(30) if committed else producer.abort_transaction(30)


def _delete_all(broker: KafkaServer, topic: str) -> None:
    """Remove every record, as retention does in a quiet week."""
    everything = [TopicPartition(topic, number, OFFSET_END) for number in range(PARTITIONS)]
    admin = AdminClient(broker.client_settings)  # kept: its answers would go with it
    for answer in admin.delete_records(everything).values():
        answer.result(10)


def test_lag_comes_to_0_when_all_is_read(world: World) -> None:
    """Markers and aborted messages are not waited for, in the metric and in the group's offsets."""
    port = free_port()
    _write_and_give_up(world)
    ends = world.broker.ends(world.topics.transactions)
    with world.flow(HTTP_PORT=str(port)) as flow:
        world.wait_until_ended(40)
        wait_until(
            lambda: list(metric(port, "fraud_lag_messages").values()) == [0] * PARTITIONS,
            LONG,
            what="no lag",
        )
        wait_until(lambda: world.committed() == ends, LONG, what=f"the group at {ends}")
        stop(flow)
    assert world.audit().adds_up


@pytest.mark.parametrize("kept", ["recovery directory", "group"])
def test_a_topic_that_is_empty_again_can_be_read_on(world: World, kept: str) -> None:
    """Retention has removed what was read, markers and aborted messages: none of it is gone."""
    port = free_port()
    _write_and_give_up(world)
    with world.flow(HTTP_PORT=str(port)) as flow:
        world.wait_until_ended(40)
        wait_for_epochs(port, 3)  # in which it can read to the very end
        stop(flow)
    _delete_all(world.broker, world.topics.transactions)
    if kept == "group":
        world.lose_recovery()
    with world.flow() as flow:
        later = {(sent.partition(), sent.offset()) for sent in world.send(valid(4))}
        wait_until(
            lambda: later <= world.account().stored or not flow.running, LONG, what="later messages"
        )
        assert flow.running, flow.output()
        stop(flow)
    assert "source.stopped" not in flow.output()
    assert read_all(world.broker, world.topics.failed) == []
