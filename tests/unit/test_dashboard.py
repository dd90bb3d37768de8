"""The dashboard has what a reader needs, and asks for what there is.

What its queries answer is the task of `make test-monitoring`.
"""

import json
from typing import Any

import pytest
import yaml

from tests.kit.checkout import CHECKOUT
from tests.monitoring.queries import DASHBOARD, RULES, Query, named, panels, queries, unknown

# Okabe and Ito's, which also those can tell apart who do not see all colours.
COLOURS = {"#0072B2", "#E69F00", "#D55E00", "#56B4E9", "#009E73", "#CC79A7"}


def _name(query: Query) -> str:
    return f"{query.panel}, {query.letter}"


def _title(panel: dict[str, Any]) -> str:
    return str(panel["title"])


def _under(value: Any, *keys: str) -> list[Any]:
    """All values below one of the keys, at any depth."""
    if isinstance(value, list):
        return [found for each in value for found in _under(each, *keys)]
    if not isinstance(value, dict):
        return []
    return [found for each in value.values() for found in _under(each, *keys)] + [
        value[key] for key in keys if key in value
    ]


@pytest.mark.parametrize("query", list(queries()), ids=_name)
def test_a_panel_asks_for_metrics_that_there_are(query: Query) -> None:
    """Of the chosen stream and processes alone."""
    assert unknown(query.expression) == set()
    assert named(query.expression) or "up{" in query.expression
    assert query.expression.count('{job="$job",instance=~"$instance"') == query.expression.count(
        "{"
    )


def test_numbers_of_panels_are_unique() -> None:
    """And so are titles: a link names one by number, a person by title."""
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    titles = [panel["title"] for panel in DASHBOARD["panels"]]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("panel", list(panels()), ids=_title)
def test_a_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    """With a title, what to look for, a unit, and letters that tell its queries apart."""
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    letters = [target["refId"] for target in panel["targets"]]
    assert letters
    assert len(set(letters)) == len(letters)


def test_panels_do_not_cover_each_other() -> None:
    """Each has its own place on the grid of 24 columns."""
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        assert columns.stop <= 24
        cells = {(x, y) for x in columns for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_dashboard_asks_the_datasource_that_is_provisioned() -> None:
    """Another uid would show an error in each panel."""
    file = CHECKOUT / "monitoring" / "provisioning" / "datasources" / "prometheus.yaml"
    [source] = yaml.safe_load(file.read_text())["datasources"]
    asked = _under(DASHBOARD, "datasource")
    assert len(asked) > len(list(panels()))
    for each in asked:
        assert each == {"type": source["type"], "uid": source["uid"]}


def test_grafana_finds_the_dashboard_where_it_looks() -> None:
    """The folder of the provider is the one that compose.yaml mounts."""
    file = CHECKOUT / "monitoring" / "provisioning" / "dashboards" / "fraud-scoring.yaml"
    [provider] = yaml.safe_load(file.read_text())["providers"]
    services = yaml.safe_load((CHECKOUT / "compose.yaml").read_text())["services"]
    mounts = {target: source for source, target, *_ in _mounts(services["grafana"])}
    folder = CHECKOUT / mounts[provider["options"]["path"]]
    assert [json.loads(each.read_text()) for each in folder.iterdir()] == [DASHBOARD]


def _mounts(service: dict[str, Any]) -> list[list[str]]:
    return [volume.split(":") for volume in service.get("volumes", [])]


def test_what_compose_mounts_is_there() -> None:
    """Docker makes an empty folder of what is not."""
    services = yaml.safe_load((CHECKOUT / "compose.yaml").read_text())["services"]
    sources = {source for service in services.values() for source, *_ in _mounts(service)}
    local = {source for source in sources if source.startswith(".")}
    assert local
    assert [source for source in local if not (CHECKOUT / source).exists()] == []


def test_colours_can_be_told_apart() -> None:
    """Of one palette; series without a colour of their own are shades of one."""
    used = _under(DASHBOARD, "color", "fixedColor")
    assert {colour for colour in used if isinstance(colour, str)} <= COLOURS
    modes = {each["mode"] for each in used if isinstance(each, dict)}
    assert modes <= {"fixed", "shades", "thresholds"}


def test_lines_stand_where_the_alerts_fire() -> None:
    """The thresholds of what an alert is about are those of its rule."""
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    limits = {
        ("FraudLagHigh", "FraudLagCritical"): ("Lag", "Lag over time", "Lag, by partition"),
        ("FraudErrorRateHigh",): ("Error rate", "Error rate over time"),
        ("FraudEpochStuck",): ("Since the last epoch",),
        ("FraudKafkaSilent",): ("Since the last commit",),
        ("FraudRestarting",): ("Starts",),
    }
    rule = {each["alert"]: each["expr"] for each in group["rules"]}
    shown = {panel["title"]: panel for panel in panels()}
    for alerts, titles in limits.items():
        for title in titles:
            thresholds = shown[title]["fieldConfig"]["defaults"]["thresholds"]["steps"][1:]
            assert len(thresholds) == len(alerts)
            for threshold, alert in zip(thresholds, alerts, strict=True):
                assert f"> {threshold['value']} " in f"{rule[alert]} "
