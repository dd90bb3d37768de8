"""Logs, progress, metrics and health: set up here, used by name elsewhere.

Metrics are in prometheus_client's registry; `docs/metrics.md` has a table of all, which a test
compares with the registry.
"""

from telemetry import metrics
from telemetry.health import Health
from telemetry.logs import TRACE_ID, log, log_to_stderr
from telemetry.progress import Progress
from telemetry.server import Response, Route, routes, serve
from telemetry.worker import beat, name_worker, worker_index

__all__ = [
    "TRACE_ID",
    "Health",
    "Progress",
    "Response",
    "Route",
    "beat",
    "log",
    "log_to_stderr",
    "metrics",
    "name_worker",
    "routes",
    "serve",
    "worker_index",
]
