"""What a model can do wrong, asked for by the description of its first transaction.

Runs in the servers' own environments, so it imports nothing of the project.
"""

from collections.abc import Callable
from typing import Any

FOREIGN = "00000000-0000-0000-0000-00000000f0f0"

_COLUMNS: dict[str, Callable[[list[Any]], Any]] = {
    "drops": list.pop,
    "doubles": lambda column: column.append(column[0]),
    "shuffles": list.reverse,
}
_FIRST: dict[str, tuple[int, Any]] = {
    "foreign": (0, FOREIGN),
    "empty": (1, ""),
    "nan": (2, float("nan")),
    "above": (2, 1.5),
}


def spoil(fault: str, *columns: list[Any]) -> None:
    """Change a right answer in place.

    :arg fault: Its name; of any other name, nothing is changed.

    :arg columns: Ids, predictions and scores.

    """
    if change := _COLUMNS.get(fault):
        for column in columns:
            change(column)
    if fault in _FIRST:
        position, value = _FIRST[fault]
        columns[position][0] = value
