"""Say once that brokers cannot be reached, and once that they answer again.

A client tries again many times a second, and tells of each attempt.
"""

import time
from typing import Final

from confluent_kafka import KafkaError

from telemetry import log, metrics

__all__ = ["Outage"]

QUIET: Final = 15.0  # seconds without an error, longer than a client's pause between attempts
UNREACHABLE: Final = {
    KafkaError._TRANSPORT,  # noqa: SLF001 - librdkafka's own codes begin so
    KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
    KafkaError._RESOLVE,  # noqa: SLF001
    KafkaError._TIMED_OUT,  # noqa: SLF001
}


class Outage:
    """Of the brokers, as one worker sees it; one of several counts."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._last = 0.0

    def error(self, error: KafkaError) -> None:
        """Note what the client says."""
        if error.code() not in UNREACHABLE:
            log.warning("source.error", error=error.str())
            return
        self._last = time.monotonic()
        if self._began is None:
            self._began = self._last
            metrics.CONNECTION_LOSSES.labels("kafka").inc()
            reason = "a broker cannot be reached; it is tried again until it answers"
            log.warning("source.error", error=error.str(), reason=reason)

    def answered(self) -> None:
        """Note that a broker has answered."""
        if self._began is not None and time.monotonic() - self._last > QUIET:
            log.info("source.reconnected", seconds=round(self._last - self._began, 1))
            self._began = None
