"""The alerts speak of what there is: metrics of the registry, sections of the runbook."""

import re
from typing import Any

import pytest
import yaml

from tests.kit.checkout import CHECKOUT
from tests.monitoring.queries import RULES, named, unknown

TESTS = CHECKOUT / "monitoring" / "tests" / "fraud-scoring.yaml"
RUNBOOKS = (CHECKOUT / "docs" / "runbooks.md").read_text()


def _alerts() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def _name(alert: dict[str, Any]) -> str:
    return str(alert["alert"])


@pytest.mark.parametrize("alert", _alerts(), ids=_name)
def test_an_alert_asks_for_metrics_that_there_are(alert: dict[str, Any]) -> None:
    """A query that names none would never fire, and nobody would know."""
    assert unknown(alert["expr"]) == set()
    assert named(alert["expr"]) or "up{" in alert["expr"]


def test_the_runbook_has_a_section_for_each_alert() -> None:
    """And none for alerts that there are not, at the address that the alert gives."""
    assert re.findall(r"^## (\w+)$", RUNBOOKS, re.MULTILINE) == [_name(one) for one in _alerts()]
    for alert in _alerts():
        address = f"docs/runbooks.md#{_name(alert).lower()}"
        assert alert["annotations"]["runbook_url"] == address


def test_each_alert_is_seen_to_fire() -> None:
    """By a test of the rules, which promtool runs: `make check-monitoring`."""
    assert set(re.findall(r'alertname="(\w+)"', TESTS.read_text())) == set(map(_name, _alerts()))
