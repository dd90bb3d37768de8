"""Rows on their way to a test's own database."""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from lab.servers import wait_until
from operators.backoff import Backoff
from operators.engine.loop import EventLoop
from operators.postgres.session import Session
from operators.postgres.writer import RowWriter
from operators.records import Failure, Message, Scored
from telemetry import Progress
from tests.kit import factories
from tests.kit.postgres import query

__all__ = ["TOPIC", "Writing"]

TOPIC = "transactions"


@dataclass
class _DeadLetters:
    """What the writer leaves to others."""

    found: list[Failure] = field(default_factory=list)
    earlier: set[int] = field(default_factory=set)
    """Offsets of what a predecessor has made a dead letter of."""

    def put(self, failures: list[Failure]) -> None:
        """Take failures."""
        self.found += failures

    def has(self, message: Message) -> bool:
        """Whether there is one already."""
        return message.offset in self.earlier


@dataclass
class _Fetch:
    """Of all messages of a writing."""

    finished: int = 0

    __hash__ = object.__hash__

    def finish(self, messages: int) -> None:
        """Note that some are done."""
        self.finished += messages


class Writing:
    """A writer, and what there is around it; more writers are other processes.

    :arg url: Of the test's own database.

    :arg lock_wait: Seconds for which another session with a lock is waited for.

    :arg settings: By field name.

    """

    def __init__(self, url: str, *, lock_wait: float = 10, **settings: Any) -> None:
        self.url, self.loop = url, EventLoop()
        self.told = ""
        self.progress, self.dead_letters, self.fetch = Progress(), _DeadLetters(), _Fetch()
        self.session = Session(
            factories.settings(database_url=url, **settings),
            lock_wait=timedelta(seconds=lock_wait),
        )
        self.writer = RowWriter(
            self.session,
            loop=self.loop,
            dead_letters=self.dead_letters,
            progress=self.progress,
            pauses=Backoff(first=0.01, longest=0.01),
        )

    def row(self, number: int, *, offset: int | None = None, **fields: Any) -> Scored:
        """Make a row of its own id and position."""
        predicted = fields.pop("predicted", None)
        at = number if offset is None else offset
        of = factories.message(topic=TOPIC, partition=1, offset=at, fetch=self.fetch)
        return factories.scored(of=of, predicted=predicted, **{"id": UUID(int=number), **fields})

    def rows(self, count: int, start: int = 0) -> list[Scored]:
        """Make rows."""
        return [self.row(number) for number in range(start, start + count)]

    def store(self, *rows: Scored) -> None:
        """Write rows, and let the loop run until that is done."""
        self.writer.write(rows)
        self.until(lambda: self.writer.is_idle)

    def until(self, condition: Callable[[], Any]) -> None:
        """Let the loop run until something is so."""

        def pumped() -> Any:
            self.loop.pump()
            self.loop.rest(0.02)
            return condition()

        wait_until(pumped, timedelta(seconds=60))

    def until_told(self, text: str, capsys: pytest.CaptureFixture[str], *, times: int = 1) -> None:
        """Let the loop run until the log has a text so often; `told` is the log."""

        def is_told() -> bool:
            out, err = capsys.readouterr()
            self.told += out + err
            return self.told.count(text) >= times

        self.until(is_told)

    def stored(self) -> list[int]:
        """Which rows are there, by the number that they were made with."""
        found = query(self.url, "SELECT id FROM transactions ORDER BY id")
        joined = query(self.url, "SELECT transaction_id FROM predictions ORDER BY 1")
        assert found == joined, "a transaction without prediction"
        return [identity.int for (identity,) in found]

    def places(self) -> list[tuple[int, int]]:
        """Number and offset of the stored ones."""
        found = query(self.url, "SELECT id, source_offset FROM transactions ORDER BY 2")
        return [(identity.int, offset) for identity, offset in found]

    def duplicates(self) -> list[tuple[int, int]]:
        """Number and offset of the repeated ones."""
        found = query(self.url, "SELECT transaction_id, source_offset FROM duplicates ORDER BY 2")
        return [(identity.int, offset) for identity, offset in found]

    def refused(self) -> dict[int, tuple[str, str, str]]:
        """Stage, disposition and code of what became a dead letter, by offset."""
        found = self.dead_letters.found
        by_offset = {each.message.offset: each for each in found}
        assert len(by_offset) == len(found), "a dead letter twice"
        return {
            offset: (each.stage, each.disposition, each.code) for offset, each in by_offset.items()
        }

    def totals(self) -> tuple[int, int]:
        """How many were stored and how many noted as duplicates, as it is told."""
        totals = self.progress.totals()
        return totals["stored"], totals["duplicates"]

    def trigger(self, table: str, body: str, *, each: str = "ROW") -> None:
        """Let the database do something before what it inserts into a table.

        :arg table: Its name.

        :arg body: In PL/pgSQL.

        :arg each: `ROW` or `STATEMENT`.

        """
        name = f"made_{next(_numbers)}"
        query(
            self.url,
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$",
        )
        query(
            self.url,
            f"CREATE TRIGGER {name} BEFORE INSERT ON {table}"
            f" FOR EACH {each} EXECUTE FUNCTION {name}()",
        )

    def drop_triggers(self, table: str) -> None:
        """Take away what `trigger` made, while the loop runs: the writer may hold the table."""
        names = query(
            self.url,
            "SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass AND NOT tgisinternal"
            " AND tgname LIKE 'made_%%'",
            table,
        )
        with ThreadPoolExecutor(1) as pool:
            for (name,) in names:
                dropped = pool.submit(query, self.url, f"DROP TRIGGER {name} ON {table}")
                self.until(dropped.done)
                dropped.result()


_numbers = itertools.count()
