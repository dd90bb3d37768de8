"""One episode: load and strikes on fresh streams, then rest, then the account of each."""

import os
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from confluent_kafka import KafkaException
from psycopg import Error as DatabaseError

from lab.servers import ServerError
from tests.chaos.ledger import Findings, Replays
from tests.chaos.load import Load
from tests.chaos.plan import Plan
from tests.chaos.stream import Stream
from tests.chaos.strikes import Hit, Strikes
from tests.chaos.supervisor import Ended
from tests.chaos.watch import StalledError
from tests.chaos.world import World
from tests.kit.kafka import Topics, read_all

__all__ = ["Result", "run"]

_CRASHES: Final = {-6: "SIGABRT", -8: "SIGFPE", -11: "SIGSEGV"}


@dataclass
class Result:
    """How an episode went."""

    plan: Plan
    hits: list[Hit] = field(default_factory=list)
    ends: list[Ended] = field(default_factory=list)
    findings: list[Findings] = field(default_factory=list)
    """Of each stream, as is the next."""
    replays: list[Replays] = field(default_factory=list)
    aborted: int = 0
    unacknowledged: int = 0
    problems: list[str] = field(default_factory=list)
    """Empty if all is well."""
    seconds: float = 0.0

    @property
    def messages(self) -> int:
        """In the topic, once for each stream."""
        return sum(found.messages for found in self.findings)

    @property
    def by_themselves(self) -> int:
        """Runs that ended although no process was sent a signal."""
        return sum(not end.wanted for end in self.ends)

    @property
    def crashed(self) -> int:
        """Runs of which a process aborted, for whatever reason."""
        return sum(bool(_CRASHES.keys() & set(end.statuses)) for end in self.ends)

    @property
    def hung(self) -> int:
        """Runs of which one process went on when another had ended."""
        return sum(end.hung for end in self.ends)


def run(world: World, plan: Plan, folder: Path) -> Result:
    """Run an episode.

    :arg world: The servers, as the last episode left them.

    :arg plan: What is done to them.

    :arg folder: For recovery directories and logs; kept.

    :returns: How it went; nothing is raised that the stream is to blame for.

    """
    return _Episode(world, plan, folder).run()


class _Episode:
    def __init__(self, world: World, plan: Plan, folder: Path) -> None:
        self._world, self._plan, self._folder = world, plan, folder
        self._name = f"chaos-{plan.seed}-{os.urandom(3).hex()}"
        self._topic, self._failed = f"{self._name}-in", f"{self._name}-failed"
        self._result = Result(plan)

    def run(self) -> Result:
        began = time.monotonic()
        try:
            self._run()
        except (
            *(StalledError, TimeoutError, subprocess.TimeoutExpired),
            *(ServerError, KafkaException, DatabaseError),
        ) as error:
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

    def _run(self) -> None:
        self._world.recover()
        self._world.kafka.create_topic(self._topic, self._plan.partitions)
        self._world.kafka.create_error_topic(self._failed, self._plan.partitions)
        names = "ab"[: self._plan.streams]
        streams = [self._stream(name) for name in names]
        load = Load(self._world.kafka, self._topic, self._plan)
        strikes = Strikes(self._world, streams, self._folder / "strikes.log")
        # Also what failed has a part in the summary.
        self._result.hits = strikes.hits
        try:
            self._strike(strikes, streams, load)
        finally:
            self._result.ends = [end for stream in streams for end in stream.ends]
        self._result.aborted, self._result.unacknowledged = load.aborted, load.unacknowledged
        for stream in streams:
            self._account(stream, load)

    def _stream(self, name: str) -> Stream:
        topics = Topics(self._topic, self._failed, f"{self._name}-{name}")
        return Stream(self._world, self._plan, self._folder / name, topics)

    def _strike(self, strikes: Strikes, streams: list[Stream], load: Load) -> None:
        with ExitStack() as stack:
            for stream in streams:
                stack.enter_context(stream)
            stack.enter_context(load)
            try:
                strikes.run(self._plan)
            except StalledError:
                _autopsy(streams)
                raise
            load.stop()
            try:
                self._settle(streams)
                for stream in streams:
                    self._blame(stream, stream.finish())
            except TimeoutError as error:
                self._result.problems.append(str(error))
                _autopsy(streams)

    def _settle(self, streams: list[Stream]) -> None:
        """Wait until every group has committed the end of every partition."""
        # Markers of transactions count. The embedded broker's watermark may be too low.
        ends = self._world.kafka.ends(self._topic)
        for message in read_all(self._world.kafka, self._topic):
            partition = message.partition() or 0
            ends[partition] = max(ends[partition], (message.offset() or 0) + 1)
        for stream in streams:
            stream.settle(ends)

    def _account(self, stream: Stream, load: Load) -> None:
        findings, replays = stream.examine(load)
        self._result.findings.append(findings)
        self._result.replays.append(replays)
        self._blame(stream, [*findings.problems(), *stream.audit()])

    def _blame(self, stream: Stream, problems: list[str]) -> None:
        alone = self._plan.streams == 1
        self._result.problems += [
            problem if alone else f"{stream.folder.name}: {problem}" for problem in problems
        ]


def _autopsy(streams: list[Stream]) -> None:
    for stream in streams:
        stream.autopsy()
