"""The stores of a stream, and the audit of them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import typer
from confluent_kafka import Consumer, TopicPartition
from typer.testing import CliRunner

from lab.servers import KafkaServer, wait_until
from operators.dead_letters.envelope import Record, to_record
from ops.audit import audit
from tests.kit.environment import environment
from tests.kit.factories import failure, message
from tests.kit.kafka import Outgoing, Topics, produce
from tests.kit.postgres import query

INSERT = {
    "transactions": """
        WITH stored AS (
            INSERT INTO transactions (id, description, amount, "timestamp", operation_type, side,
                                      source_topic, source_partition, source_offset)
            SELECT gen_random_uuid(), 'order', 1, now(), 'PURCHASE', 'DEBIT', %s, %s,
                unnest(%s::int8[])
            RETURNING id
        )
        INSERT INTO predictions (transaction_id, prediction, fraud_score)
        SELECT id, 'legitimate', 0 FROM stored
    """,
    "duplicates": """
        INSERT INTO duplicates (transaction_id, source_topic, source_partition, source_offset)
        SELECT gen_random_uuid(), %s, %s, unnest(%s::int8[])
    """,
}
app = typer.Typer()
app.command()(audit)


@dataclass(frozen=True)
class Result:
    """What a run of the command came to."""

    status: int
    output: str
    errors: list[str]

    @property
    def found(self) -> dict[str, Any]:
        """What `--json` printed."""
        parsed = json.loads(self.output)
        assert isinstance(parsed, dict)
        return parsed

    @property
    def total(self) -> dict[str, int]:
        """The figures of all partitions together, those that are 0 left out."""
        return {name: figure for name, figure in self.found["total"].items() if figure}

    def partition(self, number: int = 0) -> dict[str, Any]:
        """What was found of a partition."""
        found = self.found["partitions"][number]
        assert found["partition"] == number
        return dict(found)


class World:
    """The stores of a stream, written to as the stream would, or as it never should."""

    def __init__(self, broker: KafkaServer, topics: Topics, database_url: str) -> None:
        self.broker, self.topics, self.database_url = broker, topics, database_url
        self.variables = environment(
            broker, topics, database_url=database_url, model_url="http://unused"
        )

    def send(self, count: int, partition: int = 0) -> None:
        """Send messages to the topic that is read."""
        values = [Outgoing(b"{}", partition=partition) for _ in range(count)]
        produce(self.broker, self.topics.transactions, values)

    def store(
        self,
        offsets: Iterable[int],
        partition: int = 0,
        *,
        table: str = "transactions",
        topic: str | None = None,
    ) -> None:
        """Store rows for positions."""
        topic = topic or self.topics.transactions
        query(self.database_url, INSERT[table], topic, partition, list(offsets))

    def bury(
        self,
        *offsets: int,
        partition: int = 0,
        topic: str | None = None,
        replays: int = 0,
        group: str | None = None,
        record_partition: int = -1,
    ) -> None:
        """Write dead letters for positions; of another group's stream if it is given."""
        topic = topic or self.topics.transactions
        headers = [("dlq.replays", str(replays).encode())]
        records = [
            to_record(
                failure(of=message(topic=topic, partition=partition, offset=at, headers=headers)),
                group or self.topics.group,
            )
            for at in offsets
        ]
        self.put(*records, partition=record_partition)

    def put(self, *records: Record, partition: int = -1) -> None:
        """Write records to the error topic."""
        outgoing = [
            Outgoing(
                each.value,
                headers=[(name, value or b"") for name, value in each.headers],
                partition=partition,
            )
            for each in records
        ]
        produce(self.broker, self.topics.failed, outgoing)

    def commit(self, offset: int, partition: int = 0, *, group: str | None = None) -> None:
        """Commit an offset to the stream's group, or to another."""
        group = group or self.topics.group
        consumer = Consumer({**self.broker.client_settings, "group.id": group})
        at = TopicPartition(self.topics.transactions, partition, offset)

        def commits() -> bool:
            results = consumer.commit(offsets=[at], asynchronous=False)
            return bool(results) and results[0].error is None

        try:
            wait_until(commits, what="the group's coordinator")
        finally:
            consumer.close()

    def audit(self, *arguments: str, **variables: str) -> Result:
        """Run the command."""
        done = CliRunner().invoke(
            app, arguments, env={**self.variables, **variables}, catch_exceptions=False
        )
        assert "hidden" not in done.output
        return Result(done.exit_code, done.stdout, done.stderr.splitlines())

    def audited(self, *arguments: str, **variables: str) -> Result:
        """Run the command with `--json`; it could look."""
        result = self.audit("--json", *arguments, **variables)
        assert result.errors == []
        assert (result.status == 0) is result.found["adds_up"]
        return result
