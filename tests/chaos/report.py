"""The summary of a run."""

import statistics
from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.chaos.episode import Result
from tests.chaos.plan import Kind, Plan
from tests.chaos.strikes import Hit

__all__ = ["line", "outline", "summarise"]

_NONE: Final = "-"


def outline(plan: Plan) -> str:
    """Tell in a line what is about to be done."""
    told = [
        f"{plan.partitions} partitions",
        f"{plan.rate} messages a second" + " in transactions" * plan.transactional,
        f"{plan.broken:.0%} broken",
        f"{plan.fickle:.0%} fickle",
        f"{plan.streams} streams of {plan.shape.processes}x{plan.shape.workers} workers",
        f"batches of {plan.batch_size}, {plan.retries} retries",
        f"outages make {'dead letters' if plan.gives_up else 'pauses'}",
    ]
    return f"seed {plan.seed}: {', '.join(told)}: {', '.join(map(str, plan.strikes))}"


def line(result: Result) -> str:
    """Tell one episode in a line."""
    times = _times([hit.from_strike for hit in result.hits])
    told = [
        f"seed {result.plan.seed}",
        f"{len(result.hits)} strikes",
        f"{result.messages} messages",
        f"replayed {sum(replays.rows for replays in result.replays)} rows",
        f"{sum(replays.dead_letters for replays in result.replays)} dead letters",
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
            failure = f"FAILED: seed {result.plan.seed}: {'; '.join(result.problems)}"
            console.print(failure, style="red")


def _by_kind(results: Sequence[Result]) -> Table:
    table = Table(title="Until the next row is stored, in seconds")
    table.add_column("strike", no_wrap=True)
    for heading in ("number", "lost", "timed", "p50", "max", "mended p50", "max"):
        table.add_column(heading, justify="right")
    hits = [hit for result in results for hit in result.hits]
    for kind in Kind:
        table.add_row(kind, *_told([hit for hit in hits if hit.strike.kind is kind]))
    table.add_section()
    table.add_row("all", *_told(hits))
    table.caption = "lost: recovery directories; mended: since what was struck is well again"
    return table


def _told(hits: Sequence[Hit]) -> list[str]:
    return [
        str(len(hits)),
        str(sum(hit.strike.loses for hit in hits)),
        str(sum(hit.from_strike is not None for hit in hits)),
        *_times([hit.from_strike for hit in hits]),
        *_times([hit.from_repair for hit in hits]),
    ]


def _by_place(results: Sequence[Result]) -> Table:
    table = Table("what", title="Every message in exactly one place")
    table.add_column("number", justify="right")
    plans = [result.plan for result in results]
    findings = [found for result in results for found in result.findings]
    replays = [again for result in results for again in result.replays]
    counts = {
        "episodes": len(plans),
        "… with a fickle model": sum(plan.fickle > 0 for plan in plans),
        "… with two groups": sum(plan.streams > 1 for plan in plans),
        "… with a topic written in transactions": sum(plan.transactional for plan in plans),
        "… in which outages make dead letters": sum(plan.gives_up for plan in plans),
        "messages in the topic, for each group": sum(found.messages for found in findings),
        "produced without acknowledgement": sum(result.unacknowledged for result in results),
        "produced in aborted transactions": sum(result.aborted for result in results),
        "rows read again after a start": sum(again.rows for again in replays),
        "dead letters read again after a start": sum(again.dead_letters for again in replays),
        "runs of the flow": sum(len(result.ends) for result in results),
        "… that ended by themselves": sum(result.by_themselves for result in results),
        "… with a process that aborted": sum(result.crashed for result in results),
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
