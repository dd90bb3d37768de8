"""Whose an error is: each class of SQLSTATE, raised by the database itself, and its table."""

import random
import re
from collections.abc import Iterator
from contextlib import closing
from typing import Final

import psycopg
import pytest

from operators.errors import StoreError
from operators.postgres.errors import STATEMENT, STORE, Verdict, verdict_of
from tests.kit.checkout import CHECKOUT
from tests.kit.postgres import query
from tests.kit.writing import Writing

PICK: Final = random.Random(13)  # noqa: S311 - the same ones each time
# Python's client knows them all; by number, since the table is by class.
STATES: Final = sorted(
    state
    for state in psycopg.errors._sqlcodes  # noqa: SLF001 - there is no other list
    if re.fullmatch(r"[0-9A-Z]{5}", state) and state[:2] not in {"00", "01"}
)
CLASSES: Final = sorted({state[:2] for state in STATES})
CHOSEN: Final = [PICK.choice([each for each in STATES if each[:2] == name]) for name in CLASSES]
RAISE: Final = """
IF NEW.description ~ '^[0-9A-Z]{5}$' AND nextval('calls') <= 1 + 1000 * (NEW.amount > 0)::int THEN
    RAISE EXCEPTION 'customer %', NEW.merchant USING ERRCODE = NEW.description;
END IF;
RETURN NEW;
"""
ONCE, ALWAYS = 0, 1  # as an amount


@pytest.fixture
def writing(database_url: str) -> Iterator[Writing]:
    """A writer whose database raises what a description says."""
    made = Writing(database_url)
    made.store(made.row(1))
    query(made.url, "CREATE SEQUENCE calls")  # what it counts is not rolled back
    made.trigger("transactions", RAISE)
    with closing(made.session):
        yield made


def _verdict(state: str) -> Verdict:
    return verdict_of(psycopg.errors.lookup(state)())


def _of(verdict: Verdict) -> list[str]:
    return [state for state in CHOSEN if _verdict(state) == verdict]


@pytest.mark.parametrize("state", _of("store"))
def test_what_is_the_stores_is_waited_for(writing: Writing, state: str) -> None:
    """Nothing is given up, and all is written again."""
    rows = writing.rows(4, start=2)
    rows[1] = writing.row(3, description=state, amount=ONCE)
    writing.store(*rows)
    assert writing.stored() == [1, 2, 3, 4, 5]
    assert writing.refused() == {}


@pytest.mark.parametrize("state", [*_of("rows"), *_of("statement")])
def test_what_one_row_raises_is_that_messages(
    writing: Writing, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its neighbours pass; the text has no message of the database, which may have a value."""
    rows = writing.rows(4, start=2)
    rows[1] = writing.row(3, description=state, amount=ALWAYS, merchant="4929 1111")
    writing.store(*rows)
    assert writing.stored() == [1, 2, 4, 5]
    assert writing.refused() == {3: ("persist", "rejected", f"sqlstate.{state}")}
    assert "4929" not in writing.dead_letters.found[0].error + "".join(capsys.readouterr())


@pytest.mark.parametrize("state", _of("rows"))
def test_what_every_row_raises_is_waited_for(
    writing: Writing, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tables have changed: nothing is given up, and it goes on when they take rows again."""
    writing.trigger("predictions", f"RAISE EXCEPTION 'no' USING ERRCODE = '{state}';")
    writing.writer.write(writing.rows(3, start=2))
    writing.until_told("postgres.refuses", capsys, times=4)
    assert writing.refused() == {}
    writing.drop_triggers("predictions")
    writing.until(lambda: writing.writer.is_idle)
    assert writing.stored() == [1, 2, 3, 4]
    assert writing.refused() == {}


@pytest.mark.parametrize("state", _of("statement"))
def test_what_every_statement_raises_stops_the_stream(writing: Writing, state: str) -> None:
    """Somebody has to act; nothing is given up."""
    writing.trigger("predictions", f"RAISE EXCEPTION 'no' USING ERRCODE = '{state}';")
    with pytest.raises(StoreError, match=f"rows cannot be stored: .* {state}"):
        writing.store(*writing.rows(3, start=2))
    assert writing.refused() == {}
    assert writing.stored() == [1]


def test_the_page_has_every_class() -> None:
    """In the one of three lines that the code has it in; all others are in the first."""
    page = (CHECKOUT / "docs" / "tables.md").read_text("utf-8")
    [section] = re.findall(r"## Whose an error is\n(.*?)\n## ", page, re.DOTALL)
    named = {line: set(re.findall(r"`([0-9A-Z]{2})`", line)) for line in section.splitlines()}
    [rows] = [names for line, names in named.items() if line.startswith("| the message's")]
    [store] = [names for line, names in named.items() if line.startswith("| the store's: waits")]
    [statement] = [names for line, names in named.items() if line.startswith("| the store's: stop")]
    assert store == STORE
    assert statement == STATEMENT
    assert rows == {*CLASSES} - STORE - STATEMENT
