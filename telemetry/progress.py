"""What this process has done: counted once, shown in the log and as metrics."""

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from telemetry import metrics
from telemetry.logs import log

__all__ = ["LATEST_FAILURES", "FailureNote", "Progress"]

REPORT_MESSAGES: Final = 100
REPORT_SECONDS: Final = 1.0
LATEST_FAILURES: Final = 20  # that are kept, to be shown
COUNTERS: Final = {
    "messages": metrics.MESSAGES_READ,
    "stored": metrics.STORED,
    "duplicates": metrics.DUPLICATES,
    "failed": metrics.DEAD_LETTERS,
    "skipped": metrics.SKIPPED,
}


class FailureNote(NamedTuple):
    """Which message failed and why; nothing of what was in it."""

    stage: str
    disposition: str
    code: str
    partition: int
    offset: int


class Progress:
    """What this process has done since it started.

    A line is logged after every 100 messages, and at most one a second. Workers are threads, so
    everything here is behind one lock, taken once a batch.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._lags: dict[int, int] = {}
        self._epochs: dict[int, float] = {}
        self._moved: dict[int | None, float] = {}
        self._failures: deque[tuple[float, FailureNote]] = deque(maxlen=LATEST_FAILURES)
        self.partitions: int | None = None
        """Of the topic; None until that is known."""
        self._started = self._reported = time.monotonic()
        self._reported_messages = 0

    def count(self, what: str, number: int, **labels: str | int) -> None:
        """Add to a count, and to its metric.

        :arg what: `messages`, `stored`, `duplicates`, `failed` or `skipped`.

        :arg number: How many more.

        :arg labels: Of the metric.

        """
        counter = COUNTERS[what]
        (counter.labels(**labels) if labels else counter).inc(number)
        with self._lock:
            self._counts[what] += number

    def note_failures(self, failures: Sequence[FailureNote]) -> None:
        """Keep the latest failures that the error topic has acknowledged, to be shown.

        :arg failures: In their order.

        """
        now = time.time()
        with self._lock:
            self._failures.extend((now, failure) for failure in failures)

    def latest_failures(self) -> list[dict[str, Any]]:
        """Those, and when they were acknowledged (seconds since 1970); the latest is first."""
        with self._lock:
            latest = list(self._failures)
        return [{"time": at, **failure._asdict()} for at, failure in reversed(latest)]

    def lag(self, partition: int, messages: int) -> None:
        """Note how many messages of a partition are still to be read."""
        metrics.LAG.labels(partition).set(messages)
        with self._lock:
            self._lags[partition] = messages

    def committed(self, arrivals: Iterable[int]) -> None:
        """Note that rows are committed now.

        :arg arrivals: Timestamps of their messages in milliseconds since 1970; -1 is none.

        """
        now = time.time()
        metrics.ARRIVAL_TO_COMMIT.observe(
            [now - arrival / 1000 for arrival in arrivals if arrival >= 0]
        )

    def assign(self, partition: int) -> None:
        """Note that a partition is read by this process; its first epoch begins."""
        # An alert that asks for series which are not there yet is silent.
        metrics.MESSAGES_READ.labels(partition)
        metrics.SKIPPED.labels(partition)
        metrics.HIDDEN.labels(partition)
        metrics.EPOCH_END.labels(partition).set_to_current_time()
        with self._lock:
            self._epochs[partition] = time.monotonic()

    @property
    def assigned(self) -> int:
        """How many partitions this process reads."""
        with self._lock:
            return len(self._epochs)

    def epoch_age(self) -> float | None:
        """Seconds since the last epoch ended, of the partition where that is longest ago."""
        with self._lock:
            return time.monotonic() - min(self._epochs.values()) if self._epochs else None

    def epoch_ended(self, partition: int) -> None:
        """Note that an epoch has ended on every worker, as a partition of the source sees it."""
        now = time.monotonic()
        with self._lock:
            before, self._epochs[partition] = self._epochs.get(partition, now), now
        metrics.EPOCH_DURATION.observe(now - before)
        metrics.EPOCH_END.labels(partition).set_to_current_time()

    def in_hand(self, worker: int | None, messages: int, *, moves: bool) -> None:
        """Note what a worker has read and not finished.

        :arg worker: Its index.

        :arg messages: How many.

        :arg moves: Whether one was finished lately, or there are none.

        """
        metrics.IN_HAND.labels(worker).set(messages)
        if moves:
            metrics.DONE_TIME.labels(worker).set_to_current_time()
            with self._lock:
                self._moved[worker] = time.monotonic()

    def done_age(self) -> float | None:
        """Seconds since a message was finished, of the worker where that is longest ago.

        One that has nothing in hand counts as one that has just finished a message.
        """
        with self._lock:
            return time.monotonic() - min(self._moved.values()) if self._moved else None

    def totals(self) -> dict[str, Any]:
        """All counts since the start, and what is still to be read."""
        with self._lock:
            return self._fields()

    def report(self) -> None:
        """Log a line if it is time for one."""
        with self._lock:
            now = time.monotonic()
            new = self._counts["messages"] - self._reported_messages
            since = now - self._reported
            if new < REPORT_MESSAGES or since < REPORT_SECONDS:
                return
            self._reported, self._reported_messages = now, self._counts["messages"]
            fields = self._fields() | {"rate": round(new / since, 1)}
        log.info("progress", **fields)

    def finish(self, event: str) -> None:
        """Log the last line: totals, and the mean rate over the whole run.

        :arg event: How the run ended.

        """
        with self._lock:
            seconds = time.monotonic() - self._started
            rate = round(self._counts["messages"] / seconds, 1)
            fields = self._fields() | {"rate": rate, "seconds": round(seconds, 1)}
        log.info(event, **fields)

    def _fields(self) -> dict[str, Any]:
        counts = {
            name: self._counts[name] for name in ("messages", "stored", "duplicates", "failed")
        }
        if self._counts["skipped"]:  # only where that was wanted
            counts["skipped"] = self._counts["skipped"]
        return counts | {"lag": sum(self._lags.values())}
