"""What the demo tells: progress while it runs, a summary at its end."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from lab.demo.feed import Position, Sent
from lab.demo.ledger import Counts, Places

__all__ = ["Display", "conclude", "summarise"]

_LINE_EVERY = 1.0

Row = tuple[str, str, str]
"""Measure, value, and how it was taken."""


class Display:
    """Progress: a bar on a terminal, a line a second elsewhere.

    :arg console: Where to.

    :arg total: How many messages there will be.

    """

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._paused = False
        self._next_line = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TimeElapsedColumn(),
            console=console,
            expand=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave it as it is."""
        self._bar.stop()

    def tell(self, event: Mapping[str, Any]) -> None:
        """Tell of a line of the stream's log, if it is about the model's state."""
        match event.get("event"):
            case "breaker.open" if not self._paused:
                self._paused = True
                self._console.print(f"The model is down ({event.get('reason')}): paused.")
            case "breaker.closed":
                self._paused = False
                self._console.print(f"The model is back after {event.get('open_seconds')} s.")

    def show(self, produced: int, counts: Counts) -> None:
        """Show how far it is."""
        text = (
            f"{produced:,} produced, {counts.stored:,} stored, "
            f"{counts.duplicates:,} duplicates, {counts.dead_letters:,} dead letters"
        )
        self._bar.update(self._task, completed=counts.total, description=text)
        now = time.monotonic()
        is_last = counts.total == self._total
        if not self._console.is_terminal and (now >= self._next_line or is_last):
            self._next_line = now + _LINE_EVERY
            self._console.print(text, highlight=False)


def summarise(
    console: Console,
    *,
    produced: int,
    burst: Mapping[Position, Sent],
    steady: Mapping[Position, Sent],
    places: Places,
    model: Mapping[str, Any],
) -> None:
    """Print what happened.

    :arg console: Where to.

    :arg produced: How many messages there were.

    :arg burst: Those that came at once.

    :arg steady: Those that came one by one.

    :arg places: Where all of it ended.

    :arg model: Counters of the stand-in for the model.

    """
    console.print(_places(produced, places))
    console.print(_dead_letters(places))
    console.print(_predictions(places))
    speed = _table("How fast", "", "", "")
    for row in (
        *_throughput(burst, places),
        *_latency(steady, places),
        *_requests(model),
    ):
        speed.add_row(*row)
    console.print(speed)


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        show_header=any(columns),
    )
    for column in columns:
        is_number = column in {"messages", "transactions", "share"}
        table.add_column(column, justify="right" if is_number else "left")
    return table


def _places(produced: int, places: Places) -> Table:
    table = _table("Where they ended", "place", "messages")
    counts = {
        "stored with a prediction": len(places.stored),
        "known duplicates": len(places.duplicates),
        "dead letters": len(places.dead_letters),
    }
    for place, count in counts.items():
        table.add_row(place, f"{count:,}")
    table.add_section()
    table.add_row("together", f"{sum(counts.values()):,}")
    table.add_row("produced", f"{produced:,}")
    return table


def _dead_letters(places: Places) -> Table:
    table = _table("Why they are dead letters", "stage", "reason", "messages")
    reasons = Counter((letter.stage, letter.code) for letter in places.dead_letters)
    for (stage, code), count in sorted(reasons.items()):
        table.add_row(stage, code, f"{count:,}")
    return table


def _predictions(places: Places) -> Table:
    table = _table("What the stand-in for the model said", "prediction", "transactions", "share")
    total = sum(places.predictions.values())
    for label, count in places.predictions.items():
        table.add_row(label, f"{count:,}", f"{count / total:.1%}")
    return table


def _throughput(burst: Mapping[Position, Sent], places: Places) -> list[Row]:
    commits = [places.stored[at] for at in burst if at in places.stored]
    if not commits:
        return []
    seconds = max(commits) - min(message.time for message in burst.values())
    how = "messages sent at once, from the first one's timestamp to the last commit"
    return [("throughput", f"{len(burst) / seconds:,.0f}/s", f"{len(burst):,} {how}")]


def _latency(steady: Mapping[Position, Sent], places: Places) -> list[Row]:
    delays = sorted(
        1000 * (places.stored[at] - message.time)
        for at, message in steady.items()
        if at in places.stored
    )
    if not delays:
        return []
    times = [message.time for message in steady.values()]
    rate = len(steady) / (max(times) - min(times) or 1)
    p50, p99 = (delays[int(share * (len(delays) - 1))] for share in (0.5, 0.99))
    how = f"{len(steady):,} messages at {rate:,.0f}/s, from a message's timestamp to its commit"
    return [("latency", f"p50 {p50:.0f} ms, p99 {p99:.0f} ms", how)]


def _requests(model: Mapping[str, Any]) -> list[Row]:
    mean = model["elements"] / max(1, model["requests"])
    statuses = (f"{count:,} with {code}" for code, count in sorted(model["by_status"].items()))
    how = f"answered {', '.join(statuses)}; {mean:.0f} transactions each on average"
    return [
        ("requests", f"{model['requests']:,}", how),
        ("in flight", f"{model['in_flight_max']}", "requests at most"),
    ]


def conclude(console: Console, produced: int, problems: Sequence[str]) -> None:
    """Print the verdict."""
    if not problems:
        console.print(
            f"[bold green]All {produced:,} messages ended in exactly one place, "
            "each in the right one.[/]",
            highlight=False,
        )
    for problem in problems:
        console.print("Wrong:", problem, style="red", markup=False, highlight=False, soft_wrap=True)
