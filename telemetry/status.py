"""The status page, and the figures that it asks for every second.

Nothing is counted for it: what it shows is taken from metrics, health and progress when somebody
asks. Rates and percentiles are differences of two answers, which the page makes. No message's
content gets here.
"""

import base64
import hashlib
import json
import re
import time
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from telemetry import metrics
from telemetry.health import Health
from telemetry.progress import Progress
from telemetry.server import Response, Route

__all__ = ["status", "status_routes"]

PAGE: Final = Path(__file__).with_name("status.html")


def status_routes(progress: Progress, health: Health) -> dict[str, Route]:
    """Give the page and its figures, by path.

    :arg progress: Of this process.

    :arg health: Likewise.

    """
    page = PAGE.read_bytes()
    headers = (("Content-Security-Policy", _policy(page.decode())),)

    def figures() -> Response:
        body = json.dumps(status(progress, health)).encode()
        return Response(HTTPStatus.OK, "application/json", body)

    return {
        "/": lambda: Response(HTTPStatus.OK, "text/html; charset=utf-8", page, headers),
        "/status.json": figures,
    }


def status(progress: Progress, health: Health) -> dict[str, Any]:
    """Put the figures together; counts are since the start of the process.

    :arg progress: Of this process.

    :arg health: Likewise.

    """
    totals = progress.totals()
    latency = _samples(metrics.ARRIVAL_TO_COMMIT, "_bucket")
    return {
        "time": time.time(),
        "version": metrics.VERSION,
        "counts": {
            "read": totals["messages"],
            # A transaction that was sent again counts again.
            "asked": _sum(metrics.REQUEST_TRANSACTIONS, "_sum"),
            "stored": totals["stored"],
            "duplicates": totals["duplicates"],
            "failed": _by(metrics.DEAD_LETTERS, "stage"),
        },
        "lag": totals["lag"],
        "in_flight": _sum(metrics.REQUESTS_IN_FLIGHT, ""),
        "arrival_to_commit": {
            # The last limit is infinite, which JSON does not have.
            "limits": [float(labels["le"]) for labels, _ in latency[:-1]],
            "at_most": [value for _, value in latency],
        },
        "connection_losses": _by(metrics.CONNECTION_LOSSES, "service"),
        "live": health.live()[1],
        "ready": health.ready()[1],
        "failures": progress.latest_failures(),
    }


def _samples(metric: Collector, suffix: str) -> list[tuple[dict[str, str], float]]:
    families: Iterable[Metric] = metric.collect()
    return [
        (sample.labels, sample.value)
        for family in families
        for sample in family.samples
        if sample.name == family.name + suffix
    ]


def _sum(metric: Collector, suffix: str) -> float:
    return sum(value for _, value in _samples(metric, suffix))


def _by(metric: Collector, label: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for labels, value in _samples(metric, "_total"):
        found[labels[label]] = found.get(labels[label], 0) + value
    return found


def _policy(page: str) -> str:
    """Let the page run its own script and styles, ask this server, and nothing else."""
    own = {
        tag: " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
            for text in re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        )
        for tag in ("script", "style")
    }
    return (
        f"default-src 'none'; script-src {own['script']}; style-src {own['style']}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
