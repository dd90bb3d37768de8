"""Logs, progress, metrics and health: set up here, used by name elsewhere.

Metrics are in prometheus_client's registry; `docs/metrics.md` has a table of all, which a test
compares with the registry.
"""

from telemetry import metrics
from telemetry.logs import log, log_to_stderr
from telemetry.progress import Progress
from telemetry.worker import name_worker, worker_index

__all__ = ["Progress", "log", "log_to_stderr", "metrics", "name_worker", "worker_index"]
