"""What the model says, in metrics: by batch, and in a bounded number of series."""

from collections import Counter

import pytest
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client import Counter as Metric

from operators.records import Prediction
from telemetry import count_predictions
from telemetry.predictions import LONGEST, LabelValues


def _values() -> Counter[tuple[str, str]]:
    names = {"fraud_predictions_total", "fraud_model_versions_total", "fraud_scores_total"}
    return Counter(
        {
            (sample.name, value): int(sample.value)
            for family in REGISTRY.collect()
            for sample in family.samples
            for value in sample.labels.values()
            if sample.name in names
        }
    )


def test_a_batch_is_counted_by_prediction_version_and_score() -> None:
    """Each transaction once in each; the limits of a band belong to the band above."""
    before = _values()
    scores = [0.0, 0.1, 0.55, 0.9, 1.0]
    count_predictions([Prediction("fraud", score, None) for score in scores])
    count_predictions([Prediction("fraud", 0.1, "v1")])
    assert dict(_values() - before) == {
        ("fraud_predictions_total", "fraud"): 6,
        ("fraud_model_versions_total", "none"): 5,
        ("fraud_model_versions_total", "v1"): 1,
        ("fraud_scores_total", "0.0"): 1,
        ("fraud_scores_total", "0.1"): 2,
        ("fraud_scores_total", "0.5"): 1,
        ("fraud_scores_total", "0.9"): 2,
    }


@pytest.mark.parametrize("length", [1, 10_000])
def test_a_model_that_says_anything_has_few_series(length: int) -> None:
    """The first have their own, cut to a length; all others are one."""
    registry = CollectorRegistry()
    subject = LabelValues(Metric("said", "Said", ["text"], registry=registry), limit=3)
    for number in range(1_000):
        subject.count(Counter([f"{number:03}" * length]))
    found = {
        sample.labels["text"]: sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "said_total"
    }
    expected = {(f"{number:03}" * length)[:LONGEST]: 1.0 for number in range(3)}
    assert found == {**expected, "other": 997.0}
