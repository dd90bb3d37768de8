"""Score what a worker reads in batches, several requests in flight.

The semantics of Flink's asynchronous I/O. A free request takes what is waiting, up to a batch: at
low load a transaction goes straight through, under load the waiting itself makes the batches.

Nothing here has a limit or a state to be saved. The source bounds what is in hand, and what was in
flight when a run ended is read again. Results come as they are done; order is not promised.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from bytewax.operators import StatefulBatchLogic

from operators.engine.epochs import EpochPacer
from operators.engine.loop import EventLoop
from operators.engine.shutdown import Stop
from operators.errors import bug, fatal
from operators.model.limiter import PARTIAL_REQUESTS
from operators.model.scorer import Outcome, Scorer
from operators.records import Failure, Received, Scored

__all__ = ["AsyncBatcher", "Outcomes"]

POLL: Final = timedelta(milliseconds=2)  # in the past it would spin, 1 ms costs more than it gives
REST: Final = 0.002  # seconds that a worker with nothing to read waits for answers at a time
WAIT: Final = 0.1  # seconds between looks at the wish to stop, at the end of the stream

Outcomes = list[Scored] | list[Failure]
"""Of one kind, and never empty."""


class _Request(NamedTuple):
    items: list[Received]
    task: asyncio.Task[list[Outcome]]


class AsyncBatcher(StatefulBatchLogic[Sequence[Received], Outcomes, None]):
    """The scoring of one worker.

    :arg pacer: Notified when every worker has closed an epoch; None if there is one worker.

    :arg batch_size: Most transactions in one request.

    """

    def __init__(
        self,
        *,
        scorer: Scorer,
        loop: EventLoop,
        pacer: EpochPacer | None,
        batch_size: int,
        stop: Stop,
    ) -> None:
        self._scorer, self._loop, self._pacer, self._stop = scorer, loop, pacer, stop
        self._batch_size = batch_size
        self._waiting: deque[Received] = deque()
        self._requests: list[_Request] = []
        self._outcomes: list[Outcome] = []
        self._emitted = self._fed = self._is_used = False

    def on_batch(self, values: list[Sequence[Received]]) -> tuple[list[Outcomes], bool]:
        """Take transactions; what is done meanwhile is given."""
        self._fed = self._is_used = True
        for items in values:
            self._waiting.extend(items)
        self._advance()
        return self._emit()

    def on_notify(self) -> tuple[list[Outcomes], bool]:
        """Give what is done."""
        if self._loop.is_busy and not self._fed:
            self._loop.rest(REST)
        self._fed = False
        self._advance()
        return self._emit()

    def on_eof(self) -> tuple[list[Outcomes], bool]:
        """Finish what is in hand, unless a stop has no time for it."""
        while self._waiting or self._requests:
            if self._stop.gives_up(self._scorer.paused):
                self._cancel()
                break
            self._advance(drain=True)
            if self._requests:
                self._loop.wait_any([request.task for request in self._requests], WAIT)
        self._advance()
        self._loop.run(self._scorer.close())
        return self._emit()

    def notify_at(self) -> datetime | None:
        """Soon, as long as something is going on."""
        if not self._is_used:  # it is of a key that another number of workers had
            return None
        # The sinks write what was emitted on the same loop, which nothing else may run while this
        # worker waits for another's epoch.
        busy = self._waiting or self._requests or self._outcomes or self._emitted
        return datetime.now(UTC) + POLL if busy or self._loop.is_busy else None

    def snapshot(self) -> None:
        """Nothing is saved: what is in hand will be read again."""
        if self._pacer is not None:
            self._pacer.closed_by_all()

    def _emit(self) -> tuple[list[Outcomes], bool]:
        outcomes, self._outcomes = self._outcomes, []
        self._emitted = bool(outcomes)
        scored = [each for each in outcomes if isinstance(each, Scored)]
        failed = [each for each in outcomes if isinstance(each, Failure)]
        given: list[Outcomes] = []
        if scored:
            given.append(scored)
        if failed:
            given.append(failed)
        return given, False

    def _advance(self, *, drain: bool = False) -> None:
        self._loop.pump()
        running = []
        for request in self._requests:
            if request.task.done():
                self._outcomes.extend(self._result(request))
            else:
                running.append(request)
        self._requests = running
        self._send(drain=drain)

    def _send(self, *, drain: bool) -> None:
        sent = False
        while self._waiting and len(self._requests) < self._scorer.limit:
            full = len(self._waiting) >= self._batch_size
            if not full and not drain and len(self._requests) >= PARTIAL_REQUESTS:
                break
            size = min(self._batch_size, len(self._waiting))
            items = [self._waiting.popleft() for _ in range(size)]
            self._requests.append(_Request(items, self._loop.spawn(self._scorer.score(items))))
            sent = True
        if sent:
            self._loop.pump()

    def _result(self, request: _Request) -> list[Outcome]:
        try:
            return request.task.result()
        except Exception as error:  # noqa: BLE001 - it is told where, and raised
            self._cancel()
            self._loop.run(self._scorer.close())
            first = request.items[0].message
            doing = f"scoring {len(request.items)} messages from there on"
            raise fatal(bug(error, doing, first.partition_key, first.offset)) from None

    def _cancel(self) -> None:
        for request in self._requests:
            request.task.cancel()
        self._requests.clear()
        self._waiting.clear()
        self._loop.pump()
