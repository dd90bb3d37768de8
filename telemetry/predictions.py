"""Count what the model says: predictions, versions, and how the scores are spread.

The model is somebody else's, and its texts are labels here. So only the first few of them have a
series of their own, and `other` has the rest, whatever the model says.
"""

import threading
from collections import Counter
from collections.abc import Iterable
from typing import Final, Protocol

import prometheus_client

from telemetry import metrics

__all__ = ["BANDS", "LabelValues", "count_predictions"]

BANDS: Final = tuple(f"{tenth / 10:.1f}" for tenth in range(10))
"""Lower limits of the bands of scores, each a tenth wide; 1.0 is in the last."""
LONGEST: Final = 64  # characters of a text of the model in a label


class _Said(Protocol):
    @property
    def prediction(self) -> str: ...
    @property
    def fraud_score(self) -> float: ...
    @property
    def model_version(self) -> str | None: ...


class LabelValues:
    """Counts by a text that is not ours, in a bounded number of series.

    :arg counter: With one label.

    :arg limit: How many texts have a series of their own: the first that come.

    """

    def __init__(self, counter: prometheus_client.Counter, *, limit: int = 10) -> None:
        self._counter, self._limit = counter, limit
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def count(self, texts: Counter[str | None]) -> None:
        """Add how often each was said; None is `none`."""
        with self._lock:
            for text, number in texts.items():
                self._counter.labels(self._label(text)).inc(number)

    def _label(self, text: str | None) -> str:
        label = "none" if text is None else text[:LONGEST]
        if label not in self._known and len(self._known) >= self._limit:
            return "other"
        self._known.add(label)
        return label


_PREDICTIONS = LabelValues(metrics.PREDICTIONS)
_VERSIONS = LabelValues(metrics.MODEL_VERSIONS)
_SCORES = [metrics.SCORES.labels(band) for band in BANDS]


def count_predictions(said: Iterable[_Said]) -> None:
    """Count a batch, with one step for each series and not for each row."""
    said = list(said)
    _PREDICTIONS.count(Counter([each.prediction for each in said]))
    _VERSIONS.count(Counter([each.model_version for each in said]))
    bands = Counter([int(each.fraud_score * 10) for each in said])
    for band, number in bands.items():
        _SCORES[min(band, 9)].inc(number)
