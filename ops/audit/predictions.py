"""Transactions without a prediction.

Each has exactly one, written in the same database transaction; only something at the database can
take it away, such as a trigger. So the rows are counted, in slices of ids from the two primary keys
alone, and looked at only where the numbers differ. Each slice is one statement, so that what the
stream writes meanwhile is in both counts or in none.
"""

from collections.abc import Callable
from typing import Any, Final

__all__ = ["without_prediction"]

SLICE: Final = 100_000

COUNT: Final = """
WITH slice AS MATERIALIZED (
    SELECT id FROM transactions
    WHERE %(after)s::uuid IS NULL OR id > %(after)s::uuid
    ORDER BY id LIMIT %(limit)s
), last AS (
    SELECT id FROM slice ORDER BY id DESC LIMIT 1
)
SELECT (SELECT count(*) FROM slice), (SELECT id FROM last), (
    SELECT count(*) FROM predictions
    WHERE (%(after)s::uuid IS NULL OR transaction_id > %(after)s::uuid)
        AND transaction_id <= (SELECT id FROM last)
)
"""

LOOK: Final = """
SELECT source_partition, source_offset FROM transactions
WHERE (%(after)s::uuid IS NULL OR id > %(after)s::uuid) AND id <= %(last)s
    AND source_topic = %(topic)s
    AND NOT EXISTS (SELECT FROM predictions WHERE transaction_id = id)
"""

Ask = Callable[[str, dict[str, Any]], list[tuple[Any, ...]]]
"""Runs a statement."""


def without_prediction(ask: Ask, topic: str) -> dict[int, list[int]]:
    """Look for transactions without a prediction.

    :arg ask: Of the database.

    :arg topic: That they came from.

    :returns: Their offsets in ascending order, by partition.

    """
    found: dict[int, list[int]] = {}
    after, count = None, SLICE
    while count == SLICE:
        values = {"after": after, "limit": SLICE}
        [(count, last, predictions)] = ask(COUNT, values)
        if count != predictions:
            for partition, offset in ask(LOOK, {"after": after, "last": last, "topic": topic}):
                found.setdefault(partition, []).append(offset)
        after = last
    return {partition: sorted(offsets) for partition, offsets in found.items()}
