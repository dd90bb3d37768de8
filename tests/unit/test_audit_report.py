"""What an audit prints, on consoles of several widths."""

import io
import re
from collections import Counter

import pytest
from rich.console import Console

from ops.audit.account import Account, Audit, Figure
from ops.audit.report import show
from ops.audit.spans import Examples

ALL: tuple[Figure, ...] = (
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
BIG = 123_456_789_012


def _audit(partitions: int, counts: dict[Figure, int], *, committed: int | None = BIG) -> Audit:
    accounts = [
        Account(number, committed, Examples(1), Examples(1), Examples(1), counts=Counter(counts))
        for number in range(partitions)
    ]
    return Audit("transactions", "fraud", "transactions-failed", accounts)


def _shown(audit: Audit, width: int, *, terminal: bool = True) -> str:
    file = io.StringIO()
    show(audit, Console(file=file, width=width, force_terminal=terminal, color_system=None))
    return file.getvalue()


def _figures(text: str) -> Counter[str]:
    return Counter(re.findall(r"(?<!\S)[\d,]+(?!\S)", text))


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("partitions", [1, 4, 100])
@pytest.mark.parametrize("width", [80, 60, 40])
def test_no_figure_is_cut_and_no_line_too_long(
    width: int, partitions: int, *, terminal: bool
) -> None:
    """However large the figures, and however many the partitions."""
    counts = {figure: BIG + number for number, figure in enumerate(ALL)}
    text = _shown(_audit(partitions, counts), width, terminal=terminal)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    found = _figures(text)
    for figure in counts.values():
        assert found[f"{figure:,}"] >= partitions
        assert f"{figure * partitions:,}" in found
    assert found[f"{BIG}"] == partitions


def test_a_console_narrower_than_a_figure_gets_all_of_it() -> None:
    """Then the terminal breaks the line, and nothing is lost."""
    assert f"{BIG:,}" in _shown(_audit(2, {"stored": BIG}), 10)


def test_what_is_zero_everywhere_has_no_column() -> None:
    """So that what is there fits; `stored` is always said."""
    text = _shown(_audit(2, {"duplicates": 3}), 80)
    heading = next(line for line in text.splitlines() if "partition" in line)
    assert heading.split() == ["partition", "from", "committed", "stored", "duplicates"]


def test_small_figures_have_a_line_for_each_partition() -> None:
    """The table is turned only where it has to be."""
    text = _shown(_audit(2, {"stored": 1234, "dead_letters": 5}, committed=None), 80)
    lines = [line.split() for line in text.splitlines()]
    assert ["0", "0", "none", "1,234", "5"] in lines
    assert ["total", "2,468", "10"] in lines


def test_a_turned_table_has_a_line_for_each_figure_and_begins_with_the_total() -> None:
    """Partitions are side by side, as many as there is room for."""
    counts = dict.fromkeys(ALL, BIG)
    lines = [line.split() for line in _shown(_audit(5, counts), 80).splitlines()]
    assert ["partition", "total", "0", "1"] in lines
    assert ["partition", "2", "3", "4"] in lines
    assert ["dead", "letters", f"{5 * BIG:,}", f"{BIG:,}", f"{BIG:,}"] in lines


def test_sentences_are_broken_between_words() -> None:
    """A figure in the verdict is not broken either."""
    text = _shown(_audit(1, {"settled": BIG, "missing": BIG}), 40)
    assert max(map(len, text.splitlines())) <= 40
    assert f"{BIG * 2:,} consumed" in text
