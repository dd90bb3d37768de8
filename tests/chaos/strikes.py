"""Do what the plan says, and see how long it takes until the stream stores again."""

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from signal import SIGKILL, SIGTERM
from types import TracebackType
from typing import Final, Self

from lab.servers import wait_until
from tests.chaos.plan import Kind, Plan, Strike
from tests.chaos.supervisor import Ended, Supervisor
from tests.chaos.watch import WATCH, Watch
from tests.chaos.world import Dependency, World
from tests.support import make_recovery, query

__all__ = ["Hit", "Strikes"]

_LIMIT: Final = 90.0
"""Seconds within which the stream has to store again."""

_FIRST: Final = timedelta(seconds=30)
_SIDE_BY_SIDE: Final = 3.0
"""Seconds for which a flow that was frozen runs beside its replacement."""

_SEEN: Final = 0.2
"""Seconds until the watch has seen what was stored before."""

_SEVER: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name <> %s
"""


@dataclass(frozen=True)
class Hit:
    """A strike, and how long it took until the next row was stored."""

    kind: Kind
    from_strike: float | None = None
    """Seconds; None if the next strike came first."""
    from_repair: float | None = None
    """Seconds since what the stream depends on was there again."""


class Strikes:
    """The flow under attack, in its block.

    :arg world: The servers.

    :arg plan: What is done.

    :arg folder: For output and recovery directories.

    :arg variables: Settings of the flow.

    :arg watch: Sees rows.

    :arg database_url: Not through the proxy.

    """

    def __init__(
        self,
        world: World,
        plan: Plan,
        folder: Path,
        *,
        variables: Mapping[str, str],
        watch: Watch,
        database_url: str,
    ) -> None:
        self._world, self._plan, self._folder = world, plan, folder
        self._variables, self._watch, self._database_url = variables, watch, database_url
        self.hits: list[Hit] = []
        self.ends: list[Ended] = []
        self._stack = ExitStack()
        self._flows = 0
        self._flow = self._hire(None)

    def run(self) -> None:
        """Do all that is planned.

        :raises StalledError: The stream does not come back.

        """
        self._next_row()
        for strike in self._plan.strikes:
            time.sleep(strike.pause)
            self._do(strike)
        self._world.wait()

    def finish(self) -> Ended | None:
        """End the flow in good order; see `Supervisor.finish`."""
        return self._flow.finish()

    def dump(self) -> None:
        """End the flow at once; its output tells where each of its threads was."""
        self._flow.dump()

    def __enter__(self) -> Self:
        """Start the flow."""
        self._stack.enter_context(self._flow)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Kill all that runs."""
        self._stack.close()

    def _do(self, strike: Strike) -> None:
        dependency = self._dependency(strike.kind)
        if strike.kind is Kind.FREEZE:
            # One that has nothing in hand, or waits for a dependency, would show nothing.
            self._world.wait()
            self._next_row()
        elif dependency is None:
            wait_until(lambda: self._flow.running, _FIRST, what="the next start of the flow")
        began = time.monotonic()
        self._note(strike, "begins")
        self._actions()[strike.kind](strike)
        if not strike.settle:
            self.hits.append(Hit(strike.kind))
            return
        if dependency is not None:
            dependency.wait()
        repaired = began if dependency is None else dependency.repaired
        stored = self._next_row()
        self.hits.append(Hit(strike.kind, stored - began, max(0.0, stored - repaired)))
        self._note(strike, "is over")

    def _next_row(self) -> float:
        time.sleep(_SEEN)
        return self._watch.next_row(self._watch.rows, _LIMIT, self._world.check)

    def _dependency(self, kind: Kind) -> Dependency | None:
        world = self._world
        by_name = {"broker": world.broker, "Postgres": world.database, "model": world.model}
        return by_name.get(kind.split()[-1])

    def _actions(self) -> dict[Kind, Callable[[Strike], None]]:
        world = self._world
        return {
            Kind.KILL: lambda _: self._flow.signal(SIGKILL),
            Kind.KILL_ONE: lambda strike: self._flow.signal(SIGKILL, which=strike.which),
            Kind.TERMINATE: lambda _: self._flow.signal(SIGTERM),
            Kind.FREEZE: self._freeze,
            Kind.LOSE: self._lose_recovery,
            Kind.CLOCK: lambda strike: self._flow.move_clock(strike.ahead, which=strike.which),
            Kind.KILL_BROKER: lambda strike: world.broker.kill(strike.seconds),
            Kind.KILL_DATABASE: lambda strike: world.database.kill(strike.seconds),
            Kind.KILL_MODEL: lambda strike: world.model.kill(strike.seconds),
            Kind.PAUSE_BROKER: lambda strike: world.broker.pause(strike.seconds),
            Kind.PAUSE_DATABASE: lambda strike: world.database.pause(strike.seconds),
            Kind.PAUSE_MODEL: lambda strike: world.model.pause(strike.seconds),
            Kind.CUT_BROKER: lambda strike: world.broker.cut(strike.cut, strike.seconds),
            Kind.CUT_DATABASE: lambda strike: world.database.cut(strike.cut, strike.seconds),
            Kind.CUT_MODEL: lambda strike: world.model.cut(strike.cut, strike.seconds),
        }

    def _lose_recovery(self, strike: Strike) -> None:
        with self._flow.down(SIGTERM if strike.gracefully else SIGKILL):
            shutil.rmtree(self._flow.recovery)
            make_recovery(self._flow.recovery.parent)

    def _freeze(self, strike: Strike) -> None:
        """A host that hangs and comes back: its flow must not write beside the one in its place."""
        zombie = self._flow
        zombie.freeze()
        if strike.severed:
            self._world.database.wait()
            query(self._database_url, _SEVER, WATCH)
        replacement = self._hire(None if strike.fresh else zombie.recovery)
        self._stack.enter_context(replacement)
        time.sleep(strike.seconds)
        zombie.thaw()
        time.sleep(_SIDE_BY_SIDE)
        if strike.comeback and zombie.running:
            replacement.kill()
            zombie.employ()
        else:
            zombie.kill()
            self._flow = replacement

    def _hire(self, recovery: Path | None) -> Supervisor:
        self._flows += 1
        name = f"flow{self._flows}"
        return Supervisor(
            name,
            self._folder,
            self._variables,
            recovery or make_recovery(self._folder / name),
            self._plan.shapes(self._flows),
            ends=self.ends,
        )

    def _note(self, strike: Strike, what: str) -> None:
        """Write a line between the logs of servers and flows."""
        with (self._folder / "strikes.log").open("a") as log:
            now = time.strftime("%H:%M:%S", time.gmtime())
            log.write(f"{now} {what}: {strike} rows={self._watch.rows}\n")
