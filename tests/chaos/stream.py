"""One of the streams of an episode: a group with a database of its own, its flow, its account."""

import json
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from confluent_kafka import KafkaException

from ops.migrate import migrate
from tests.chaos.ledger import Findings, Replays, examine
from tests.chaos.load import Load
from tests.chaos.messages import UNSTORABLE
from tests.chaos.plan import Plan, Shape
from tests.chaos.supervisor import Ended, Supervisor
from tests.chaos.watch import WATCH, Watch
from tests.chaos.world import World
from tests.kit.checkout import CHECKOUT
from tests.kit.environment import environment
from tests.kit.kafka import Topics, committed
from tests.kit.postgres import query
from tests.kit.recovery import make_recovery

__all__ = ["Stream"]

_AUDIT: Final = timedelta(seconds=60)
_LOOK_EVERY: Final = 0.2
_LIMIT: Final = 90.0
"""Seconds within which it has to store again, and to commit what it has stored."""

_SESSIONS: Final = """
SELECT pid, pg_blocking_pids(pid), state, wait_event_type, wait_event, now() - xact_start, query
FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_SEVER: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name <> %s
"""


class Stream:
    """A stream; as a context manager its flow runs in the block, and is run again when it ends.

    :arg world: The servers, all well.

    :arg plan: Of the episode.

    :arg folder: For output and recovery directories.

    :arg topics: Names of both topics, which are there, and of its group and database, which is not.

    """

    def __init__(self, world: World, plan: Plan, folder: Path, topics: Topics) -> None:
        self._world, self._plan = world, plan
        self.folder, self.topics = folder, topics
        self.ends: list[Ended] = []
        self._stack = ExitStack()
        self._flows = 0
        database = topics.group.replace("-", "_")
        world.postgres.create_database(database)
        self._url = world.postgres.url(database)
        self._watch = Watch(self._url)
        self._variables = self._settings(world.database_url(database))
        folder.mkdir()

    @property
    def rows(self) -> int:
        """That it has stored."""
        return self._watch.rows

    def next_row(self, rows: int) -> float:
        """Wait until there are more rows than these; see `Watch.next_row`."""
        return self._watch.next_row(rows, _LIMIT, self._world.check)

    def hire(self, shape: Shape, recovery: Path | None = None) -> Supervisor:
        """Let another flow run, until the block ends.

        :arg shape: How.

        :arg recovery: Its recovery directory; one of its own if not given.

        :returns: Who runs it.

        """
        self._flows += 1
        name = f"{self.folder.name}-flow{self._flows}"
        recovery = recovery or make_recovery(self.folder / name)
        flow = Supervisor(name, self.folder, self._variables, recovery, shape, ends=self.ends)
        return self._stack.enter_context(flow)

    def sever(self) -> None:
        """End all its sessions at the database."""
        query(self._url, _SEVER, WATCH)

    def settle(self, ends: dict[int, int]) -> None:
        """Wait until its group has committed the end of every partition.

        :arg ends: By partition.

        :raises TimeoutError: It does not, and stores nothing any more.

        """
        rows, end = -1, 0.0
        while not self._has_committed(ends):
            if self.rows > rows:
                rows, end = self.rows, time.monotonic() + _LIMIT
            elif time.monotonic() > end:
                msg = f"no row and no commits of {self.topics.group} up to {ends} in {_LIMIT:g} s"
                raise TimeoutError(msg)

    def _has_committed(self, ends: dict[int, int]) -> bool:
        time.sleep(_LOOK_EVERY)
        # A broker that is back may still have to find its coordinator.
        with suppress(KafkaException):
            offsets = committed(self._world.kafka, self.topics)
            return all(offsets.get(partition, 0) >= end for partition, end in ends.items())
        return False

    def finish(self) -> list[str]:
        """End the flow in good order.

        :returns: What went wrong.

        """
        end = self.flow.finish()
        if end is None:
            return ["the flow was not running at the end"]
        if any(end.statuses) or end.hung:
            return [f"{end.run} ended with {end.statuses} on SIGTERM"]
        return []

    def autopsy(self) -> None:
        """End the flow; keep what its sessions and its threads wait for."""
        sessions = query(self._url, _SESSIONS)
        text = "\n".join(" | ".join(map(str, session)) for session in sessions)
        (self.folder / "sessions.log").write_text(text + "\n")
        self.flow.dump()

    def examine(self, load: Load) -> tuple[Findings, Replays]:
        """Draw up its account."""
        found, again = examine(self._world.kafka, self.topics, self._url, load, self.folder)
        found.save(self.folder / "findings.json")
        return found, again

    def audit(self) -> list[str]:
        """Ask the project's own audit as well.

        :returns: What went wrong.

        """
        with (self.folder / "audit.log").open("w") as log:
            done = subprocess.run(
                [sys.executable, "-m", "ops", "audit"],
                cwd=CHECKOUT,
                env=self._variables,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=_AUDIT.total_seconds(),
                check=False,
            )
        return [f"the audit ended with status {done.returncode}"] if done.returncode else []

    def __enter__(self) -> Self:
        """Make its tables, and start."""
        migrate(self._url)
        refused = f"CHECK (NOT starts_with(description, '{UNSTORABLE}'))"
        query(self._url, f"ALTER TABLE transactions ADD CONSTRAINT refused {refused}")
        self._stack.enter_context(self._watch)
        self.flow = self.hire(self._plan.shape)
        """That has the work; another may be frozen."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Kill all that runs."""
        self._stack.close()

    def _settings(self, database_url: str) -> dict[str, str]:
        plan = self._plan
        properties: dict[str, str | int] = {
            "fetch.wait.max.ms": 20,
            "socket.timeout.ms": 3_000,
            "reconnect.backoff.max.ms": 500,
            "topic.metadata.refresh.fast.interval.ms": 50,
        }
        if plan.impatient:
            properties["message.timeout.ms"] = 3_000
        return environment(
            self._world.kafka,
            self.topics,
            database_url=database_url,
            model_url=self._world.model_url,
            KAFKA_BOOTSTRAP_SERVERS=self._world.bootstrap_servers,
            KAFKA_PROPERTIES=json.dumps(properties),
            DATABASE_TIMEOUT="2",
            ML_API_TIMEOUT="2",
            START_TIMEOUT="5",
            STOP_TIMEOUT="4",
            BATCH_SIZE=str(plan.batch_size),
            MAX_RETRIES=str(plan.retries),
            SCORING_ON_OUTAGE="dead_letter" if plan.gives_up else "pause",
            LOG_FORMAT="json",
            # On SIGABRT it tells where each of its threads is.
            PYTHONFAULTHANDLER="1",
        )
