"""Logs of the stream and its libraries, on standard error."""

import logging
import logging.config
import re
import sys
from contextvars import ContextVar
from typing import Final

import structlog

from telemetry.worker import worker_index

__all__ = ["TRACE_ID", "log", "log_to_stderr"]

TRACE_ID: Final[ContextVar[str | None]] = ContextVar("trace_id", default=None)
"""Of the trace that is going on, where tracing is on."""

CHATTER: Final = re.compile(
    r"CONFWARN|FAIL \[|ERROR \[.*(brokers are down|Connect to|Disconnected|Failed to resolve)"
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
        _add_context,
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


def _add_context(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    worker, trace_id = worker_index(), TRACE_ID.get()
    if worker is not None:
        event.setdefault("worker", worker)
    if trace_id is not None:
        event["trace_id"] = trace_id
    return event


def _is_no_chatter(record: logging.LogRecord) -> bool:
    # KAFKA_PROPERTIES go to consumers and producers alike, and each names those of the other.
    # Of each attempt to reach a broker that is away a client tells twenty times a second: who
    # needs the broker says so.
    return not CHATTER.match(record.getMessage())
