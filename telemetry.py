"""Logs, progress and metrics: set up here, used by name elsewhere.

Metrics are in prometheus_client's registry, which Bytewax's web server shows at `/metrics`.
"""

import logging
import logging.config
import sys
import threading
import time
from collections import Counter
from typing import Any, Final

import structlog
from prometheus_client import Counter as PrometheusCounter
from prometheus_client import Gauge

__all__ = ["MODELS_DOWN", "REQUESTS", "REQUESTS_IN_FLIGHT", "Progress", "log", "log_to_stderr"]

REPORT_MESSAGES: Final = 100
REPORT_SECONDS: Final = 1.0

MODELS_DOWN: Final = Gauge(
    "fraud_model_down", "Workers of this process for which the model is down: breaker not closed"
)
REQUESTS_IN_FLIGHT: Final = Gauge(
    "fraud_model_requests_in_flight", "Requests to the model without an answer yet"
)
REQUESTS: Final = PrometheusCounter(
    "fraud_model_requests", "Requests to the model, by outcome", ["outcome"]
)

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger("fraud")


def log_to_stderr(log_format: str, level: str) -> None:
    """Send this project's and its libraries' logs to standard error.

    :arg log_format: `text` for people, `json` for collectors: one object a line.

    :arg level: Lowest level that is shown.

    """
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "structured": {
                    "()": structlog.stdlib.ProcessorFormatter,
                    "processors": [
                        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                        renderer,
                    ],
                    "foreign_pre_chain": shared,
                }
            },
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "structured"}},
            "root": {"handlers": ["stderr"], "level": "WARNING"},
            "filters": {"no_chatter": {"()": lambda: _is_no_chatter}},
            "loggers": {"fraud": {"level": level}, "kafka": {"filters": ["no_chatter"]}},
        }
    )


def _is_no_chatter(record: logging.LogRecord) -> bool:
    # KAFKA_PROPERTIES go to consumers and producers alike, and each names those of the other.
    return "CONFWARN" not in record.getMessage()


class Progress:
    """What this process has done since it started.

    A line is logged after every 100 messages, and at most one a second. Workers are threads, so
    everything here is behind one lock, taken once a batch.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._lags: dict[str, int] = {}
        self._started = self._reported = time.monotonic()
        self._reported_messages = 0

    def count(self, what: str, number: int) -> None:
        """Add to a count.

        :arg what: `messages`, `stored`, `duplicates`, `failed` or `skipped`.

        :arg number: How many more.

        """
        with self._lock:
            self._counts[what] += number

    def lag(self, partition: str, messages: int) -> None:
        """Note how many messages of a partition are still to be read."""
        with self._lock:
            self._lags[partition] = messages

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
