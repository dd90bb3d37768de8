"""The servers, and for each run topics, a database and a group of its own."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import psycopg

from lab.servers import ApacheKafka, Broker, KafkaServer, ModelApi, Postgres
from ops.migrate import migrate
from tests.kit.environment import environment
from tests.kit.kafka import Topics

__all__ = ["Ground", "Kafka", "Stage"]

Kafka = Literal["apache", "embedded"]

# How far each partition is, from an index alone: to look costs next to nothing.
_REACHED: Final = """
SELECT (
    SELECT coalesce(max(source_offset) + 1, 0) FROM transactions
    WHERE source_topic = %s AND source_partition = number
) FROM generate_series(0, %s - 1) AS number ORDER BY number
"""
_COMMITS: Final = """
SELECT extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8, count(*)
FROM transactions GROUP BY xmin ORDER BY 1
"""
_COMMITTED: Final = """
SELECT source_partition, source_offset,
    extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8
FROM transactions
"""


class _Database(Postgres):
    """Durable, and notes the time of each commit: a row's own time is that of the beginning."""

    def command(self) -> list[str]:
        """Run the server."""
        return [*super().command(), "-c", "track_commit_timestamp=on"]


# Of all that a contender decides itself, in messages that all of them had.
_DIGEST: Final = """
SELECT count(*), sum(hashtextextended(ROW(
    id, external_id, description, amount, "timestamp", merchant, operation_type, side,
    source_partition, source_offset, prediction, fraud_score, model_version
)::text, 0))::text
FROM transactions JOIN predictions ON transaction_id = id WHERE source_offset < %s
"""


@dataclass(frozen=True)
class Ground:
    """What one run has for itself."""

    folder: Path
    topics: Topics
    partitions: int
    database_url: str
    variables: dict[str, str]
    """Settings of a contender, all of them."""
    database: psycopg.Connection
    """To look into it."""

    def reached(self) -> list[int]:
        """How many messages of each partition are stored, if there are no gaps."""
        topic = self.topics.transactions
        return [row[0] for row in self.database.execute(_REACHED, [topic, self.partitions])]

    def stored(self) -> int:
        """How many rows there are; reads the whole table."""
        row = self.database.execute("SELECT count(*) FROM predictions").fetchone()
        assert row is not None
        return int(row[0])

    def commits(self) -> list[tuple[float, int]]:
        """Time of each commit, in seconds since 1970, and its rows."""
        return self.database.execute(_COMMITS).fetchall()

    def committed(self) -> dict[tuple[int, int], float]:
        """Time of the commit by partition and offset."""
        rows = self.database.execute(_COMMITTED)
        return {(partition, offset): time for partition, offset, time in rows}

    def digest(self, below: int) -> tuple[int, str]:
        """Give the number of rows and a digest of them, the same if they are.

        :arg below: The offset of each partition at which it ends.

        """
        row = self.database.execute(_DIGEST, [below]).fetchone()
        assert row is not None
        return row[0], row[1]


class Stage:
    """Broker, database and model; as a context manager they run inside the block.

    :arg folder: For their data and logs, and those of the runs.

    :arg kafka: Which broker.

    """

    def __init__(self, folder: Path, *, kafka: Kafka) -> None:
        self.folder = folder
        self.kafka = kafka
        self.broker: KafkaServer
        self.broker = (ApacheKafka if kafka == "apache" else Broker)(folder / "broker")
        self.postgres = _Database(folder / "postgres")
        self.model = ModelApi(folder / "model")
        self._stack = ExitStack()
        self._runs = 0

    def ground(self, *, partitions: int = 4) -> Ground:
        """Make topics and a database for a run.

        :arg partitions: Of both topics.

        :returns: Where the run takes place.

        """
        self._runs += 1
        name = f"run{self._runs}"
        topics = Topics(f"{name}-in", f"{name}-failed", name)
        self.broker.create_topic(topics.transactions, partitions)
        self.broker.create_error_topic(topics.failed, partitions)
        self.postgres.create_database(name)
        url = self.postgres.url(name)
        migrate(url)
        # Kafka answers a fetch when there is a message, the embedded broker when its time is over.
        client = '{"fetch.wait.max.ms": 10}' if self.kafka == "embedded" else "{}"
        variables = environment(
            self.broker,
            topics,
            database_url=url,
            model_url=self.model.url,
            KAFKA_PROPERTIES=client,
            LOG_FORMAT="json",
        )
        folder = self.folder / name
        folder.mkdir()
        database = psycopg.connect(url, autocommit=True)
        self._stack.callback(database.close)
        return Ground(folder, topics, partitions, url, variables, database)

    def clear(self, ground: Ground) -> None:
        """Drop a run's database."""
        ground.database.close()
        self.postgres.drop_database(ground.topics.group)

    def __enter__(self) -> Self:
        """Start all."""
        with ExitStack() as stack:
            for server in (self.broker, self.postgres, self.model):
                stack.enter_context(server)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop all."""
        self._stack.close()
