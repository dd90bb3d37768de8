"""Whether this process goes on, and whether it does its work.

*Live* asks whether to end it: a worker that gives no sign of life, or a cluster that does not come
together. It connects to nothing, and a stream that waits for a service is alive. *Ready* asks
whether it works: dependencies found, partitions assigned, epochs ending, messages being finished,
no end asked for. It also says what is being waited for: the model, the database.
"""

import time
from datetime import timedelta
from typing import Any

from telemetry.breakers import breaker_reason, breakers
from telemetry.progress import Progress
from telemetry.waiting import waiting_for_database
from telemetry.worker import workers

__all__ = ["Health"]


class Health:
    """The health of this process.

    :arg progress: Knows partitions and epochs.

    :arg workers: Threads of this process that will be workers.

    :arg live_timeout: How long a worker may give no sign of life, and a cluster may come together.

    :arg epoch_timeout: How long ago the last epoch may have ended, and the last message have been
        finished while there are some in hand.

    """

    def __init__(
        self,
        progress: Progress,
        *,
        workers: int,
        live_timeout: timedelta,
        epoch_timeout: timedelta,
    ) -> None:
        self._progress, self._workers = progress, workers
        self._live_timeout = live_timeout.total_seconds()
        self._epoch_timeout = epoch_timeout.total_seconds()
        self._started = time.monotonic()
        self._dependencies: list[str] = []
        self._stopping = False

    def dependencies_answered(self, names: list[str]) -> None:
        """Note that everything the stream needs was there at its start.

        :arg names: Of what answered.

        """
        self._dependencies = names

    def stopping(self) -> None:
        """Note that the end was asked for; may be called from a signal handler."""
        self._stopping = True

    def live(self) -> tuple[bool, dict[str, Any]]:
        """Whether to let it go on, and why not."""
        now = time.monotonic()
        assigned, expected = self._partitions()
        if expected is None or assigned < expected:
            seconds = now - self._started
            if seconds > self._live_timeout:
                return False, _no(f"not assembled after {seconds:.0f} s")
            return True, {"status": "assembling"}
        topic = self._progress.partitions or 0
        # A worker without partitions has nothing to call it. Of the others, one that hangs ends no
        # epoch, and so silences all; one that waits knowingly may silence the rest, and is alive.
        signs = [now - worker.beat for worker in workers() if worker.index < topic]
        if signs and min(signs) > self._live_timeout:
            return False, _no(f"no sign of life of a worker for {min(signs):.0f} s")
        return True, {"status": "ok"}

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether it works, and the state of each part."""
        assigned, expected = self._partitions()
        states = breakers()
        model_down = states["open"] + states["half-open"] > 0
        waiting = waiting_for_database()
        epoch_age, done_age = self._progress.epoch_age(), self._progress.done_age()
        parts: dict[str, dict[str, Any]] = {
            "dependencies": {"ok": bool(self._dependencies), "answered": self._dependencies},
            "partitions": {
                "ok": expected is not None and assigned >= expected,
                "assigned": assigned,
                "expected": expected,
            },
            "epoch": {
                "ok": self._is_recent(epoch_age),
                "seconds_since_end": _rounded(epoch_age),
                "limit_seconds": self._epoch_timeout,
            },
            "done": {
                # While the model is down nothing is, which the breaker tells.
                "ok": self._is_recent(done_age) or model_down,
                "seconds_since_last": _rounded(done_age),
                "limit_seconds": self._epoch_timeout,
            },
            "breaker": {
                "ok": True,
                "degraded": model_down,
                "reason": breaker_reason(),
                "workers": states,
            },
            "database": {"ok": True, "degraded": waiting is not None} | _told(waiting),
        }
        if self._stopping:
            return False, {"status": "stopping", "parts": parts}
        ok = all(part["ok"] for part in parts.values())
        status = "not ready" if not ok else "degraded" if model_down or waiting else "ok"
        return ok, {"status": status, "parts": parts}

    def _is_recent(self, age: float | None) -> bool:
        return age is None or age <= self._epoch_timeout

    def _partitions(self) -> tuple[int, int | None]:
        """Those that are assigned here, and those that will be; None if that is not known yet."""
        topic, here = self._progress.partitions, workers()
        if topic is None or len(here) < self._workers:
            return self._progress.assigned, None
        # Bytewax deals partitions to workers like cards.
        expected = sum(len(range(worker.index, topic, worker.count)) for worker in here)
        return self._progress.assigned, expected


def _told(waiting: tuple[str, float] | None) -> dict[str, Any]:
    if waiting is None:
        return {}
    reason, seconds = waiting
    return {"reason": reason, "seconds": round(seconds, 1)}


def _rounded(age: float | None) -> float | None:
    return None if age is None else round(age, 1)


def _no(reason: str) -> dict[str, Any]:
    return {"status": "not live", "reason": reason}
