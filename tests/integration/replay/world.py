"""A stream's topics with dead letters in them, and the replay of these."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Message
from typer.testing import CliRunner

from lab.servers import KafkaServer
from operators.dead_letters.envelope import Origin, Record, to_record
from operators.records import Failure
from ops.__main__ import app
from ops.replayed import Replayed
from settings import Settings
from tests.kit.environment import environment, settings_of
from tests.kit.factories import failure, message, transaction_json
from tests.kit.flow import Flow
from tests.kit.kafka import Outgoing, Topics, header, produce, read_all

UNUSED = "http://unused"
DATABASE = "postgresql://fraud:hidden@unused/fraud"


@dataclass(frozen=True)
class Result:
    """What a run of the command came to."""

    status: int
    lines: list[str]
    errors: list[str]


class World:
    """A stream's topics, with dead letters in them."""

    def __init__(self, broker: KafkaServer, topics: Topics) -> None:
        self.broker, self.topics = broker, topics
        self.variables = environment(broker, topics, database_url=DATABASE, model_url=UNUSED)

    @property
    def settings(self) -> Settings:
        """As the stream has them."""
        return settings_of(self.variables)

    def dead(self, offset: int, *, partition: int = 0, **overrides: Any) -> Failure:
        """Make the failure of a message that has a customer's data in all its parts."""
        of = {
            "key": b"hidden-key",
            "value": json.dumps(transaction_json(description=f"hidden {offset}")).encode(),
            "headers": [("trace", b"hidden-header"), ("trace", b"2")],
            "topic": self.topics.transactions,
            "partition": partition,
            "offset": offset,
        } | overrides.pop("of", {})
        return failure(of=message(**of), **overrides)

    def letter(self, offset: int, **of: Any) -> Record:
        """Make its dead letter; `group` is the stream's if it is not given."""
        group = of.pop("group", self.topics.group)
        return to_record(self.dead(offset, **of), group)

    def mark(
        self, offset: int, *, partition: int = 0, timestamp: int = 0, group: str | None = None
    ) -> Replayed:
        """Make the mark of a dead letter that was sent back."""
        origin = Origin(group or self.topics.group, self.topics.transactions, partition, offset)
        return Replayed(origin, timestamp, 1)

    def bury(self, *records: Record, partition: int = -1) -> None:
        """Write records to the error topic."""
        letters = [
            Outgoing(
                each.value,
                key=each.key,
                headers=[(name, value or b"") for name, value in each.headers],
                partition=partition,
            )
            for each in records
        ]
        produce(self.broker, self.topics.failed, letters)

    def bury_many(self, count: int) -> None:
        """Write as many dead letters."""
        self.bury(*(self.letter(at, partition=at % 4) for at in range(count)))

    def replay(self, *arguments: str, **variables: str) -> Result:
        """Run the command to its end, in this process."""
        done = CliRunner().invoke(
            app,
            ["replay", *arguments],
            env={**self.variables, **variables},
            catch_exceptions=False,
        )
        assert "hidden" not in done.output
        return Result(done.exit_code, done.stdout.splitlines(), done.stderr.splitlines())

    def process(self, folder: Path, *arguments: str) -> Flow:
        """The command as a process of its own."""
        return Flow(folder, self.variables, module=["ops", "replay", *arguments])

    def back(self) -> list[Message]:
        """All that is in the topic that is read."""
        return read_all(self.broker, self.topics.transactions)

    def ids(self) -> Counter[str | None]:
        """How often each dead letter is in the topic that is read."""
        return Counter(header(each, "dlq.id") for each in self.back())

    def expect_each_once(self, count: int) -> None:
        """See that all that `bury_many` wrote is there once, and marked once."""
        topic = self.topics.transactions
        wanted = {f"{topic}-{at % 4}-{at}": 1 for at in range(count)}
        assert self.ids() == wanted
        marks = (header(each, "dlq.replayed") for each in read_all(self.broker, self.topics.failed))
        assert Counter(mark for mark in marks if mark is not None) == wanted
