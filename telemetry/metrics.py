"""Every metric of the stream; `docs/metrics.md` has the same as a table, with typical queries.

No label takes a value from a message: partitions and workers are as many as there are, what the
model says is limited by `telemetry.predictions`, and all other labels have a fixed vocabulary.
"""

import platform
from importlib.metadata import version
from typing import Final

from prometheus_client import (
    REGISTRY,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
)

from telemetry.histogram import BatchHistogram

__all__ = [
    "ARRIVAL_TO_COMMIT",
    "BREAKERS",
    "COMMIT_TIME",
    "CONNECTION_LOSSES",
    "DATABASE_RETRIES",
    "DEAD_LETTERS",
    "DEAD_LETTER_CODES",
    "DONE_TIME",
    "DUPLICATES",
    "EPOCH_DURATION",
    "EPOCH_END",
    "HIDDEN",
    "IN_HAND",
    "LAG",
    "MESSAGES_READ",
    "MODEL_VERSIONS",
    "NEW_PARTITIONS",
    "PREDICTIONS",
    "REQUESTS",
    "REQUESTS_IN_FLIGHT",
    "REQUESTS_LIMIT",
    "REQUEST_DURATION",
    "REQUEST_TRANSACTIONS",
    "RETRIES",
    "SCORES",
    "SKIPPED",
    "STORED",
    "VERSION",
    "WRITE_DURATION",
    "WRITE_ROWS",
]

VERSION: Final = "0.2.0"
"""Of this project, as `pyproject.toml` has it: an application is not installed as a package."""

# A second series for each counter, of no use to Prometheus.
disable_created_metrics()  # type: ignore[no-untyped-call]

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
NUMBERS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)

MESSAGES_READ: Final = Counter(
    "fraud_messages_read", "Messages read from the topic, those read again included", ["partition"]
)
STORED: Final = Counter("fraud_messages_stored", "Transactions stored as new rows")
DUPLICATES: Final = Counter(
    "fraud_messages_duplicate", "Repeated messages that were noted as duplicates"
)
SKIPPED: Final = Counter(
    "fraud_messages_skipped", "Messages that retention removed before they were read", ["partition"]
)
DEAD_LETTERS: Final = Counter(
    "fraud_dead_letters",
    "Messages that the error topic has acknowledged",
    ["stage", "disposition"],
)
# Beside the one above, since not all codes are known before they occur.
DEAD_LETTER_CODES: Final = Counter(
    "fraud_dead_letter_codes", "The same by the code of the error", ["stage", "code"]
)
LAG: Final = Gauge("fraud_lag_messages", "Messages that are still to be read", ["partition"])
HIDDEN: Final = Gauge(
    "fraud_hidden_messages",
    "Messages behind the beginning of somebody's open transaction in the topic",
    ["partition"],
)
NEW_PARTITIONS: Final = Gauge(
    "fraud_new_partitions", "Partitions of the topic that are read only after the next start"
)
ARRIVAL_TO_COMMIT: Final = BatchHistogram(
    "fraud_arrival_to_commit_seconds",
    "From a message's timestamp to the commit of its row",
    SECONDS,
)
REGISTRY.register(ARRIVAL_TO_COMMIT)

PREDICTIONS: Final = Counter("fraud_predictions", "Predictions that the model made", ["prediction"])
MODEL_VERSIONS: Final = Counter(
    "fraud_model_versions", "The same by the version of the model", ["version"]
)
SCORES: Final = Counter("fraud_scores", "The same by the score's lower limit, in tenths", ["band"])

REQUESTS: Final = Counter("fraud_model_requests", "Requests to the model, by outcome", ["outcome"])
REQUEST_DURATION: Final = Histogram(
    "fraud_model_request_duration_seconds",
    "Time until the model answered, or failed to",
    buckets=SECONDS,
)
REQUEST_TRANSACTIONS: Final = Histogram(
    "fraud_model_request_transactions", "Transactions in a request to the model", buckets=NUMBERS
)
REQUESTS_IN_FLIGHT: Final = Gauge(
    "fraud_model_requests_in_flight", "Requests to the model without an answer yet"
)
REQUESTS_LIMIT: Final = Gauge(
    "fraud_model_requests_limit", "Batches that may be in flight at once, by worker", ["worker"]
)
RETRIES: Final = Counter(
    "fraud_model_retries", "Requests that were sent again, by what was wrong before", ["reason"]
)
BREAKERS: Final = Gauge(
    "fraud_model_breakers", "Workers of this process by the state of their breaker", ["state"]
)

WRITE_DURATION: Final = Histogram(
    "fraud_database_write_duration_seconds",
    "Time for one transaction of rows, its retries included",
    buckets=SECONDS,
)
WRITE_ROWS: Final = Histogram(
    "fraud_database_write_rows", "Rows in one transaction", buckets=NUMBERS
)
DATABASE_RETRIES: Final = Counter(
    "fraud_database_retries", "Attempts that failed and were made again, by reason", ["reason"]
)
CONNECTION_LOSSES: Final = Counter(
    "fraud_connection_losses", "Connections that were lost, by service", ["service"]
)

IN_HAND: Final = Gauge(
    "fraud_in_hand_messages", "Messages that are read and not done, by worker", ["worker"]
)
DONE_TIME: Final = Gauge(
    "fraud_done_timestamp_seconds",
    "When a worker last finished a message, or had none in hand",
    ["worker"],
)

EPOCH_DURATION: Final = Histogram(
    "fraud_epoch_duration_seconds",
    "From the end of one epoch to that of the next, by partition of the source",
    buckets=(0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300),
)
EPOCH_END: Final = Gauge(
    "fraud_epoch_end_timestamp_seconds", "When the last epoch had ended everywhere", ["partition"]
)
COMMIT_TIME: Final = Gauge(
    "fraud_commit_timestamp_seconds", "When the broker last took an offset", ["partition"]
)
BUILD: Final = Info("fraud_build", "What runs")
BUILD.info({"version": VERSION, "python": platform.python_version(), "bytewax": version("bytewax")})

# Known from the start, so that a rate over the first failure is one. Partitions are known when they
# are assigned, see `telemetry.progress`; reasons of the database, see `operators.postgres.session`.
for _stage, _disposition in (
    ("decode", "poison"),
    ("validate", "poison"),
    ("score", "rejected"),
    ("score", "exhausted"),
    ("persist", "rejected"),
    ("persist", "conflict"),
):
    DEAD_LETTERS.labels(_stage, _disposition)
for _outcome in ("answered", "failed", "refused"):
    REQUESTS.labels(_outcome)
for _reason in ("overload", "status", "connection", "timeout", "answer"):
    RETRIES.labels(_reason)
for _state in ("closed", "open", "half-open"):
    BREAKERS.labels(_state)
for _service in ("kafka", "model", "postgres"):
    CONNECTION_LOSSES.labels(_service)
