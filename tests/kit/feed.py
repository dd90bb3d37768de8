"""Sample messages in the topic of a stream that runs as a process, and what became of them."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Final

from confluent_kafka import Message

from lab.sample import DUPLICATE, STORED, Sample, transactions
from lab.servers import KafkaServer, wait_until
from tests.kit.accounts import Account, account
from tests.kit.flow import Flow
from tests.kit.kafka import Outgoing, Topics, committed, produce, read_all
from tests.kit.postgres import query

__all__ = ["END", "LONG", "MESSAGES", "SLOWLY", "TOKEN", "Feed", "json_lines", "stop"]

SEED: Final = 20261123
MESSAGES: Final = 3_000
LONG: Final = timedelta(seconds=60)
"""For what takes a few seconds where nothing else runs."""

END: Final = timedelta(seconds=20)
"""What the end after a signal may take, on a machine that is busy."""

TOKEN: Final = "t0ken-that-nobody-may-see"  # noqa: S105 - of a stand-in that wants none

SLOWLY: Final = {"BATCH_SIZE": "10", "SCORING_CONCURRENCY": "2", "IN_HAND_MESSAGES": "200"}
"""So that a run can be interrupted midway: less than 1,000 messages a second, and few in hand."""


class Feed:
    """Sample messages in the topic, what should become of them, and what did."""

    def __init__(
        self, broker: KafkaServer, topics: Topics, variables: dict[str, str], folder: Path
    ) -> None:
        self.broker, self.topics, self.variables = broker, topics, variables
        self.folder = folder
        self.url = variables["DATABASE_URL"]
        self.samples: list[Sample] = []
        self.sent: list[Message] = []

    def send(self, count: int = MESSAGES, *, seed: int = SEED) -> None:
        """Produce so many messages."""
        print("seed", seed)  # noqa: T201 - to repeat it
        samples = list(transactions(count, seed=seed, broken=0.03, repeated=0.02))
        self.sent += produce(
            self.broker,
            self.topics.transactions,
            [
                Outgoing(sample.value, sample.key, partition=number % 4)
                for number, sample in enumerate(samples)
            ],
        )
        self.samples += samples

    def flow(self, *arguments: str, **variables: str) -> Flow:
        """The stream, not yet started."""
        return Flow(self.folder / "flow", {**self.variables, **variables}, arguments)

    def rows(self) -> int:
        """How many messages have left a row so far."""
        [(count,)] = query(
            self.url,
            "SELECT (SELECT count(*) FROM transactions) + (SELECT count(*) FROM duplicates)",
        )
        return int(count)

    @property
    def expected(self) -> Counter[str]:
        """How many are to be stored, to be duplicates, to fail."""
        known = {STORED: "stored", DUPLICATE: "duplicates"}
        return Counter(known.get(sample.expected, "failed") for sample in self.samples)

    def wait_midway(self, rows: int = 200) -> None:
        """Wait until some are done; most are not."""
        wait_until(lambda: self.rows() >= rows, LONG, what=f"{rows} rows")
        assert self.rows() < len(self.sent) / 2, "too fast to be interrupted midway"

    def wait_until_done(self) -> None:
        """Wait until every message has left its trace."""
        rows = self.expected["stored"] + self.expected["duplicates"]
        wait_until(lambda: self.rows() >= rows, LONG, what=f"{rows} rows")
        read_all(self.broker, self.topics.failed, at_least=self.expected["failed"], limit=LONG)

    def committed(self) -> int:
        """How many messages the group's offsets say are done."""
        return sum(committed(self.broker, self.topics).values())

    def expect_all(self) -> Account:
        """See that every message is in its one place, once."""
        found = account(self.broker, self.topics, self.url)
        found.expect_each_once(self.sent)
        assert len(found.stored) == self.expected["stored"]
        assert len(found.duplicates) == self.expected["duplicates"]
        assert len(found.failed) == self.expected["failed"]
        [(orphans,)] = query(
            self.url,
            "SELECT count(*) FROM transactions FULL JOIN predictions ON transaction_id = id "
            "WHERE id IS NULL OR transaction_id IS NULL",
        )
        assert orphans == 0
        return found


def stop(flow: Flow, number: Signals = SIGTERM) -> None:
    """Send a signal and see that the end is graceful."""
    flow.signal(number)
    assert flow.wait(END) == 0, flow.output()
    assert "Traceback" not in flow.output(), flow.output()
    assert "panicked" not in flow.output()


def json_lines(flow: Flow) -> Iterator[dict[str, object]]:
    """The output, of which every line has to be an object."""
    for line in flow.lines():
        found = json.loads(line)
        assert isinstance(found, dict)
        yield found
