"""One episode: load and strikes on a fresh stream, then rest, then the account."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from confluent_kafka import KafkaException
from psycopg import Error as DatabaseError

from lab.servers import ServerError, wait_until
from operators.kafka.partition import NOT_YET
from ops.migrate import migrate
from tests.chaos.ledger import Findings, Replays, examine, replays
from tests.chaos.load import UNSTORABLE, Load
from tests.chaos.plan import Plan
from tests.chaos.strikes import Hit, Strikes
from tests.chaos.supervisor import Ended
from tests.chaos.watch import StalledError, Watch
from tests.chaos.world import World
from tests.support import CHECKOUT, Topics, committed, environment, query, read_all

__all__ = ["Result", "run"]

_SETTLE: Final = timedelta(seconds=90)
_AUDIT: Final = timedelta(seconds=60)
_SESSIONS: Final = """
SELECT pid, pg_blocking_pids(pid), state, wait_event_type, wait_event, now() - xact_start, query
FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_CRASHES: Final = {-6: "SIGABRT", -8: "SIGFPE", -11: "SIGSEGV"}


@dataclass
class Result:
    """How an episode went."""

    seed: int
    hits: list[Hit] = field(default_factory=list)
    ends: list[Ended] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    replays: Replays = field(default_factory=Replays)
    unacknowledged: int = 0
    problems: list[str] = field(default_factory=list)
    """Empty if all is well."""
    seconds: float = 0.0

    @property
    def messages(self) -> int:
        """In the topic."""
        return self.findings.messages

    @property
    def by_themselves(self) -> int:
        """Runs that ended although no process was sent a signal."""
        return sum(not end.wanted for end in self.ends)

    @property
    def aborted(self) -> int:
        """Runs of which a process aborted, for whatever reason."""
        return sum(bool(_CRASHES.keys() & set(end.statuses)) for end in self.ends)

    @property
    def hung(self) -> int:
        """Runs of which one process went on when another had ended."""
        return sum(end.hung for end in self.ends)


def run(world: World, plan: Plan, folder: Path) -> Result:
    """Run an episode.

    :arg world: The servers, all well.

    :arg plan: What is done to them.

    :arg folder: For recovery directories and logs; kept.

    :returns: How it went; nothing is raised that the stream is to blame for.

    """
    return _Episode(world, plan, folder).run()


class _Episode:
    def __init__(self, world: World, plan: Plan, folder: Path) -> None:
        self._world, self._plan, self._folder = world, plan, folder
        name = f"chaos-{plan.seed}-{os.urandom(3).hex()}"
        self._topics = Topics(f"{name}-in", f"{name}-failed", name)
        self._database = name.replace("-", "_")
        self._url = world.postgres.url(self._database)
        self._result = Result(plan.seed)

    def run(self) -> Result:
        began = time.monotonic()
        self._prepare()
        try:
            self._run()
        except (StalledError, TimeoutError, ServerError, KafkaException, DatabaseError) as error:
            self._result.problems.append(f"{type(error).__name__}: {error}")
        self._result.problems += [
            f"{end.run} ended with {_CRASHES[status]}"
            for end in self._result.ends
            # When one process of a cluster fails, Bytewax makes the others panic; what becomes of
            # their interpreters is not the stream's.
            if not end.wanted and not any(status > 0 for status in end.statuses)
            for status in end.statuses
            if status in _CRASHES
        ]
        self._result.seconds = time.monotonic() - began
        return self._result

    def _prepare(self) -> None:
        self._world.wait()
        self._world.kafka.create_topic(self._topics.transactions, self._plan.partitions)
        self._world.kafka.create_error_topic(self._topics.failed, self._plan.partitions)
        self._world.postgres.create_database(self._database)
        migrate(self._url)
        refused = f"CHECK (NOT starts_with(description, '{UNSTORABLE}'))"
        query(self._url, f"ALTER TABLE transactions ADD CONSTRAINT refused {refused}")

    def _run(self) -> None:
        with ExitStack() as stack:
            load = Load(
                self._world.kafka,
                self._topics.transactions,
                partitions=self._plan.partitions,
                rate=self._plan.rate,
                broken=self._plan.broken,
                seed=self._plan.seed,
            )
            watch = stack.enter_context(Watch(self._url))
            variables = self._variables()
            strikes = stack.enter_context(
                Strikes(
                    self._world,
                    self._plan,
                    self._folder,
                    variables=variables,
                    watch=watch,
                    database_url=self._url,
                )
            )
            stack.enter_context(load)
            # Also what failed has a part in the summary.
            self._result.hits, self._result.ends = strikes.hits, strikes.ends
            try:
                strikes.run()
            except StalledError:
                self._autopsy(strikes)
                raise
            load.stop()
            self._result.unacknowledged = load.unacknowledged
            try:
                self._settle()
                self._finish(strikes)
            except TimeoutError as error:
                self._result.problems.append(str(error))
                self._autopsy(strikes)
            self._account(load, variables)

    def _autopsy(self, strikes: Strikes) -> None:
        """Keep what the sessions of the database and the threads of the flow wait for."""
        sessions = query(self._url, _SESSIONS)
        text = "\n".join(" | ".join(map(str, session)) for session in sessions)
        (self._folder / "sessions.log").write_text(text + "\n")
        strikes.dump()

    def _variables(self) -> dict[str, str]:
        properties: dict[str, str | int] = {
            "fetch.wait.max.ms": 20,
            "socket.timeout.ms": 3_000,
            "reconnect.backoff.max.ms": 500,
            "topic.metadata.refresh.fast.interval.ms": 50,
        }
        if self._plan.impatient:
            properties["message.timeout.ms"] = 3_000
        return environment(
            self._world.kafka,
            self._topics,
            database_url=self._world.database_url(self._database),
            model_url=self._world.model_url,
            KAFKA_BOOTSTRAP_SERVERS=self._world.bootstrap_servers,
            KAFKA_PROPERTIES=json.dumps(properties),
            DATABASE_TIMEOUT="2",
            ML_API_TIMEOUT="2",
            START_TIMEOUT="5",
            STOP_TIMEOUT="4",
            BATCH_SIZE=str(self._plan.batch_size),
            LOG_FORMAT="json",
            # On SIGABRT it tells where each of its threads is.
            PYTHONFAULTHANDLER="1",
        )

    def _settle(self) -> None:
        """Wait until the group has committed the end of every partition."""
        ends: Counter[int] = Counter()
        for message in read_all(self._world.kafka, self._topics.transactions):
            ends[message.partition() or 0] = (message.offset() or 0) + 1

        def done() -> bool:
            time.sleep(0.2)
            try:
                offsets = committed(self._world.kafka, self._topics)
            except KafkaException as error:
                if error.args[0].code() not in NOT_YET:
                    raise
                return False  # a broker that is back may still have to find its coordinator
            return all(offsets.get(partition, 0) >= end for partition, end in ends.items())

        wait_until(done, _SETTLE, what=f"commits up to {dict(ends)}")

    def _finish(self, strikes: Strikes) -> None:
        end = strikes.finish()
        if end is None:
            self._result.problems.append("the flow was not running at the end")
        elif any(end.statuses) or end.hung:
            self._result.problems.append(f"{end.run} ended with {end.statuses} on SIGTERM")

    def _account(self, load: Load, variables: Mapping[str, str]) -> None:
        kafka = self._world.kafka
        findings = examine(kafka, self._topics, self._url, load)
        findings.save(self._folder / "findings.json")
        self._result.findings = findings
        self._result.problems += findings.problems()
        self._result.replays = replays(self._folder, kafka, self._topics, self._url)
        self._audit(variables)

    def _audit(self, variables: Mapping[str, str]) -> None:
        """Ask the project's own audit as well."""
        done = subprocess.run(
            [sys.executable, "-m", "ops", "audit"],
            cwd=CHECKOUT,
            env=dict(variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_AUDIT.total_seconds(),
            check=False,
        )
        (self._folder / "audit.log").write_text(done.stdout)
        if done.returncode != 0:
            self._result.problems.append(f"the audit ended with status {done.returncode}")
