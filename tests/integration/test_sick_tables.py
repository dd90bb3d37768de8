"""Tables that take nothing, limits that are met, texts that have no place: what becomes of rows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from lab.servers import Postgres
from operators.errors import StoreError
from tests.kit.factories import prediction
from tests.kit.postgres import query
from tests.kit.writing import Writing

ROWS = 2_000
EACH_ROW = "PERFORM pg_sleep(0.005); RETURN NEW;"


@pytest.fixture
def make(database_url: str) -> Iterator[Callable[..., Writing]]:
    """Make writers to the test's own database."""
    made: list[Writing] = []

    def make(url: str = database_url, **settings: Any) -> Writing:
        made.append(Writing(url, **settings))
        return made[-1]

    yield make
    for writing in made:
        writing.session.close()


@pytest.fixture
def writing(make: Callable[..., Writing]) -> Writing:
    """A writer of a table that has taken a row."""
    made = make()
    made.store(made.row(10_000))
    return made


@dataclass(frozen=True)
class Change:
    """Of a table, by which nothing passes."""

    make: str
    undo: str
    told: str


REFUSING = {
    "column-without-default": Change(
        "ALTER TABLE transactions ADD tenant text NOT NULL DEFAULT 'x';"
        "ALTER TABLE transactions ALTER tenant DROP DEFAULT",
        "ALTER TABLE transactions DROP tenant",
        "NotNullViolation 23502 transactions tenant",
    ),
    "column-of-predictions": Change(
        "ALTER TABLE predictions ADD tenant text NOT NULL DEFAULT 'x';"
        "ALTER TABLE predictions ALTER tenant DROP DEFAULT",
        "ALTER TABLE predictions DROP tenant",
        "NotNullViolation 23502 predictions tenant",
    ),
    "check": Change(
        "ALTER TABLE transactions ADD CONSTRAINT none CHECK (source_offset < 0) NOT VALID",
        "ALTER TABLE transactions DROP CONSTRAINT none",
        "CheckViolation 23514 transactions none",
    ),
    "shorter-type": Change(
        "ALTER TABLE transactions ALTER side TYPE varchar(2) USING left(side, 2)",
        "ALTER TABLE transactions ALTER side TYPE text",
        "StringDataRightTruncation 22001",
    ),
    "trigger": Change(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'no %', NEW.description; END $$;"
        "CREATE TRIGGER no BEFORE INSERT ON transactions FOR EACH ROW EXECUTE FUNCTION no()",
        "DROP TRIGGER no ON transactions",
        "RaiseException P0001",
    ),
    "trigger-at-the-commit": Change(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'no %', NEW.transaction_id; END $$;"
        "CREATE CONSTRAINT TRIGGER no AFTER INSERT ON predictions DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION no()",
        "DROP TRIGGER no ON predictions",
        "RaiseException P0001",
    ),
}
STOPPING = {
    "column-dropped": Change(
        "ALTER TABLE transactions DROP side",
        "",
        'UndefinedColumn 42703: column "side" of relation "transactions" does not exist',
    ),
    "type-changed": Change(
        "ALTER TABLE transactions ALTER amount TYPE boolean USING amount > 0",
        "",
        'DatatypeMismatch 42804: column "amount" is of type boolean'
        " but expression is of type numeric",
    ),
    "table-renamed": Change(
        "ALTER TABLE predictions RENAME TO scores",
        "ALTER TABLE scores RENAME TO predictions",
        'UndefinedTable 42P01: relation "predictions" does not exist',
    ),
}


@pytest.mark.parametrize("change", REFUSING.values(), ids=REFUSING)
def test_tables_that_refuse_everything_are_waited_for(
    writing: Writing, change: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    """None is given up for it, one line names what is refused, and it goes on by itself."""
    query(writing.url, change.make)
    writing.writer.write(writing.rows(ROWS))
    writing.until_told("postgres.refuses", capsys, times=4)
    assert f"{change.told}: no row is taken until the tables take such rows again" in writing.told
    assert writing.refused() == {}
    assert writing.fetch.finished == 1
    query(writing.url, change.undo)
    writing.until(lambda: writing.writer.is_idle)
    assert writing.stored() == [*range(ROWS), 10_000]
    assert writing.refused() == {}
    assert writing.fetch.finished == ROWS + 1


@pytest.mark.parametrize("change", STOPPING.values(), ids=STOPPING)
def test_a_statement_that_is_refused_stops_the_stream(writing: Writing, change: Change) -> None:
    """Somebody has to act: one line names the table or the column, and none is given up."""
    query(writing.url, change.make)
    with pytest.raises(StoreError) as stopped:
        writing.store(*writing.rows(ROWS))
    assert str(stopped.value) == f"DATABASE_URL: rows cannot be stored: {change.told}"
    assert writing.refused() == {}
    assert writing.fetch.finished == 1


def test_a_right_that_is_revoked_stops_the_stream(
    make: Callable[..., Writing], postgres: Postgres
) -> None:
    """It is named with the table."""
    admin = make()
    admin.store(admin.row(10_000))
    writing = make(_role(admin.url, postgres))
    writing.store(writing.row(1))
    query(admin.url, "REVOKE INSERT ON predictions FROM writer")
    with pytest.raises(StoreError, match="42501: permission denied for table predictions"):
        writing.store(*writing.rows(10, start=2))
    assert writing.refused() == {}


def test_a_policy_that_refuses_one_row_makes_a_dead_letter(
    make: Callable[..., Writing], postgres: Postgres
) -> None:
    """It has the state of a right that is missing, and the others pass."""
    admin = make()
    admin.store(admin.row(10_000))
    query(
        admin.url,
        "ALTER TABLE transactions ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY all_rows ON transactions USING (true) WITH CHECK (side <> 'MINE')",
    )
    writing = make(_role(admin.url, postgres))
    rows = [writing.row(at, side="MINE" if at == 5 else "DEBIT") for at in range(10)]
    writing.store(*rows)
    assert writing.refused() == {5: ("persist", "rejected", "sqlstate.42501")}
    assert len(query(admin.url, "SELECT id FROM transactions")) == 10


def _role(url: str, postgres: Postgres) -> str:
    """Make a role with no more rights than the stream needs, and give the URL of it."""
    query(url, "DROP ROLE IF EXISTS writer")
    query(url, f"CREATE ROLE writer LOGIN PASSWORD '{postgres.password}'")
    query(
        url,
        "GRANT SELECT, INSERT ON transactions, predictions, duplicates, source_topics TO writer",
    )
    return url.replace("//postgres:", "//writer:")


@pytest.mark.parametrize("restarted", [False, True])
def test_a_single_bad_message_on_a_quiet_topic_is_a_dead_letter(
    writing: Writing, make: Callable[..., Writing], *, restarted: bool
) -> None:
    """A row that is stored is tried beside it, and leaves nothing behind."""
    query(writing.url, "ALTER TABLE transactions ADD CHECK (description <> 'bad')")
    before = query(writing.url, "SELECT * FROM transactions, predictions")
    other = make() if restarted else writing
    other.store(other.row(1, description="bad"))
    assert other.refused() == {1: ("persist", "rejected", "sqlstate.23514")}
    assert query(writing.url, "SELECT * FROM transactions, predictions") == before
    assert writing.duplicates() == []


def test_a_row_that_is_refused_at_the_commit_is_a_dead_letter(writing: Writing) -> None:
    """By a trigger that is deferred until then: it is found though nothing is committed."""
    query(
        writing.url,
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF NEW.description = 'bad' THEN RAISE 'no'; END IF; RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER no AFTER INSERT ON transactions DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION no()",
    )
    writing.store(writing.row(1, description="bad"), writing.row(2))
    assert writing.refused() == {1: ("persist", "rejected", "sqlstate.P0001")}
    assert writing.stored() == [2, 10_000]


def test_a_bad_message_in_front_of_an_empty_table_waits_for_a_good_one(
    make: Callable[..., Writing], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing was ever taken, so nobody can tell whose fault it is."""
    writing = make()
    query(writing.url, "ALTER TABLE transactions ADD CHECK (description <> 'bad')")
    writing.writer.write([writing.row(1, description="bad")])
    writing.until_told("postgres.refuses", capsys, times=5)
    assert writing.refused() == {}
    writing.store(writing.row(2))
    assert writing.stored() == [2]
    assert writing.refused() == {1: ("persist", "rejected", "sqlstate.23514")}


def test_a_row_that_would_not_pass_today_proves_nothing_against_others(
    writing: Writing, capsys: pytest.CaptureFixture[str]
) -> None:
    """A constraint for new rows only: the stored one is refused, a new one that passes decides."""
    query(
        writing.url,
        "ALTER TABLE transactions ADD CHECK (description = 'new') NOT VALID",
    )
    writing.writer.write([writing.row(1, description="bad")])
    writing.until_told("postgres.refuses", capsys, times=3)
    assert writing.refused() == {}
    writing.store(writing.row(2, description="new"))
    assert writing.refused() == {1: ("persist", "rejected", "sqlstate.23514")}


def test_rows_that_all_are_refused_where_old_ones_pass_are_not_given_up_without_end(
    writing: Writing, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a table whose last partition has ended: a hundred at most, then it waits."""
    query(writing.url, "ALTER TABLE transactions ADD CHECK (description <> 'tomorrow')")
    writing.writer.write([writing.row(at, description="tomorrow") for at in range(ROWS)])
    writing.until_told("postgres.refuses", capsys, times=3)
    assert len(writing.refused()) == 100
    query(writing.url, "ALTER TABLE transactions DROP CONSTRAINT transactions_description_check")
    writing.until(lambda: writing.writer.is_idle)
    assert len(writing.stored()) == ROWS - 100 + 1


def test_a_database_that_is_slower_than_the_limit_is_written_to_in_smaller_pieces(
    make: Callable[..., Writing], capsys: pytest.CaptureFixture[str]
) -> None:
    """The log says whose limit it was; and when it is quick again the pieces grow."""
    writing = make(database_timeout=1)
    writing.store(writing.row(10_000))
    writing.trigger("transactions", EACH_ROW)
    writing.store(*writing.rows(600))  # of 5 ms each
    writing.until_told("DATABASE_TIMEOUT: broken off here after 1 s", capsys)
    assert writing.stored() == [*range(600), 10_000]
    assert writing.duplicates() == []
    writing.drop_triggers("transactions")
    for start in (20_000, 24_000):
        writing.store(*writing.rows(4_000, start=start))
    [(largest,)] = query(
        writing.url,
        "SELECT max(count) FROM (SELECT count(*) FROM transactions GROUP BY created_at) AS sizes",
    )
    assert largest > 300  # more than could pass before


def test_a_limit_of_somebody_else_makes_the_pieces_smaller_too(
    make: Callable[..., Writing], database_url: str
) -> None:
    """As of a pooler or an administrator, who ends what takes longer than a second."""
    query(
        database_url,
        "CREATE FUNCTION kill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF (SELECT count(*) FROM new) > 100 THEN"
        " PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(1); END IF;"
        " RETURN NULL; END $$;"
        "CREATE TRIGGER kill AFTER INSERT ON transactions REFERENCING NEW TABLE AS new"
        " FOR EACH STATEMENT EXECUTE FUNCTION kill()",
    )
    writing = make()
    writing.store(*writing.rows(1_000))
    assert len(writing.stored()) == 1_000


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "UTF8"])
@pytest.mark.parametrize("client", ["latin1", "sql_ascii"])
def test_a_database_of_another_encoding_takes_what_it_can_hold(
    make: Callable[..., Writing], postgres: Postgres, encoding: str, client: str
) -> None:
    """Whatever role or database have for clients; the rest is that message's dead letter."""
    from ops.migrate import migrate  # noqa: PLC0415

    name = f"encoded_{encoding}_{client}".lower()
    query(
        postgres.url(),
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}'"
        " LOCALE_PROVIDER libc LOCALE 'C'",
    )
    try:
        url = postgres.url(name)
        migrate(url)
        query(url, f"ALTER DATABASE {name} SET client_encoding = '{client}'")
        writing = make(url)
        merchants = {1: "Corner Shop", 2: "Łódź", 3: "Café"}
        writing.store(*[writing.row(at, merchant=text) for at, text in merchants.items()])
        expected = {} if encoding != "LATIN1" else {2: ("persist", "rejected", "sqlstate.22P05")}
        assert writing.refused() == expected
        with psycopg.connect(url, client_encoding="utf8") as connection:
            found = connection.execute("SELECT source_offset, merchant::bytea FROM transactions")
            stored: dict[int, bytes] = dict(found.fetchall())
        form = "latin1" if encoding == "LATIN1" else "utf8"
        assert stored == {
            at: text.encode(form) for at, text in merchants.items() if at not in expected
        }
        writing.session.close()
    finally:
        postgres.drop_database(name)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"merchant": "\ud800"}, "UnicodeEncodeError"),
        ({"merchant": 10**400}, "TypeError"),
        ({"amount": "secret"}, "TypeError"),
        ({"predicted": prediction(fraud_score=10**400)}, "OverflowError"),
    ],
)
def test_what_the_client_has_no_form_for_is_that_messages_dead_letter(
    writing: Writing, fields: dict[str, Any], error: str
) -> None:
    """Whatever it raises for one row: the others are stored, and the text says no value."""
    writing.store(*[writing.row(at, **(fields if at == 3 else {})) for at in range(5)])
    assert writing.stored() == [0, 1, 2, 4, 10_000]
    assert writing.refused() == {3: ("persist", "rejected", "row.not_writable")}
    [letter] = writing.dead_letters.found
    assert letter.error.endswith(f": {error}: the row has no form in PostgreSQL's protocol")


def test_a_text_that_is_too_long_for_an_index_is_that_messages_dead_letter(
    writing: Writing,
) -> None:
    """54000, which psycopg counts among the errors of the connection."""
    query(writing.url, "CREATE INDEX ON transactions (description)")
    text = "".join(chr(0x4E00 + number * 7919 % 20_000) for number in range(9_000))
    rows = [writing.row(at, description=text if at == 3 else "plain") for at in range(5)]
    writing.store(*rows)
    assert writing.refused() == {3: ("persist", "rejected", "sqlstate.54000")}


def test_what_was_prepared_before_a_change_is_prepared_again(writing: Writing) -> None:
    """A statement or a table that the session has no more: a new session mends it."""
    for number in range(8):  # psycopg prepares what comes again and again
        writing.store(writing.row(number))
    writing.loop.run(writing.session.run(_forget))
    writing.store(writing.row(8))
    assert writing.stored() == [*range(9), 10_000]


async def _forget(connection: psycopg.AsyncConnection[object]) -> None:
    await connection.execute("DEALLOCATE ALL")
    await connection.execute("DROP TABLE staged")
