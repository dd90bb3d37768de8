"""A circuit breaker: a service that is down is asked by one request at a time.

    closed ──FAILURES failures in a row──> open ──pause is over──> half-open
      ^                                     ^                        │   │
      │                                     └──────the one fails─────┘   │
      └──────────────────────────the one succeeds────────────────────────┘

- *Closed*: requests go. A success ends a row of failures.
- *Open*: requests wait, first come first served. Each pause is longer than the one before, up to a
  limit; see `Backoff`.
- *Half-open*: the request that has waited longest goes, as the probe; the others go on waiting. If
  it fails it is last in the row when it comes again, so that one bad request cannot be every probe.

A request that was sent before the breaker opened, and succeeds while it is open, closes it too.
After that each success lets two of the waiting requests go, so that the service is not overrun as
it comes back.

The pattern is M. Nygard's, Release It! (2007); unlike the classical one it makes callers wait and
not fail.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Literal

from operators.backoff import Backoff
from operators.model.errors import UnavailableError
from telemetry import blame, log, move_breaker

__all__ = ["FAILURES", "Breaker"]

FAILURES: Final = 5  # in a row

State = Literal["closed", "open", "half-open"]


class Breaker:
    """A circuit breaker for the requests of one asyncio loop.

    :arg name: Of the service, for the log.

    :arg on_open: Called whenever it opens.

    :arg backoff: How long each pause is.

    """

    def __init__(
        self, name: str, *, on_open: Callable[[], None], backoff: Backoff, failures: int = FAILURES
    ) -> None:
        self._name, self._on_open = name, on_open
        self._backoff, self._most = backoff, failures
        self._state: State = "closed"
        move_breaker(None, self._state)
        self._failures = 0
        self._pauses = 0
        self._opened = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._due = False
        self._closed = False

    @property
    def state(self) -> State:
        """Whether requests go."""
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        move_breaker(self._state, state)
        self._state = state

    @asynccontextmanager
    async def request(self, *, wait: bool = True) -> AsyncIterator[None]:
        """Send one request in the body, as soon as it may go.

        An `UnavailableError` out of the body is a failure, its end a success. Any other exception
        says that an answer came: that closes an open breaker, but ends no row of failures.

        :arg wait: Whether to wait while the breaker is open; if not, the request goes at once, and
            is only counted.

        """
        if wait:
            await self._admit()
        try:
            yield
        except UnavailableError as error:
            self._failed(error)
            raise
        except asyncio.CancelledError:
            self._withdrawn()
            raise
        except BaseException:
            self._answered()
            raise
        else:
            self._failures = 0
            self._answered()

    def close(self) -> None:
        """End its work."""
        self._cancel()
        self.state = "closed"
        if not self._closed:
            self._closed = True
            move_breaker("closed", None)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def _admit(self) -> None:
        if self.state == "closed":
            return
        if self._due:
            self._due = False
            self.state = "half-open"
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._withdrawn()  # it was our turn already
            raise

    def _answered(self) -> None:
        if self.state != "closed":
            self._cancel()
            self.state, self._failures, self._pauses, self._due = "closed", 0, 0, False
            seconds = round(time.monotonic() - self._opened, 1)
            log.warning("breaker.closed", service=self._name, open_seconds=seconds)
        self._wake(2)

    def _failed(self, error: UnavailableError) -> None:
        self._failures += 1
        if self.state == "open":
            return
        if self.state == "closed":
            if self._failures < self._most:
                self._wake(1)
                return
            self._opened = time.monotonic()
        self._open(error)

    def _open(self, error: UnavailableError) -> None:
        self.state = "open"
        blame(str(error))
        self._on_open()
        self._pauses += 1
        pause = max(error.after, self._backoff.pause(self._pauses))
        log.warning(
            "breaker.open",
            service=self._name,
            reason=str(error),
            pause=round(pause, 2),
            requests_waiting=len(self._waiting),
            open_seconds=round(time.monotonic() - self._opened, 1),
        )
        self._timer = asyncio.get_running_loop().call_later(pause, self._probe)

    def _probe(self) -> None:
        """Let one request go: the first that waits, or the next that comes."""
        if self._wake(1):
            self.state = "half-open"
        else:
            self._due = True

    def _withdrawn(self) -> None:
        """A request was cancelled: if it was the probe, the next one is."""
        if self.state == "half-open":
            self.state = "open"
            self._probe()
        elif self.state == "closed":
            self._wake(1)

    def _wake(self, number: int) -> int:
        woken = 0
        while self._waiting and woken < number:
            turn = self._waiting.popleft()
            if not turn.done():  # cancelled
                turn.set_result(None)
                woken += 1
        return woken
