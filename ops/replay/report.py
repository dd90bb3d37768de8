"""What a replay tells: its plan, its progress, and what it came to."""

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ops.replay.plan import REASONS, Plan
from ops.replay.run import Outcome

__all__ = ["Display", "show_outcome"]

LINE_EVERY: Final = 2.0  # seconds, elsewhere than on a terminal


class Display:
    """The plan, then a bar on a terminal, or a line now and then elsewhere.

    :arg console: Where to.

    :arg progress: Where the progress goes to.

    """

    def __init__(self, console: Console, progress: Console) -> None:
        self._console, self._progress = console, progress
        self._total = 0
        self._next_line = time.monotonic() + LINE_EVERY
        self._bar = Progress(
            TextColumn("Replaying"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=progress,
            expand=True,
            disable=not progress.is_terminal,
        )
        self._task = self._bar.add_task("", total=None)
        self._has_begun = False

    def __enter__(self) -> Self:
        """Use it; the bar comes with the first messages."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the bar as it is."""
        if self._has_begun:
            self._bar.stop()

    def show_plan(self, plan: Plan) -> None:
        """Print what goes and what stays."""
        self._total = plan.total
        plain = not self._console.is_terminal
        self._console.print(_goes(plan, plain=plain))
        if plan.stays:
            self._console.print()
            self._console.print(_stays(plan, plain=plain))
        self._console.print()

    def show(self, sent: int) -> None:
        """Show how far it is."""
        if not self._progress.is_terminal:
            now = time.monotonic()
            if now >= self._next_line:
                self._next_line = now + LINE_EVERY
                self._progress.print(f"{sent:,} of {self._total:,} replayed", highlight=False)
            return
        self._bar.update(self._task, completed=sent, total=self._total)
        if not self._has_begun:
            self._has_begun = True
            self._bar.start()


def _table(*columns: str, plain: bool) -> Table:
    table = Table(box=None if plain else SIMPLE_HEAD, pad_edge=not plain)
    for name in columns:
        table.add_column(name, justify="right" if name == "messages" else "left", no_wrap=True)
    return table


def _goes(plan: Plan, *, plain: bool) -> Table:
    table = _table("stage", "disposition", "code", "messages", plain=plain)
    for group, count in sorted(plan.goes.items()):
        # A text: what others write to the topic is no markup.
        table.add_row(*(Text(each) for each in group), f"{count:,}")
    table.add_section()
    table.add_row("to be replayed", "", "", f"{plan.total:,}")
    return table


def _stays(plan: Plan, *, plain: bool) -> Table:
    table = _table("what stays, and why", "messages", plain=plain)
    for reason in REASONS:
        if plan.stays[reason]:
            table.add_row(reason, f"{plan.stays[reason]:,}")
    return table


def show_outcome(
    outcome: Outcome, console: Console, *, topic: str, dry_run: bool, interrupted: bool
) -> None:
    """Print what was done.

    :arg outcome: Of the replay.

    :arg console: Where to.

    :arg topic: That messages went to.

    :arg dry_run: Whether nothing was to be sent.

    :arg interrupted: Whether a signal came.

    """
    for line in _lines(outcome, topic=topic, dry_run=dry_run, interrupted=interrupted):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _lines(outcome: Outcome, *, topic: str, dry_run: bool, interrupted: bool) -> Iterator[str]:
    total = outcome.plan.total
    if outcome.too_large:
        yield f"Too large for {topic} with two more headers: {', '.join(outcome.too_large)}"
    if outcome.expired:
        yield f"Expired in the error topic before they could be sent: {outcome.expired:,}"
    if interrupted and not total:
        yield "Interrupted before anything was sent."
    elif not total and _nothing_fits(outcome.plan):
        yield "No dead letter fits the options: nothing to replay."
    elif dry_run:
        yield f"Dry run: {total:,} messages would go to {topic}; nothing was sent."
    elif outcome.sent == total and not interrupted:
        yield f"Replayed {total:,} messages to {topic}."
    else:
        yield f"Replayed {outcome.sent:,} of {total:,} messages to {topic}."
    if interrupted and total:
        yield "Interrupted. The same command goes on from here, and sends none of them again."


def _nothing_fits(plan: Plan) -> bool:
    """Whether the options left nothing: what they choose may stay for another reason."""
    others = {"written twice: the first goes", "of another stream", "no dead letter"}
    found = {reason for reason in REASONS if plan.stays[reason]}
    return found - others == {"not chosen by the options"}
