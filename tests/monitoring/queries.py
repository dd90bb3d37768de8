"""The queries of dashboard and alerts, and the metrics that they name."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml
from prometheus_client import REGISTRY

from telemetry import metrics
from tests.kit.checkout import CHECKOUT

__all__ = ["DASHBOARD", "RULES", "Query", "expressions", "named", "panels", "queries", "unknown"]

DASHBOARD: dict[str, Any] = json.loads(
    (CHECKOUT / "monitoring" / "grafana" / "fraud-scoring.json").read_text()
)
RULES: Final = CHECKOUT / "monitoring" / "rules" / "fraud-scoring.yaml"

_SUFFIXES = ("", "_total", "_bucket", "_sum", "_count")


@dataclass(frozen=True)
class Query:
    """One query of a panel."""

    panel: str
    letter: str
    expression: str

    def filled(self, *, job: str) -> str:
        """What Prometheus is asked, of all processes and the last minute.

        :arg job: The stream.

        :returns: PromQL.

        """
        expression = self.expression
        values = {"$job": job, "$instance": ".*", "$__rate_interval": "1m"}
        for variable, value in values.items():
            expression = expression.replace(variable, value)
        assert "$" not in expression, f"unknown variable: {expression}"
        return expression


def panels() -> Iterator[dict[str, Any]]:
    """All panels that show something; rows are left out."""
    return (panel for panel in DASHBOARD["panels"] if panel["type"] != "row")


def queries() -> Iterator[Query]:
    """All queries of all panels."""
    for panel in panels():
        for target in panel["targets"]:
            yield Query(panel["title"], target["refId"], target["expr"])


def expressions() -> Iterator[str]:
    """All of them, those of the alerts too."""
    yield from (query.expression for query in queries())
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    yield from (rule["expr"] for rule in group["rules"])


def named(expression: str) -> set[str]:
    """Metrics of the stream that a query names, `up` left out.

    :arg expression: PromQL.

    :returns: Names, as they are written.

    """
    return set(re.findall(r"\b(?:fraud|process)_\w+", expression))


def unknown(expression: str) -> set[str]:
    """Metrics that a query names and that are not in the registry.

    :arg expression: PromQL.

    :returns: Their names.

    """
    assert metrics.__all__  # they are in the registry
    known = {metric.name + suffix for metric in REGISTRY.collect() for suffix in _SUFFIXES}
    return named(expression) - known
