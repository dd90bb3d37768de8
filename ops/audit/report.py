"""Print what an audit found."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ops.audit.account import Account, Audit, Figure
from ops.audit.spans import Span

__all__ = ["show"]

SHOWN: Final[tuple[Figure, ...]] = (
    "stored",
    "duplicates",
    "dead_letters",
    "missing",
    "doubled",
    "no_prediction",
    "in_progress",
    "put_back",
    "replayed",
    "no_record",
    "gone",
)
"""In this order. `stored` always, so that there is a figure; the others where they are not 0."""


class _Column(NamedTuple):
    """A heading, and what stands below it."""

    heading: str
    cells: Sequence[str]


def show(audit: Audit, console: Console) -> None:
    """Print a table, the positions that are wrong, and the verdict.

    No figure is cut or wrapped. Where a line for each partition is too wide for the console, the
    table is turned: a line for each figure, and as many partitions side by side as there is room
    for.

    :arg audit: What was found.

    :arg console: A table has lines on a terminal and is plain elsewhere.

    """
    for table in _tables(audit, console):
        # A width of its own, or a console that is too narrow for any table would cut it.
        table.width = _width(table, console)
        console.print(table, crop=False)
    for line in _lines(audit):
        console.print(line, markup=False, highlight=False)
    style = "bold green" if audit.adds_up else "bold red"
    for line in _verdict(audit):
        console.print(line, style=style, markup=False, highlight=False)


def _tables(audit: Audit, console: Console) -> Iterator[Table]:
    plain = not console.is_terminal
    rows = list(_rows(audit))
    table = _table(_turned(rows), plain=plain)
    if _width(table, console) <= console.width:
        yield table
        return
    headings, *partitions, total = rows
    # The total first: with many partitions, it is what one looks for.
    rest = [total, *partitions]
    while rest:
        beside = 1
        while beside < len(rest):
            wider = _table([headings, *rest[: beside + 1]], plain=plain)
            if _width(wider, console) > console.width:
                break
            beside += 1
        yield _table([headings, *rest[:beside]], plain=plain)
        rest = rest[beside:]


def _rows(audit: Audit) -> Iterator[_Column]:
    """Headings, a line for each partition, and the total."""
    figures = [figure for figure in SHOWN if figure == "stored" or audit.total(figure)]
    names = [figure.replace("_", " ") for figure in figures]
    yield _Column("partition", ["from", "committed", *names])
    for account in audit.partitions:
        # Positions as other commands take them; counts as people read them.
        committed = "none" if account.committed is None else f"{account.committed}"
        counts = [f"{account.counts[figure]:,}" for figure in figures]
        yield _Column(f"{account.partition}", [f"{account.first}", committed, *counts])
    yield _Column("total", ["", "", *(f"{audit.total(figure):,}" for figure in figures)])


def _turned(rows: Sequence[_Column]) -> list[_Column]:
    lines = zip(*([row.heading, *row.cells] for row in rows), strict=True)
    return [_Column(heading, cells) for heading, *cells in lines]


def _table(columns: Sequence[_Column], *, plain: bool) -> Table:
    table = Table(box=None if plain else SIMPLE_HEAD, pad_edge=not plain)
    for column in columns:
        table.add_column(column.heading, justify="right", no_wrap=True)
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*cells)
    return table


def _width(table: Table, console: Console) -> int:
    """What a table needs for all that is in it."""
    unlimited = console.options.update(max_width=100_000)
    return console.measure(table, options=unlimited).maximum


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
