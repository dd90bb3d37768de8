"""Do what the plan says, and see how long it takes until the streams store again."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Final

from lab.servers import wait_until
from tests.chaos.plan import SHAPES, Kind, Plan, Shape, Strike
from tests.chaos.stream import Stream
from tests.chaos.supervisor import Supervisor
from tests.chaos.world import Dependency, World
from tests.kit.recovery import make_recovery

__all__ = ["Hit", "Strikes"]

_FIRST: Final = timedelta(seconds=30)
_SIDE_BY_SIDE: Final = 3.0
"""Seconds for which a flow that was frozen runs beside its replacement."""

_SEEN: Final = 0.2
"""Seconds until the watch has seen what was stored before."""


@dataclass(frozen=True)
class Hit:
    """A strike, and how long it took until every stream that it meets has stored the next row."""

    strike: Strike
    from_strike: float | None = None
    """Seconds; None if the next strike came first."""
    from_repair: float | None = None
    """Seconds since what the stream depends on was there again."""


class Strikes:
    """Streams under attack.

    :arg world: The servers.

    :arg streams: All run.

    :arg log: Where each strike is written down.

    """

    def __init__(self, world: World, streams: Sequence[Stream], log: Path) -> None:
        self._world, self._streams, self._log = world, streams, log
        self.hits: list[Hit] = []

    def run(self, plan: Plan) -> None:
        """Do all that is planned.

        :raises StalledError: A stream does not come back.

        """
        _next_rows(self._streams)
        for strike in plan.strikes:
            time.sleep(strike.pause)
            self._do(strike)
        self._world.wait()

    def _do(self, strike: Strike) -> None:
        dependency = self._dependency(strike.kind)
        stream = self._streams[strike.stream % len(self._streams)]
        if strike.kind is Kind.FREEZE:
            # One that has nothing in hand, or waits for a dependency, would show nothing.
            self._world.wait()
            _next_rows([stream])
        elif dependency is None:
            wait_until(lambda: stream.flow.running, _FIRST, what="the next start of the flow")
        began = time.monotonic()
        self._note(strike, "begins")
        self._actions()[strike.kind](strike, stream)
        if dependency is not None and strike.loses:
            time.sleep(strike.seconds / 2)  # so much is in flight by then
            _end(strike, stream.flow)
        if not strike.settle:
            self.hits.append(Hit(strike))
            return
        if dependency is not None:
            dependency.wait()
        repaired = began if dependency is None else dependency.repaired
        stored = _next_rows([stream] if dependency is None else self._streams)
        self.hits.append(Hit(strike, stored - began, max(0.0, stored - repaired)))
        self._note(strike, "is over")

    def _dependency(self, kind: Kind) -> Dependency | None:
        world = self._world
        by_name = {"broker": world.broker, "Postgres": world.database, "model": world.model}
        return by_name.get(kind.dependency or "")

    def _actions(self) -> dict[Kind, Callable[[Strike, Stream], None]]:
        world = self._world
        return {
            Kind.KILL: lambda _, stream: stream.flow.signal(SIGKILL),
            Kind.KILL_ONE: lambda strike, stream: stream.flow.signal(SIGKILL, which=strike.which),
            Kind.TERMINATE: lambda _, stream: stream.flow.signal(SIGTERM),
            Kind.FREEZE: self._freeze,
            Kind.LOSE: lambda strike, stream: _end(strike, stream.flow),
            Kind.RESIZE: lambda strike, stream: _end(
                strike, stream.flow, then=_other(stream.flow.shape, strike)
            ),
            Kind.CLOCK: lambda strike, stream: stream.flow.move_clock(
                strike.ahead, which=strike.which
            ),
            Kind.KILL_BROKER: lambda strike, _: world.broker.kill(strike.seconds),
            Kind.KILL_DATABASE: lambda strike, _: world.database.kill(strike.seconds),
            Kind.KILL_MODEL: lambda strike, _: world.model.kill(strike.seconds),
            Kind.PAUSE_BROKER: lambda strike, _: world.broker.pause(strike.seconds),
            Kind.PAUSE_DATABASE: lambda strike, _: world.database.pause(strike.seconds),
            Kind.PAUSE_MODEL: lambda strike, _: world.model.pause(strike.seconds),
            Kind.CUT_BROKER: lambda strike, _: world.broker.cut(strike.cut, strike.seconds),
            Kind.CUT_DATABASE: lambda strike, _: world.database.cut(strike.cut, strike.seconds),
            Kind.CUT_MODEL: lambda strike, _: world.model.cut(strike.cut, strike.seconds),
            Kind.SICKEN_MODEL: lambda strike, _: world.sicken_model(strike.code, strike.seconds),
        }

    def _freeze(self, strike: Strike, stream: Stream) -> None:
        """A host that hangs and comes back: its flow must not write beside the one in its place."""
        zombie = stream.flow
        zombie.freeze()
        if strike.severed:
            self._world.database.wait()
            stream.sever()
        replacement = stream.hire(
            _other(zombie.shape, strike), None if strike.fresh else zombie.recovery
        )
        time.sleep(strike.seconds)
        zombie.thaw()
        time.sleep(_SIDE_BY_SIDE)
        if strike.comeback and zombie.running:
            replacement.kill()
            zombie.employ()
        else:
            zombie.kill()
            stream.flow = replacement

    def _note(self, strike: Strike, what: str) -> None:
        """Write a line between the logs of servers and flows."""
        with self._log.open("a") as log:
            now = time.strftime("%H:%M:%S", time.gmtime())
            rows = [stream.rows for stream in self._streams]
            log.write(f"{now} {what}: {strike!r} rows={rows}\n")


def _next_rows(streams: Sequence[Stream]) -> float:
    time.sleep(_SEEN)
    before = [stream.rows for stream in streams]
    return max(stream.next_row(rows) for stream, rows in zip(streams, before, strict=True))


def _end(strike: Strike, flow: Supervisor, *, then: Shape | None = None) -> None:
    """End a flow, which is then run again, maybe in another shape or without its snapshots."""
    with flow.down(SIGTERM if strike.gracefully else SIGKILL):
        flow.shape = then or flow.shape
        if strike.loses:
            shutil.rmtree(flow.recovery)
            make_recovery(flow.recovery.parent)


def _other(shape: Shape, strike: Strike) -> Shape:
    return SHAPES[(SHAPES.index(shape) + strike.step) % len(SHAPES)]
