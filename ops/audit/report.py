"""Print what an audit found."""

from collections.abc import Iterator
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ops.audit.account import Account, Audit, Figure
from ops.audit.spans import Span

__all__ = ["show"]

ALWAYS: Final[tuple[Figure, ...]] = (
    "stored",
    "duplicates",
    "dead_letters",
    "missing",
    "doubled",
    "in_progress",
)
IF_ANY: Final[tuple[Figure, ...]] = ("no_prediction", "put_back", "replayed", "no_record", "gone")


def show(audit: Audit, console: Console) -> None:
    """Print a table, the positions that are wrong, and the verdict.

    :arg audit: What was found.

    :arg console: A table has lines on a terminal and is plain elsewhere.

    """
    console.print(_table(audit, plain=not console.is_terminal))
    for line in _lines(audit):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    style = "bold green" if audit.adds_up else "bold red"
    for line in _verdict(audit):
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def _table(audit: Audit, *, plain: bool) -> Table:
    figures = [*ALWAYS, *(figure for figure in IF_ANY if audit.total(figure))]
    table = Table(box=None if plain else SIMPLE_HEAD, pad_edge=not plain)
    for name in ("partition", "from", "committed", *figures):
        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    for account in audit.partitions:
        committed = "none" if account.committed is None else f"{account.committed}"
        counts = [f"{account.counts[figure]}" for figure in figures]
        table.add_row(f"{account.partition}", f"{account.first}", committed, *counts)
    table.add_section()
    table.add_row("total", "", "", *(f"{audit.total(figure)}" for figure in figures))
    return table


def _lines(audit: Audit) -> Iterator[str]:
    for account in audit.partitions:
        if account.missing.spans:
            shown = ", ".join(_name(account, span) for span in account.missing.spans)
            more = account.counts["missing"] - sum(span.size for span in account.missing.spans)
            yield f"missing: {shown}{_more(more)}"
    for account in audit.partitions:
        if account.doubled.spans:
            shown = ", ".join(
                f"{_name(account, span)} ({' + '.join(account.doubled_in[span.first])})"
                for span in account.doubled.spans
            )
            more = account.counts["doubled"] - sum(span.size for span in account.doubled.spans)
            yield f"doubled: {shown}{_more(more)}"
    for account in audit.partitions:
        if account.no_prediction.spans:
            spans = account.no_prediction.spans
            more = account.counts["no_prediction"] - sum(span.size for span in spans)
            shown = ", ".join(_name(account, span) for span in spans)
            yield f"no prediction: {shown}{_more(more)}"
    if audit.is_read and audit.not_read:
        yield f"not read before the next start: {', '.join(map(str, audit.not_read))}"


def _verdict(audit: Audit) -> Iterator[str]:
    missing, doubled, gone = audit.total("missing"), audit.total("doubled"), audit.total("gone")
    consumed = f"{audit.total('settled') + missing:,} consumed messages"
    bare = audit.total("no_prediction")
    if not audit.is_read and not bare:
        yield f"Nothing to prove yet: {audit.group} has committed no offset of {audit.topic}."
    elif audit.adds_up:
        yield f"Adds up: {consumed}, each in exactly one place."
    else:
        without = f"; {bare:,} transactions without prediction" if bare else ""
        yield f"Differs: {consumed}, {missing:,} missing; {doubled:,} positions doubled{without}."
    if gone:
        yield f"Not judged: {gone:,} offsets that have expired in the topic and are in no store."


def _name(account: Account, span: Span) -> str:
    """`partition:offset`, or `partition:first-last`."""
    last = "" if span.first == span.last else f"-{span.last}"
    return f"{account.partition}:{span.first}{last}"


def _more(count: int) -> str:
    return f" and {count:,} more" if count else ""
