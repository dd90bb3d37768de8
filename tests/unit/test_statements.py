"""The SQL names the columns that the code hands over; the databases' part is tested on one."""

import re

from operators.postgres import sql as statements
from operators.records import Prediction, Transaction

POSITION = ("source_topic", "source_partition", "source_offset")
COLUMNS = ["ordinal", *Transaction._fields, *POSITION, *Prediction._fields]


def _names(text: str) -> list[str]:
    return [part.split()[0] for part in text.split(",")]


def test_rows_are_copied_in_the_order_of_the_records_fields() -> None:
    """A row is an ordinal, then transaction, position and prediction, as tuples."""
    [listed] = re.findall(r"\((ordinal.*?)\)", statements.COPY)

    assert _names(listed) == COLUMNS


def test_every_column_has_a_type() -> None:
    """The binary format needs each, and the temporary table is of the same ones."""
    [listed] = re.findall(r"\((.*)\)", statements.STAGED, re.DOTALL)
    long = {"int4": "integer", "int8": "bigint", "float8": "double precision"}

    assert [part.strip().split(maxsplit=1) for part in listed.split(",")] == [
        [name, long.get(type_, type_)]
        for name, type_ in zip(COLUMNS, statements.COPY_TYPES, strict=True)
    ]


def test_same_content_means_every_field() -> None:
    """A field that is left out could differ unnoticed, and one version of it would be lost."""
    [(ours, theirs)] = re.findall(
        r"\(([^()]*)\)\s+IS NOT DISTINCT FROM\s+\(([^()]*)\)", statements.CLASSIFY
    )

    fields = [name for name in Transaction._fields if name != "id"]
    assert _names(ours) == [f"s.{name}" for name in fields]
    assert _names(theirs) == [f"t.{name}" for name in fields]
