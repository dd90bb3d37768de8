"""The comparison as a picture."""

from pathlib import Path
from typing import Any

from matplotlib import use
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.bench.comparison import RATES
from tests.bench.figures import Range
from tests.bench.report import Results

__all__ = ["draw"]


def draw(results: Results, path: Path) -> None:
    """Draw what was compared, with the spread of the rounds.

    :arg results: Of the modes; at least one of `throughput` and `latency`.

    :arg path: Of the PNG.

    """
    use("Agg")
    panels = [(name, results[name]) for name in ("throughput", "latency") if name in results]
    figure = Figure(figsize=(12, 3.2 * len(panels)), layout="constrained")
    for (name, found), part in zip(
        panels, figure.subfigures(len(panels), squeeze=False), strict=True
    ):
        left, right = part[0].subplots(1, 2)
        if name == "throughput":
            _rates(left, found)
            _costs(right, found)
        else:
            for axes, rate in zip((left, right), RATES, strict=True):
                _waits(axes, found[str(rate)], rate)
    figure.savefig(path, dpi=110)


def _bars(axes: Axes, names: list[str], ranges: list[Range], **more: Any) -> None:
    middles = [one.median for one in ranges]
    below = [one.median - one.lowest for one in ranges]
    above = [one.highest - one.median for one in ranges]
    axes.barh(names, middles, xerr=[below, above], capsize=3, **more)
    axes.invert_yaxis()


def _rates(axes: Axes, found: Any) -> None:
    _bars(axes, list(found), [Range.of([run["rate"] for run in runs]) for runs in found.values()])
    axes.set_title("rows/s, all on two cores together")


def _costs(axes: Axes, found: Any) -> None:
    names = list(found)
    left = [0.0] * len(names)
    for process in next(iter(found.values()))[0]["cpu"]:
        values = [Range.of([run["cpu"][process] for run in found[name]]).median for name in names]
        axes.barh(names, values, left=left, label=process)
        left = [before + value for before, value in zip(left, values, strict=True)]
    axes.invert_yaxis()
    axes.legend()
    axes.set_title("CPU, µs a row")


def _waits(axes: Axes, found: Any, rate: int) -> None:
    for kind, shade in (("p99", 0.4), ("p50", 1.0)):
        ranges = [Range.of([run[kind] for run in runs]) for runs in found.values()]
        _bars(axes, list(found), ranges, alpha=shade, label=kind, color="C0")
        axes.invert_yaxis()
    axes.invert_yaxis()
    axes.legend()
    axes.set_title(f"arrival to commit at {rate:,}/s, ms")
