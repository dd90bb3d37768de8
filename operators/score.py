"""Score transactions in batches through the model's API, several requests in flight.

The semantics of Flink's asynchronous I/O, built on `stateful_batch`:

- *Batch by backlog.* A free slot takes what is waiting, up to a batch. At low load a transaction
  goes straight through; under load the waiting itself makes the batches.
- *Back-pressure.* The engine has none of its own here, so `on_batch` waits while every slot is
  taken and a whole batch is waiting.
- *In flight is in the snapshot.* After a restart it is sent again. Only messages are kept, as plain
  tuples; they are decoded again.
- *A snapshot may be stale.* Bytewax numbers epochs on from the last that counted, so what a killed
  run saved in one that did not count can be taken for the state of a later start, where its key was
  not saved again. The time in it says from when on the error topic has to be looked through for
  what became of its messages; the database knows its own.

Results come as they are done; order is not promised.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple

import bytewax.operators as op
from bytewax.dataflow import Stream, operator
from bytewax.operators import StatefulBatchLogic

from operators.dead_letters.already_written import ReadBack
from operators.decode import decode_message
from operators.engine.loop import Loop
from operators.engine.positions import Unfinished
from operators.engine.routing import Lanes
from operators.engine.shutdown import Stop
from operators.errors import ScoringError
from operators.model.limiter import PARTIAL_REQUESTS
from operators.model.scorer import Outcome, Scorer
from operators.records import Failure, Message, Received, Scored
from settings import Settings
from telemetry import log

__all__ = ["ScoreOut", "score"]

STATE_VERSION: Final = 1
POLL: Final = timedelta(milliseconds=2)  # in the past it would spin, 1 ms costs more than it gives
REST: Final = 0.002  # seconds that a worker with nothing to read waits for answers at a time
PATIENCE: Final = 0.1  # seconds between looks at the wish to stop, while waiting
DRAIN_SHARE: Final = 0.5  # of the time for a stop; the rest is for the sinks


@dataclass(frozen=True)
class ScoreOut:
    """Streams from {py:obj}`score`."""

    oks: Stream[Scored]
    """Transactions with their predictions."""

    errs: Stream[Failure]
    """Those that the model refuses while it takes others."""


class _Request(NamedTuple):
    items: list[Received]
    task: asyncio.Task[list[Outcome]]


class _Lane(StatefulBatchLogic[Received, Outcome, dict[str, Any]]):
    """The scoring of one worker."""

    def __init__(
        self,
        resume_state: dict[str, Any] | None,
        *,
        key: str,
        alone: bool,
        scorer: Scorer,
        loop: Loop,
        settings: Settings,
        read_back: ReadBack | None,
        unfinished: Unfinished,
        stop: Stop,
    ) -> None:
        state = resume_state or {"lane": key, "messages": [], "taken": 0}
        self._key: str = state["lane"]
        # A lane of another number of workers ends when what it held is durable.
        self._passing = self._key != key
        self._durable = False
        self._alone = alone
        self._unsaved = True
        self._scorer, self._loop, self._unfinished, self._stop = scorer, loop, unfinished, stop
        self._batch_size = settings.batch_size
        self._waiting: deque[Received] = deque()
        self._requests: list[_Request] = []
        self._outcomes: list[Outcome] = []
        self._emitted = False
        self._fed = False
        for message in self._restored(state, read_back):
            decoded = decode_message(message)
            if isinstance(decoded, Received):
                self._waiting.append(decoded)
            else:  # the rules are stricter than when it was read
                self._outcomes.append(decoded)

    def _restored(self, state: dict[str, Any], read_back: ReadBack | None) -> list[Message]:
        messages = [Message(*fields)._replace(restored=True) for fields in state["messages"]]
        if not messages or read_back is None:
            return messages
        for partition in {message.partition_key for message in messages}:
            read_back.resume(partition, state["taken"])
        self._loop.run(read_back.read())
        return [message for message in messages if not read_back.has(message)]

    def on_batch(self, values: list[Received]) -> tuple[list[Outcome], bool]:
        self._fed = True
        self._waiting.extend(values)
        self._advance()
        while len(self._waiting) >= self._batch_size and not self._stop.requested:
            self._wait(PATIENCE)
            self._advance()
        return self._emit()

    def on_notify(self) -> tuple[list[Outcome], bool]:
        if self._loop.busy and not self._fed:
            self._loop.rest(REST)
        self._fed = False
        self._advance()
        return self._emit()

    def on_eof(self) -> tuple[list[Outcome], bool]:
        """Finish what is in hand; when told to stop, only as far as the limit allows.

        The rest is in the snapshot.
        """
        while self._waiting or self._requests:
            hopeless = self._stop.requested and self._scorer.paused
            if hopeless or self._stop.overdue(DRAIN_SHARE):
                self._abandon()
                break
            self._advance(drain=True)
            self._wait(PATIENCE)
            self._advance(drain=True)
        self._loop.run(self._scorer.close())
        return self._emit()

    def notify_at(self) -> datetime | None:
        busy = self._waiting or self._requests or self._outcomes or self._passing
        # The sinks write what was emitted on the same loop, which nothing else may pump while this
        # worker waits for another's epoch: a transaction left open could hold that one up for ever.
        busy = busy or self._emitted or self._loop.busy
        # Bytewax saves the state of keys that were awake. A run that was killed may have left a row
        # of ours in the epoch that this run begins with, which has to be written over even if there
        # is nothing to do: the next start would take it for ours, and score what is in it again.
        busy = busy or self._unsaved
        return datetime.now(UTC) + POLL if busy else None

    def snapshot(self) -> dict[str, Any]:
        held = [*(item for request in self._requests for item in request.items), *self._waiting]
        lowest: dict[str, int] = {}
        for message, _ in held:
            partition = message.partition_key
            lowest[partition] = min(message.offset, lowest.get(partition, message.offset))
        self._unfinished.replace(self._key, lowest)
        if not self._alone:
            self._loop.pace.closed_by_all()
        self._durable = not held
        self._unsaved = False
        return {
            "version": STATE_VERSION,
            "lane": self._key,
            "taken": round(time.time() * 1000),
            "messages": [tuple(message) for message, _ in held],
        }

    def _emit(self) -> tuple[list[Outcome], bool]:
        outcomes, self._outcomes = self._outcomes, []
        self._emitted = bool(outcomes)
        return outcomes, self._passing and self._durable

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

    def _wait(self, seconds: float) -> None:
        if self._requests:
            self._loop.wait_any([request.task for request in self._requests], seconds)

    def _result(self, request: _Request) -> list[Outcome]:
        try:
            return request.task.result()
        except ScoringError as error:
            # In a cluster the traceback of a worker does not reach the terminal.
            log.error("score.stopped", error=str(error))
            self._cancel()
            self._loop.run(self._scorer.close())
            raise

    def _abandon(self) -> None:
        left = len(self._waiting) + sum(len(request.items) for request in self._requests)
        log.warning("score.interrupted", unfinished=left)
        self._cancel()

    def _cancel(self) -> None:
        for request in self._requests:
            request.task.cancel()
        self._loop.pump()


def _in_lane(here: Callable[[], str], batch: list[Received]) -> list[tuple[str, Received]]:
    lane = here()
    return [(lane, item) for item in batch]


def _out_of_lane(batch: list[tuple[str, Outcome]]) -> list[Outcome]:
    return [outcome for _, outcome in batch]


def _is_scored(outcome: Outcome) -> bool:
    return isinstance(outcome, Scored)


@operator
def score(
    step_id: str,
    up: Stream[Received],
    *,
    settings: Settings,
    loops: Callable[[], Loop],
    read_backs: Callable[[], ReadBack] | None,
    unfinished: Unfinished,
    stop: Stop,
) -> ScoreOut:
    """Score transactions in batches through the model's API.

    :arg step_id: Unique ID.

    :arg up: Valid transactions.

    :arg settings: The API, the size of batches, the number of requests in flight for each worker.

    :arg loops: Gives the calling worker's loop.

    :arg read_backs: Gives what the calling worker reads back from the error topic; None if failures
        do not go there.

    :arg unfinished: Told at the end of every epoch what is still in hand.

    :arg stop: When requested, no more is taken in than fits; see `Stop`.

    :returns: Transactions with predictions, and failures.

    :raises ScoringError: The API fails in a way that is not the fault of one transaction.

    """
    lanes = Lanes()

    def build(resume_state: dict[str, Any] | None) -> _Lane:
        return _Lane(
            resume_state,
            key=lanes.here(),
            alone=lanes.workers == 1,
            scorer=Scorer(settings),
            loop=loops(),
            settings=settings,
            read_back=read_backs() if read_backs else None,
            unfinished=unfinished,
            stop=stop,
        )

    op.input("lanes", up.flow(), lanes)
    in_lanes = op.flat_map_batch("lane", up, partial(_in_lane, lanes.here))
    outcomes = op.flat_map_batch("outcome", op.stateful_batch("api", in_lanes, build), _out_of_lane)
    branches = op.branch("scored", outcomes, _is_scored)
    return ScoreOut(oks=branches.trues, errs=branches.falses)  # type: ignore[arg-type]
