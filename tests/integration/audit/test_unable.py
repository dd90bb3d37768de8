"""When the audit cannot look."""

from collections.abc import Callable, Mapping
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

import ops.audit.letters
import ops.audit.tables
import ops.audit.topic
from lab.servers import KafkaServer, Postgres, free_port
from ops.audit.letters import Letters
from settings import Settings
from tests.integration.audit.world import World
from tests.kit.postgres import query


@pytest.mark.parametrize(
    ("spoiled", "expected"),
    [
        ({"KAFKA_CONSUMER_GROUP": ""}, "settings: KAFKA_CONSUMER_GROUP: is not set"),
        (
            {"KAFKA_BOOTSTRAP_SERVERS": "{nobody}"},
            "audit: KAFKA_BOOTSTRAP_SERVERS: no broker answers at {nobody}",
        ),
        ({"KAFKA_TOPIC": "nowhere"}, "audit: KAFKA_TOPIC: there is no topic nowhere at "),
        (
            {"KAFKA_ERROR_TOPIC": "nowhere"},
            "audit: KAFKA_ERROR_TOPIC: there is no topic nowhere at ",
        ),
        (
            {"DATABASE_URL": "postgresql://fraud:hidden@{nobody}/fraud"},
            "audit: DATABASE_URL: connection failed: ",
        ),
    ],
)
def test_what_it_needs_and_has_not_is_named(
    healthy: World, spoiled: dict[str, str], expected: str
) -> None:
    """Exit code 2, one line with the setting, nothing else, and no secret."""
    nobody = f"127.0.0.1:{free_port()}"
    variables = {name: value.replace("{nobody}", nobody) for name, value in spoiled.items()}
    result = healthy.audit("--json", START_TIMEOUT="1", **variables)
    assert result.status == 2
    assert result.output == ""
    [line] = result.errors
    assert line.startswith(expected.replace("{nobody}", nobody))


def test_a_database_without_tables_is_named(healthy: World, postgres: Postgres) -> None:
    """With the command that makes them."""
    name = f"empty_{free_port()}"
    postgres.create_database(name)
    result = healthy.audit(DATABASE_URL=postgres.url(name))
    assert result.status == 2
    expected = "DATABASE_URL: there is no table transactions: run python -m ops migrate"
    assert result.errors == [f"audit: {expected}"]


def test_rights_to_read_are_all_it_needs(healthy: World, postgres: Postgres) -> None:
    """SELECT on four tables; without it, the table is named."""
    role = sql.Identifier(f"reader_{uuid4().hex}")
    with psycopg.connect(healthy.database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'hidden'").format(role))
        connection.execute(sql.SQL("GRANT SELECT ON transactions TO {}").format(role))
        user = role.as_string(connection).strip('"')
        url = healthy.database_url.replace(f"postgres:{postgres.password}", f"{user}:hidden")
        result = healthy.audit(DATABASE_URL=url)
        assert result.status == 2
        assert result.errors == ["audit: DATABASE_URL: this user lacks SELECT on duplicates"]
        rest = "GRANT SELECT ON predictions, duplicates, source_topics TO {}"
        connection.execute(sql.SQL(rest).format(role))
        assert healthy.audited(DATABASE_URL=url).status == 0
        connection.execute(sql.SQL("DROP OWNED BY {}").format(role))
        connection.execute(sql.SQL("DROP ROLE {}").format(role))


def during(moment: str, event: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let something happen when the error topic has been read, or before it is."""
    read = ops.audit.letters.read

    def eventful(settings: Settings, starts: Mapping[int, int]) -> dict[int, Letters]:
        if moment == "before":
            event()
        letters = read(settings, starts)
        if moment == "after":
            event()
        return letters

    monkeypatch.setattr(ops.audit.letters, "read", eventful)


@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_a_database_that_is_lost_meanwhile_is_named(
    healthy: World, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """One that is frozen too: `DATABASE_TIMEOUT` ends the wait."""
    during("after", getattr(postgres, fault), monkeypatch)
    result = healthy.audit(DATABASE_TIMEOUT="1")
    assert result.status == 2
    [line] = result.errors
    assert line.startswith("audit: DATABASE_URL: ")


def test_a_statement_that_takes_too_long_names_its_limit(healthy: World) -> None:
    """Somebody has locked a table: `DATABASE_TIMEOUT` ends the wait."""
    with psycopg.connect(healthy.database_url) as connection:
        connection.execute("LOCK TABLE duplicates")
        result = healthy.audit(DATABASE_TIMEOUT="1")
    assert result.status == 2
    expected = "DATABASE_TIMEOUT: the database took longer than 1 s for an answer"
    assert result.errors == [f"audit: {expected}"]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_broker_that_is_lost_meanwhile_is_named(
    healthy: World, broker: KafkaServer, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """`START_TIMEOUT` ends the wait, whether it reads the error topic or looks at gaps."""
    query(healthy.database_url, "DELETE FROM transactions WHERE source_offset = 5")
    during(moment, broker.pause, monkeypatch)
    result = healthy.audit(START_TIMEOUT="2")
    assert result.status == 2
    [line] = result.errors
    topic = healthy.topics.failed if moment == "before" else healthy.topics.transactions
    assert line.startswith(f"audit: KAFKA_BOOTSTRAP_SERVERS: cannot read {topic} at 127.0.0.1:")


def test_a_topic_that_was_re_created_is_named(world: World) -> None:
    """The group is past its end, so no position means what the stores mean by it."""
    world.send(5)
    world.store(range(9))
    world.commit(9)
    result = world.audit()
    assert result.status == 2
    [line] = result.errors
    assert line == (
        f"audit: KAFKA_TOPIC: partition 0 of {world.topics.transactions} ends at 5, but the group"
        " has committed 9: the topic was re-created, or has lost messages"
    )
