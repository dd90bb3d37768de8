"""What was measured, as Markdown."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from tests.bench.comparison import RATES
from tests.bench.contenders import EXPERT, NAIVE, OURS
from tests.bench.figures import Range, ratios
from tests.bench.runs import CONTENDER

__all__ = ["Results", "page", "table"]

Results = Mapping[str, Any]
"""What each mode gave, by its name; those that did not run are missing."""

NOT_MEASURED: Final = "not measured"
NOISE: Final = 0.05
"""Share of the machine that may go to others until a figure is marked."""


def table(*rows: Sequence[str]) -> str:
    """Put rows together; the first is the head."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def page(results: Results) -> str:
    """Put together all that there is.

    :arg results: Of the modes.

    :returns: Tables, with a heading each.

    """
    parts = [("Targets", _targets(results))]
    if "throughput" in results:
        parts.append(("Throughput", _throughput(results["throughput"])))
        parts.append(("CPU, µs a row", _by_process(results["throughput"], "cpu")))
        parts.append(("Highest memory, MB", _by_process(results["throughput"], "rss")))
    if "latency" in results:
        parts.append(("Latency, ms", _latency(results["latency"])))
    if noise := [run["others"] for run in _runs(results)]:
        text = f"{max(noise):.0%} of the processors at most, in any of {len(noise)} runs."
        parts.append(("What else the machine did", text))
    return "\n\n".join(f"### {title}\n\n{text}" for title, text in parts) + "\n"


def _runs(results: Any) -> Iterator[Any]:
    """All runs, however deep."""
    if isinstance(results, dict):
        if "others" in results:
            yield results
        for value in results.values():
            yield from _runs(value)
    elif isinstance(results, list):
        for value in results:
            yield from _runs(value)


def _spread(numbers: Range, form: str = ",.0f") -> str:
    median, lowest, highest = (format(number, form) for number in numbers)
    return median if lowest == highest else f"{median} ({lowest} to {highest})"


def _all(runs: Sequence[Mapping[str, float]], name: str) -> list[float]:
    return [run[name] for run in runs]


def _cpu(runs: Sequence[Any], name: str = CONTENDER) -> list[float]:
    return [run["cpu"][name] for run in runs]


def _throughput(found: Mapping[str, Any]) -> str:
    rows = [["", "rows/s, middle", "rows/s, whole", f"{OURS.name} does so many times as much"]]
    for name, runs in found.items():
        times = _spread(ratios(_all(found[OURS.name], "rate"), _all(runs, "rate")), ".2f")
        rates = [_spread(Range.of(_all(runs, kind))) for kind in ("rate", "whole")]
        rows.append([name, *rates, "" if name == OURS.name else times])
    return table(*rows)


def _by_process(found: Mapping[str, Any], what: str) -> str:
    names = list(found[OURS.name][0][what])
    rows = [["", *names]]
    for name, runs in found.items():
        ranges = [Range.of([run[what][process] for run in runs]) for process in names]
        form = ",.0f" if what == "rss" else ".1f"
        rows.append([name, *(_spread(one, form) for one in ranges)])
    return table(*rows)


def _latency(found: Mapping[str, Any]) -> str:
    rows = [["", *(f"{kind} at {rate:,}/s" for rate in RATES for kind in ("p50", "p99"))]]
    for name in found[str(RATES[0])]:
        cells = [
            _spread(Range.of(_all(found[str(rate)][name], kind)))
            if name in found[str(rate)]
            else "no"
            for rate in RATES
            for kind in ("p50", "p99")
        ]
        rows.append([name, *cells])
    return table(*rows)


def _targets(results: Results) -> str:
    rows = [["what", "target", "measured"]]
    for what, target, mode, measured in _TARGETS:
        text = NOT_MEASURED
        if mode in results:
            noise = max(run["others"] for run in _runs(results[mode]))
            spoilt = f", but {noise:.0%} of the machine went to others" if noise > NOISE else ""
            text = measured(results[mode]) + spoilt
        rows.append([what, target, text])
    return table(*rows)


def _rate(found: Any) -> str:
    return _spread(Range.of(_all(found[OURS.name], "rate")))


def _against(name: str) -> Callable[[Any], str]:
    return lambda found: _spread(
        ratios(_all(found[OURS.name], "rate"), _all(found[name], "rate")), ".2f"
    )


def _waits(rate: int) -> Callable[[Any], str]:
    return lambda found: ", ".join(
        f"{kind} {_spread(Range.of(_all(found[str(rate)][OURS.name], kind)))}"
        for kind in ("p50", "p99")
    )


def _own_cost(found: Any) -> str:
    return _spread(Range.of(_cpu(found[OURS.name])), ".1f")


def _growth(found: Any) -> str:
    return f"{found['growth']:+.1%} from minute 1 to {found['minutes']:g}"


def _fairness(found: Any) -> str:
    if found["least"] is None or found["processes"] == 1:
        return NOT_MEASURED
    return (
        f"{found['least']:.0%} at worst, {found['processes']} processes, {found['minutes']:g} min"
    )


def _paused(found: Any) -> str:
    return f"{found['during']:.0f} MB, {found['waiting']:,} messages waiting"


def _processes(found: Any) -> str:
    one, several = (_cpu(runs) for runs in found.values())
    return f"{_spread(ratios(several, one), '.2f')} with {list(found)[1]}"


def _idle(found: Any) -> str:
    return f"{found[CONTENDER]:.1%}"


def _partitions(found: Any) -> str:
    few, many = (_all(runs, "p50") for runs in found.values())
    return f"{_spread(ratios(many, few), '.2f')} with {list(found)[1]}"


_TARGETS: Final[Sequence[tuple[str, str, str, Callable[[Any], str]]]] = [
    ("throughput, one process, rows/s", "≥ 25,000", "throughput", _rate),
    ("… against the loop most teams write first", "≥ 10 times", "throughput", _against(NAIVE.name)),
    ("… against an expert's asyncio loop", "≥ 1.0 times", "throughput", _against(EXPERT.name)),
    ("latency at 1,000/s, ms", "p50 < 42, p99 < 65", "latency", _waits(1_000)),
    ("latency at 5,000/s, ms", "p50 < 48, p99 < 100", "latency", _waits(5_000)),
    ("CPU of its process, µs a row", "≤ 35", "throughput", _own_cost),
    ("memory over ten minutes", "within 5 %", "soak", _growth),
    ("memory, model stopped, topic full", "< 300 MB", "paused", _paused),
    ("what one process reads of what another does", "≥ 80 %", "soak", _fairness),
    ("cost a row, several processes against one", "≤ 1.15 times", "processes", _processes),
    ("idle, 16 partitions, share of a core", "< 2 %", "idle", _idle),
    ("p50 with 64 partitions, against 4", "≤ 1.5 times", "partitions", _partitions),
]
"""What, how much, the mode that measures it, and how to say what it found."""
