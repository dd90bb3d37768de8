"""Logs, progress, metrics, traces and health: set up here, used by name elsewhere.

Metrics are in prometheus_client's registry; `docs/metrics.md` has a table of all, which a test
compares with the registry.
"""

from telemetry import metrics, tracing
from telemetry.breakers import blame, move_breaker
from telemetry.health import Health
from telemetry.logs import TRACE_ID, log, log_to_stderr
from telemetry.predictions import count_predictions
from telemetry.progress import LATEST_FAILURES, FailureNote, Progress
from telemetry.server import Response, Route, routes, serve
from telemetry.status import status_routes
from telemetry.waiting import database_waits
from telemetry.worker import beat, name_worker, worker_index

__all__ = [
    "LATEST_FAILURES",
    "TRACE_ID",
    "FailureNote",
    "Health",
    "Progress",
    "Response",
    "Route",
    "beat",
    "blame",
    "count_predictions",
    "database_waits",
    "log",
    "log_to_stderr",
    "metrics",
    "move_breaker",
    "name_worker",
    "routes",
    "serve",
    "status_routes",
    "tracing",
    "worker_index",
]
