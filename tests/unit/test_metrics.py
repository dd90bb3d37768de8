"""The metrics: documented, of the conventional form, counted by batches."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from telemetry import Progress, metrics
from telemetry.histogram import BatchHistogram

ROOT = Path(__file__).parents[2]
OURS = (MetricWrapperBase, BatchHistogram)
ROW = re.compile(r"^\| `(fraud_\w+)` \| (\w+) \|([^|]*)\|", re.MULTILINE)


def _families() -> Iterator[Metric]:
    return (family for family in REGISTRY.collect() if family.name.startswith("fraud_"))


def _exposed(family: Metric) -> str:
    return family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")


def _labels() -> dict[str, set[str]]:
    """Names of the labels by name of the metric, as the module defines them."""
    found = {"fraud_build_info": {"version", "python", "bytewax"}}
    for metric in vars(metrics).values():
        for family in metric.collect() if isinstance(metric, OURS) else ():
            if family.name.startswith("fraud_") and family.type != "info":
                found[_exposed(family)] = set(getattr(metric, "_labelnames", ()))
    return found


def test_the_table_of_metrics_is_that_of_the_registry() -> None:
    """Both ways: name, type and labels."""
    table = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in ROW.findall((ROOT / "docs" / "metrics.md").read_text("utf-8"))
    }
    labels = _labels()
    registered = {
        _exposed(family): (
            {"info": "gauge"}.get(family.type, family.type),
            labels[_exposed(family)],
        )
        for family in _families()
    }

    assert table == registered


def test_the_version_is_the_projects() -> None:
    """The one that `pyproject.toml` has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

    assert project["version"] == metrics.VERSION


def test_a_batch_is_counted_as_the_clients_own_histogram_counts() -> None:
    """The same text for the same values, limits themselves included."""
    values = [0.004, 0.005, 0.0051, 1.0, 59.9, 60, 61, -0.001]
    theirs, ours = CollectorRegistry(), CollectorRegistry()
    known = Histogram("x", "x", buckets=metrics.SECONDS, registry=theirs)
    subject = BatchHistogram("x", "x", metrics.SECONDS)
    ours.register(subject)

    for value in values:
        known.observe(value)
    subject.observe(values[:3])
    subject.observe(values[3:])

    def samples(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
        [family] = text_string_to_metric_families(generate_latest(registry).decode())
        return {
            (sample.name, sample.labels.get("le", "")): round(sample.value, 9)
            for sample in family.samples
            if not sample.name.endswith("_created")
        }

    assert samples(ours) == samples(theirs)


def test_latency_is_from_arrival_to_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """In seconds; a message without a timestamp has none."""
    monkeypatch.setattr("telemetry.progress.time", SimpleNamespace(monotonic=int, time=lambda: 100))

    def value(name: str, **labels: str) -> float:
        found = REGISTRY.get_sample_value(f"fraud_arrival_to_commit_seconds_{name}", labels)
        return found or 0.0

    before = value("count"), value("sum"), value("bucket", le="1.0")
    Progress().committed([99_500, 98_000, -1])

    assert value("count") - before[0] == 2
    assert value("sum") - before[1] == pytest.approx(2.5)
    assert value("bucket", le="1.0") - before[2] == 1


def test_a_count_is_a_metric_too() -> None:
    """What the log says and what is scraped are raised by one call."""
    labels = {"stage": "decode", "disposition": "poison"}

    def value() -> float:
        return REGISTRY.get_sample_value("fraud_dead_letters_total", labels) or 0.0

    before = value()
    progress = Progress()
    progress.count("failed", 3, **labels)

    assert (value() - before, progress.totals()["failed"]) == (3, 3)


def test_the_table_of_events_is_that_of_the_code() -> None:
    """Every event that is logged by name, and no other."""
    _, _, logs = (ROOT / "docs" / "metrics.md").read_text("utf-8").partition("## Logs")
    _, _, table = logs.partition("| event |")
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    documented = {event for row in rows for event in re.findall(r"`([\w.]+)`", row)}
    files = [ROOT / "startup.py", *ROOT.glob("operators/**/*.py"), *ROOT.glob("telemetry/*.py")]
    source = "".join(file.read_text("utf-8") for file in files)
    logged = set(re.findall(r'log\.(?:info|warning|error)\(\s*"([\w.]+)"', source))
    logged |= set(re.findall(r'^    event = "([\w.]+)"$', source, re.MULTILINE))  # of errors

    assert documented == logged | {"end", "failed"}  # what `Progress.finish` is told
