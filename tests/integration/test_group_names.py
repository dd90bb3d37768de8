"""The name of the group goes into other names: every one that Kafka takes has to fit there."""

from dataclasses import replace

import pytest

from lab.servers import KafkaServer
from operators.dead_letters.check import check
from tests.integration.audit.world import World as Audited
from tests.integration.replay.world import World as Replayable
from tests.kit.kafka import Topics, header, read_all
from tests.kit.letters import PARTITION, Writing
from tests.kit.reading import Reading

NAMES = [
    "team:scoring",
    "a:3-b: (c)/[d]@e é 'f' \"g\" %s",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_group_of_any_name_reads_writes_locks_and_replays(
    broker: KafkaServer, topics: Topics, database_url: str, name: str
) -> None:
    """Offsets, transactions, locks, headers and the commands are all of that group."""
    topics = replace(topics, group=f"{name} {topics.group}")
    reading = Reading(broker, topics, database_url=database_url)
    reading.send(b"a", b"b", partition=PARTITION)
    with reading.run({PARTITION: None}, stores_rows=True, sends_failures=True) as run:
        run.finish(*run.read(2))
        run.until(lambda: reading.committed(PARTITION) == 2, what="the commit")
    writing = Writing(broker, topics)
    check(writing.settings())
    writing.write(*writing.failures(0, 1), by=writing.take_over())
    successor = writing.take_over()
    assert all(successor.has(each.message) for each in writing.failures(0, 1))
    found = read_all(broker, topics.failed, at_least=2)
    assert {header(each, "dlq.group") for each in found} == {topics.group}
    audited = Audited(broker, topics, database_url).audited()
    assert audited.total["dead_letters"] == 2
    assert Replayable(broker, topics).replay().status == 0
