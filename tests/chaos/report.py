"""The summary of a run."""

import statistics
from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.chaos.episode import Result
from tests.chaos.plan import Kind

__all__ = ["line", "summarise"]

_NONE: Final = "-"


def line(result: Result) -> str:
    """Tell one episode in a line."""
    times = _times([hit.from_strike for hit in result.hits])
    told = [
        f"seed {result.seed}",
        f"{len(result.hits)} strikes",
        f"{result.messages} messages",
        f"replayed {result.replays.rows} rows, {result.replays.dead_letters} dead letters",
        f"stores again after p50 {times[0]}, at most {times[1]} s",
        f"{result.seconds:.0f} s",
        "; ".join(result.problems) or "all in their one place",
    ]
    return ", ".join(told)


def summarise(console: Console, results: Sequence[Result], seconds: float) -> None:
    """Print the summary.

    :arg console: Where.

    :arg results: Of all episodes.

    :arg seconds: The whole run.

    """
    console.print(_by_kind(results))
    console.print(_by_place(results))
    strikes = sum(len(result.hits) for result in results)
    console.print(
        f"{strikes} strikes in {seconds / 60:.1f} min ({strikes / seconds * 60:.1f} a minute), "
        f"{len(results)} episodes"
    )
    for result in results:
        if result.problems:
            console.print(f"FAILED: seed {result.seed}: {'; '.join(result.problems)}", style="red")


def _by_kind(results: Sequence[Result]) -> Table:
    table = Table("strike", title="Until the next row is stored, in seconds")
    for heading in ("number", "measured", "p50", "max", "after repair p50", "max"):
        table.add_column(heading, justify="right")
    for kind in Kind:
        hits = [hit for result in results for hit in result.hits if hit.kind is kind]
        measured = [hit for hit in hits if hit.from_strike is not None]
        table.add_row(
            kind,
            str(len(hits)),
            str(len(measured)),
            *_times([hit.from_strike for hit in hits]),
            *_times([hit.from_repair for hit in hits]),
        )
    hits = [hit for result in results for hit in result.hits]
    table.add_section()
    table.add_row(
        "all",
        str(len(hits)),
        str(sum(hit.from_strike is not None for hit in hits)),
        *_times([hit.from_strike for hit in hits]),
        *_times([hit.from_repair for hit in hits]),
    )
    return table


def _by_place(results: Sequence[Result]) -> Table:
    table = Table("what", title="Every message in exactly one place")
    table.add_column("number", justify="right")
    findings = [result.findings for result in results]
    counts = {
        "messages in the topic": sum(found.messages for found in findings),
        "produced without acknowledgement": sum(result.unacknowledged for result in results),
        "rows read again after a start": sum(result.replays.rows for result in results),
        "dead letters read again after a start": sum(
            result.replays.dead_letters for result in results
        ),
        "runs of the flow": sum(len(result.ends) for result in results),
        "… that ended by themselves": sum(result.by_themselves for result in results),
        "… with a process that aborted": sum(result.aborted for result in results),
        "… with a process that went on alone": sum(result.hung for result in results),
        "missing": sum(len(found.missing) for found in findings),
        "in two places": sum(len(found.in_two_places) for found in findings),
        "doubled dead letters": sum(len(found.doubled_dead_letters) for found in findings),
        "in the wrong place": sum(len(found.misplaced) for found in findings),
        "in a place, but not in the topic": sum(len(found.never_there) for found in findings),
        "acknowledged, but not in the topic": sum(len(found.vanished) for found in findings),
        "without prediction or transaction": sum(found.orphans for found in findings),
    }
    for what, number in counts.items():
        table.add_row(what, f"{number:,}")
    return table


def _times(seconds: Sequence[float | None]) -> tuple[str, str]:
    known = [number for number in seconds if number is not None]
    if not known:
        return _NONE, _NONE
    return f"{statistics.median(known):.1f}", f"{max(known):.1f}"
