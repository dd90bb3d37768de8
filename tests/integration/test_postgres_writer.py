"""The Postgres writer against Postgres: what becomes of rows, and of the writer in trouble."""

import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from threading import Thread, Timer
from typing import Any
from uuid import UUID

import psycopg
import pytest
from confluent_kafka import Message as KafkaMessage

from lab.servers import KafkaServer, Postgres
from operators.dead_letters.already_written import ReadBack
from operators.dead_letters.writer import DeadLetterWriter
from operators.engine.loop import Loop
from operators.engine.shutdown import Stop
from operators.errors import StoreError
from operators.postgres.session import Session
from operators.postgres.writer import WAITING_ROWS, WRITE_ROWS, PostgresWriter
from operators.records import Scored
from operators.sinks import PostgresSink
from settings import Settings
from telemetry import Progress
from tests.factories import message, prediction, scored
from tests.support import (
    Topics,
    environment,
    header,
    positions,
    query,
    read_all,
    settings_of,
    wait_until,
)

SECRET = "4929 1111 2222 3333"  # noqa: S105 - a customer's, for a description


class Writing:
    """Writers to the test's own database and error topic."""

    def __init__(self, broker: KafkaServer, topics: Topics, database_url: str) -> None:
        self.broker, self.topics, self.url = broker, topics, database_url
        self.stop = Stop(timedelta(seconds=0.3))
        self.progress = Progress()
        self.opened: list[tuple[PostgresWriter, Loop]] = []
        self.numbers = itertools.count()
        self.writer = self.another()

    def settings(self, **variables: str) -> Settings:
        """Make settings."""
        given = {"database_url": self.url, "model_url": "http://unused"}
        return settings_of(environment(self.broker, self.topics, **given, **variables))

    def another(self, **variables: str) -> PostgresWriter:
        """Make a writer; the block's end closes it."""
        settings, loop = self.settings(**variables), Loop()
        self.read_back = ReadBack(settings)
        writer = PostgresWriter(
            Session(settings, loop=loop, stop=self.stop),
            loop=loop,
            dead_letters=DeadLetterWriter(
                settings,
                loop=loop,
                read_back=self.read_back,
                progress=self.progress,
                stop=self.stop,
            ),
            read_back=self.read_back,
            progress=self.progress,
        )
        writer.open(f"{next(self.numbers)}-{self.topics.transactions}")
        self.opened.append((writer, loop))
        return writer

    def row(self, number: int, *, offset: int | None = None, **fields: Any) -> Scored:
        """Make a row of its own id and position."""
        predicted = fields.pop("predicted", None)
        position = {"partition": 1, "offset": number if offset is None else offset}
        of = message(topic=self.topics.transactions, **position)
        return scored(of=of, predicted=predicted, **{"id": UUID(int=number), **fields})

    def rows(self, count: int, start: int = 0) -> list[Scored]:
        """Make rows."""
        return [self.row(number) for number in range(start, start + count)]

    def store(self, *rows: Scored) -> None:
        """Write rows and wait for them."""
        self.writer.write(rows)
        self.writer.flush()

    def stored(self) -> list[int]:
        """Which rows are there, by the number that they were made with."""
        found = query(self.url, "SELECT id FROM transactions ORDER BY id")
        joined = query(self.url, "SELECT transaction_id FROM predictions ORDER BY 1")
        assert found == joined, "a transaction without prediction"
        return [identity.int for (identity,) in found]

    def duplicates(self) -> list[tuple[int, int]]:
        """Number and offset of the repeated ones."""
        found = query(self.url, "SELECT transaction_id, source_offset FROM duplicates ORDER BY 2")
        return [(identity.int, offset) for identity, offset in found]

    def dead_letters(self) -> list[KafkaMessage]:
        """What is in the error topic now."""
        return read_all(self.broker, self.topics.failed)

    def connections(self) -> set[int]:
        """Process numbers of the writers' connections, at the server."""
        found = query(
            self.url,
            "SELECT pid FROM pg_stat_activity WHERE application_name LIKE %s",
            f"%{self.topics.group}",
        )
        return {pid for (pid,) in found}

    def later(self, action: Callable[[], Any], seconds: float) -> Timer:
        """Do something while the test waits elsewhere."""
        timer = Timer(seconds, action)
        timer.start()
        return timer


@pytest.fixture
def writing(broker: KafkaServer, topics: Topics, database_url: str) -> Iterator[Writing]:
    """A writer to the test's own database."""
    made = Writing(broker, topics, database_url)
    yield made
    for writer, loop in made.opened:
        writer.close()
        loop.pump()  # what was given up takes note of it


def numbers(count: int, start: int = 0) -> list[int]:
    """The numbers of so many rows."""
    return list(range(start, start + count))


# What becomes of a row.


def test_values_are_stored_exactly(writing: Writing) -> None:
    """Decimals to the digit, text to the character, times to the microsecond, nulls as nulls."""
    rows = [
        writing.row(
            1,
            external_id="TX-\u00e9\u5bff",
            description="a 'b' \"c\" \\ \t\n\U0001f4b3 \u202e" + "x" * 9_000,
            amount=Decimal("-12345678901234.5678"),
            timestamp=datetime(2026, 2, 28, 23, 59, 59, 999_999, tzinfo=UTC),
            merchant=None,
            operation_type="",
            side="\\N",
            predicted=prediction(prediction="fraud \u26a0", fraud_score=0.1, model_version=None),
        ),
        writing.row(
            2,
            amount=Decimal("1E+2"),
            timestamp=datetime(1, 1, 1, tzinfo=UTC),
            merchant="",
            predicted=prediction(fraud_score=5e-324, model_version=""),
        ),
        writing.row(
            3,
            amount=Decimal("0.0001"),
            timestamp=datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
            predicted=prediction(fraud_score=1.0),
        ),
    ]
    writing.store(*rows)
    found = query(
        writing.url,
        """
        SELECT id, external_id, description, amount, extract(epoch FROM timestamp), merchant,
            operation_type, side, source_topic, source_partition, source_offset,
            prediction, fraud_score, model_version
        FROM transactions JOIN predictions ON transaction_id = id ORDER BY id
        """,
    )
    assert found == [
        (
            *row.transaction[:4],
            # Without Python's limits of years.
            _epoch(row.transaction.timestamp),
            *row.transaction[5:],
            writing.topics.transactions,
            1,
            row.message.offset,
            *row.prediction,
        )
        for row in rows
    ]


def _epoch(moment: datetime) -> Decimal:
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return Decimal(since // timedelta(microseconds=1)) / 1_000_000


def test_a_redelivered_message_changes_nothing(writing: Writing) -> None:
    """The same position again: in another batch, in the same, by another writer."""
    rows = writing.rows(3)
    writing.store(*rows)
    before = query(writing.url, "SELECT * FROM transactions JOIN predictions ON true ORDER BY 1")
    writing.store(*rows, *rows)
    other = writing.another()
    other.write(rows)
    other.flush()
    after = query(writing.url, "SELECT * FROM transactions JOIN predictions ON true ORDER BY 1")
    assert after == before
    assert writing.duplicates() == []
    assert writing.dead_letters() == []
    assert writing.progress.totals()["stored"] == 3


def test_a_restored_message_is_left_to_the_partition_that_reads_it_again(writing: Writing) -> None:
    """So it is stored or fails, and not both, whatever the model says the second time."""
    writing.read_back.begin(f"1-{writing.topics.transactions}", 2)
    rows = [row._replace(message=row.message._replace(restored=True)) for row in writing.rows(4)]
    writing.store(*rows, writing.row(3))
    assert writing.stored() == [0, 1, 3]


def test_a_repeated_message_leaves_its_position(writing: Writing) -> None:
    """The same id and content elsewhere: one row more in `duplicates`, however often it comes."""
    writing.store(writing.row(1))
    for _ in range(2):
        writing.store(writing.row(1, offset=50), writing.row(1, offset=51), writing.row(2))
    assert writing.stored() == [1, 2]
    assert positions(writing.url, "transactions") == {(1, 1), (1, 2)}
    assert writing.duplicates() == [(1, 50), (1, 51)]
    assert writing.dead_letters() == []
    assert writing.progress.totals() | {"stored": 2, "duplicates": 2} == writing.progress.totals()


def test_a_message_repeated_within_a_batch_leaves_its_position(writing: Writing) -> None:
    """The first in the batch is the one that is stored."""
    writing.store(writing.row(1, offset=7), writing.row(1, offset=5), writing.row(1, offset=6))
    assert positions(writing.url, "transactions") == {(1, 7)}
    assert writing.duplicates() == [(1, 5), (1, 6)]


def test_the_same_amount_written_otherwise_is_the_same_content(writing: Writing) -> None:
    """12.5 and 12.50 are one number, and another prediction is no other content."""
    writing.store(writing.row(1, amount=Decimal("12.5")))
    again = prediction(fraud_score=0.9)
    writing.store(writing.row(1, offset=9, amount=Decimal("12.5000"), predicted=again))
    assert writing.duplicates() == [(1, 9)]
    assert query(writing.url, "SELECT fraud_score FROM predictions") == [(0.25,)]


def test_writers_that_repeat_each_other_store_each_once(writing: Writing) -> None:
    """Two at the same time, in opposite orders: one stores, the other notes a duplicate."""
    count = 3_000
    forth = [writing.row(number) for number in range(count)]
    back = [writing.row(number, offset=count + number) for number in reversed(range(count))]

    def write(rows: Sequence[Scored]) -> None:
        writer = writing.another()
        for begin in range(0, count, 100):
            writer.write(rows[begin : begin + 100])
        writer.flush()

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(write, rows) for rows in (forth, back)]:
            done.result()
    assert writing.stored() == numbers(count)
    assert sorted(number for number, _ in writing.duplicates()) == numbers(count)
    assert writing.dead_letters() == []
    everything = positions(writing.url, "transactions") | positions(writing.url, "duplicates")
    assert everything == {(1, offset) for offset in range(2 * count)}


def test_the_same_id_with_other_content_is_a_conflict(writing: Writing) -> None:
    """The first stays, the second is in the error topic when flush returns; any field counts."""
    others: list[dict[str, Any]] = [
        {"amount": Decimal("12.5001")},
        {"merchant": None},
        {"external_id": "TX-1"},
        {"timestamp": datetime(2026, 1, 5, 8, 0, 1, tzinfo=UTC)},
        {"operation_type": "purchase"},
        {"side": "debit"},
        {"description": SECRET},
    ]
    writing.store(*writing.rows(len(others)))
    before = query(writing.url, "SELECT * FROM transactions ORDER BY id")
    writing.store(
        *(writing.row(number, offset=100 + number, **other) for number, other in enumerate(others))
    )
    assert query(writing.url, "SELECT * FROM transactions ORDER BY id") == before
    assert writing.duplicates() == []
    found = writing.dead_letters()
    expected = {str(100 + number) for number in range(len(others))}
    assert {header(each, "dlq.offset") for each in found} == expected
    for each in found:
        assert [header(each, f"dlq.{name}") for name in ("stage", "disposition", "code")] == [
            "persist",
            "conflict",
            "id.conflict",
        ]
        assert SECRET not in json.loads(each.value() or b"")["error"]


def test_a_conflict_within_a_batch_is_told_too(writing: Writing) -> None:
    """The first of the batch stays; repetitions of either are what they are."""
    writing.store(
        writing.row(1, offset=1),
        writing.row(1, offset=2, description="other"),
        writing.row(1, offset=3),
    )
    assert positions(writing.url, "transactions") == {(1, 1)}
    assert writing.duplicates() == [(1, 3)]
    assert [header(found, "dlq.offset") for found in writing.dead_letters()] == ["2"]


def test_a_row_that_the_database_alone_refuses_is_a_dead_letter(writing: Writing) -> None:
    """Its neighbours are stored; the error names the rule and not the value."""
    query(
        writing.url,
        f"ALTER TABLE transactions ADD CONSTRAINT no_cards CHECK (description <> '{SECRET}')",
    )
    rows = [
        writing.row(number, description=SECRET if number in {0, 37, 99} else "plain")
        for number in range(100)
    ]
    writing.store(*rows)
    assert writing.stored() == [number for number in range(100) if number not in {0, 37, 99}]
    found = {header(each, "dlq.offset"): each for each in writing.dead_letters()}
    assert sorted(map(str, found)) == ["0", "37", "99"]
    for each in found.values():
        assert [header(each, f"dlq.{name}") for name in ("stage", "disposition", "code")] == [
            "persist",
            "rejected",
            "sqlstate.23514",
        ]
        error = json.loads(each.value() or b"")["error"]
        assert "no_cards" in error
        assert SECRET not in error
    assert writing.progress.totals() | {"stored": 97, "failed": 3} == writing.progress.totals()


def test_a_position_that_another_transaction_has_is_refused(writing: Writing) -> None:
    """Two transactions cannot come from one message."""
    writing.store(writing.row(1))
    writing.store(writing.row(2, offset=1), writing.row(3))
    assert writing.stored() == [1, 3]
    [found] = writing.dead_letters()
    assert header(found, "dlq.code") == "sqlstate.23505"


@pytest.mark.parametrize("table", ["predictions", "duplicates"])
def test_all_tables_are_written_in_one_transaction(writing: Writing, table: str) -> None:
    """If one of them fails, nothing of the batch is in the others."""
    writing.store(writing.row(1))
    query(
        writing.url,
        """
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN RAISE EXCEPTION 'disk on fire'; END $$
        """,
    )
    query(writing.url, f"CREATE TRIGGER t BEFORE INSERT ON {table} EXECUTE FUNCTION fail()")
    with pytest.raises(StoreError, match="rows cannot be stored: RaiseException P0001"):
        writing.store(writing.row(2), writing.row(1, offset=9))
    assert writing.stored() == [1]
    assert writing.duplicates() == []


# Flush and write.


def test_flush_is_a_barrier(writing: Writing) -> None:
    """When it returns, other connections see every row, of several transactions too."""
    writing.writer.write(writing.rows(2 * WRITE_ROWS + 1))
    writing.writer.flush()
    assert writing.stored() == numbers(2 * WRITE_ROWS + 1)
    assert writing.progress.totals()["stored"] == 2 * WRITE_ROWS + 1


def test_rows_are_stored_without_a_flush(writing: Writing) -> None:
    """The writer is at work whenever the worker lets its loop run."""
    writing.writer.write(writing.rows(10))

    def all_stored() -> bool:
        writing.writer.write([])
        return writing.stored() == numbers(10)

    wait_until(all_stored, what="the rows")
    writing.writer.flush()


def test_write_waits_while_too_much_is_waiting(writing: Writing, postgres: Postgres) -> None:
    """While Postgres hangs, it takes its limit, what is on its way, and one call; not more."""
    writer = writing.another(DATABASE_TIMEOUT="60")
    rows, taken = 3 * WAITING_ROWS, 0

    def feed() -> None:
        nonlocal taken
        for begin in range(1, rows + 1, 100):
            writer.write(writing.rows(100, start=begin))
            taken += 100

    writer.write(writing.rows(1))
    writer.flush()
    postgres.pause()
    feeding = Thread(target=feed)
    feeding.start()
    wait_until(_steady(lambda: taken), what="the writer to take no more")
    assert WAITING_ROWS <= taken <= WAITING_ROWS + WRITE_ROWS + 100
    assert feeding.is_alive()
    postgres.resume()
    feeding.join(20)
    writer.flush()
    assert taken == rows
    assert writing.stored() == numbers(rows + 1)


def _steady(look: Callable[[], int]) -> Callable[[], bool]:
    """Say whether a number has been the same, and not 0, for half a second."""
    seen, since = 0, time.monotonic()

    def steady() -> bool:
        nonlocal seen, since
        if (now := look()) != seen:
            seen, since = now, time.monotonic()
        return seen > 0 and time.monotonic() - since > 0.5

    return steady


@pytest.mark.parametrize("call", ["flush", "write"])
def test_a_stop_ends_the_waiting_for_a_database_that_hangs(
    writing: Writing, postgres: Postgres, call: str
) -> None:
    """When the stop is overdue it fails rather than hang."""
    writing.store(writing.row(0))
    postgres.pause()
    writing.stop.request()
    begin = time.monotonic()
    with pytest.raises(StoreError, match="no answer before the end of the stop"):
        _wait_in(writing, call)
    assert time.monotonic() - begin < 3


def _wait_in(writing: Writing, call: str) -> None:
    if call == "flush":
        writing.writer.write(writing.rows(1, start=1))
        writing.writer.flush()
    else:
        writing.writer.write(writing.rows(3 * WAITING_ROWS, start=1))


# Trouble that passes.


def _end_sessions(writing: Writing) -> None:
    ended = query(
        writing.url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE %s",
        f"%{writing.topics.group}",
    )
    assert ended == [(True,)]


def test_a_connection_that_is_ended_is_made_again(writing: Writing) -> None:
    """As after a fail-over or an administrator's `pg_terminate_backend`."""
    writing.store(writing.row(1))
    _end_sessions(writing)
    writing.store(writing.row(2))
    assert writing.stored() == [1, 2]


def test_a_killed_database_is_waited_for(writing: Writing, postgres: Postgres) -> None:
    """What was committed before is there, what was under way is written again, each once."""
    writing.store(*writing.rows(100))
    writing.writer.write(writing.rows(1_000, start=100))
    postgres.kill()
    starting = writing.later(postgres.start, 0.5)
    writing.writer.flush()
    starting.join()
    assert writing.stored() == numbers(1_100)
    assert writing.duplicates() == []
    assert writing.dead_letters() == []


def test_a_database_that_hangs_longer_than_the_limit_is_waited_for(
    writing: Writing, postgres: Postgres
) -> None:
    """The statement is given up, the connection with it, and all is written again."""
    idle = writing.connections()
    writer = writing.another(DATABASE_TIMEOUT="0.3")
    writer.write(writing.rows(1))
    writer.flush()
    before = writing.connections() - idle
    postgres.pause()
    resuming = writing.later(postgres.resume, 1.2)
    writer.write(writing.rows(50, start=1))
    writer.flush()
    resuming.join()
    assert writing.stored() == numbers(51)
    assert writing.duplicates() == []
    assert not before & writing.connections()


def test_a_lock_held_longer_than_the_limit_is_waited_for(writing: Writing) -> None:
    """As during a migration: the statement is cancelled and sent again."""
    writer = writing.another(DATABASE_TIMEOUT="0.2")
    with closing(psycopg.connect(writing.url)) as other:
        other.execute("LOCK TABLE transactions")
        releasing = writing.later(other.commit, 0.8)
        writer.write(writing.rows(5))
        writer.flush()
        releasing.join()
    assert writing.stored() == numbers(5)


def test_a_database_that_is_read_only_is_waited_for(writing: Writing) -> None:
    """As the old primary is after a fail-over, and the new one before."""
    [(name,)] = query(writing.url, "SELECT current_database()")
    query(writing.url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")

    def end() -> None:
        with psycopg.connect(writing.url, autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")

    _end_sessions(writing)  # the setting is one of those that begin after it
    ending = writing.later(end, 0.3)
    writing.store(*writing.rows(5))
    ending.join()
    assert writing.stored() == numbers(5)


def _refuse_once(writing: Writing, state: str) -> None:
    """Let the next transaction fail with this SQLSTATE, and none after it."""
    query(writing.url, "CREATE SEQUENCE calls")  # what it counts is not rolled back
    query(
        writing.url,
        f"""
        CREATE FUNCTION refuse_once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('calls') = 1 THEN RAISE EXCEPTION 'once' USING ERRCODE = '{state}'; END IF;
            RETURN NULL;
        END $$
        """,
    )
    query(
        writing.url,
        "CREATE TRIGGER t BEFORE INSERT ON predictions EXECUTE FUNCTION refuse_once()",
    )


@pytest.mark.parametrize(
    "state",
    [
        pytest.param("40P01", id="deadlock"),
        pytest.param("40001", id="serialisation"),
        pytest.param("53300", id="too-many-connections"),
    ],
)
def test_a_transaction_that_may_succeed_later_is_written_again(
    writing: Writing, state: str
) -> None:
    """All of it, and nothing twice."""
    _refuse_once(writing, state)
    writing.store(*writing.rows(5))
    assert writing.stored() == numbers(5)
    assert writing.duplicates() == []
    assert writing.dead_letters() == []


# Trouble that does not.


def test_a_full_disk_stops_the_stream(writing: Writing) -> None:
    """With a word that says so: somebody has to make room."""
    _refuse_once(writing, "53100")
    with pytest.raises(StoreError) as stopped:
        writing.store(writing.row(1))
    assert str(stopped.value) == "DATABASE_URL: rows cannot be stored: DiskFull 53100"
    assert writing.stored() == []


def test_an_error_that_does_not_pass_stops_the_stream(writing: Writing) -> None:
    """It names the setting and the state, and neither a value nor the password."""
    query(writing.url, "ALTER TABLE transactions DROP COLUMN side")
    with pytest.raises(StoreError) as stopped:
        writing.store(writing.row(1, description=SECRET))
    assert str(stopped.value) == "DATABASE_URL: rows cannot be stored: UndefinedColumn 42703"


def test_an_error_surfaces_at_the_next_write(writing: Writing) -> None:
    """Not only at the end of the epoch."""
    query(writing.url, "DROP TABLE predictions")
    writing.writer.write(writing.rows(1))

    def write_on() -> None:
        writing.writer.write([])

    with pytest.raises(StoreError, match="UndefinedTable"):
        wait_until(write_on, what="the error")


# The sink.


def test_a_snapshot_of_the_sink_waits_for_the_commit(writing: Writing) -> None:
    """The epoch may end only then."""
    sink = PostgresSink(writing.settings(), writers=lambda: writing.writer)
    part = sink.build_part("stored", "", None)
    part.write_batch(writing.rows(20))
    part.snapshot()
    assert writing.stored() == numbers(20)
    part.close()


def test_the_last_partition_that_closes_closes_the_connection(writing: Writing) -> None:
    """All partitions of a worker share one writer."""
    idle = writing.connections()
    writer = writing.another()
    sink = PostgresSink(writing.settings(), writers=lambda: writer)
    first, second = (sink.build_part("stored", key, None) for key in ("0", "1"))
    writer.close()  # the one that `another` opened
    first.write_batch(writing.rows(1))
    first.snapshot()
    first.close()
    assert len(writing.connections() - idle) == 1
    second.close()
    wait_until(lambda: writing.connections() == idle, what="the end of the connection")
    writer.open("0")
