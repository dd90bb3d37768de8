"""The ACLs of `docs/security.md`, as they stand there, on Apache Kafka with a login."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
)
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType

from lab.servers import ApacheKafka, ModelApi, free_port, wait_until
from lab.servers.ports import LOCALHOST
from operators.preflight import run_checks
from ops.pending import require_migrated
from tests.kit.checkout import CHECKOUT
from tests.kit.environment import environment, settings_of
from tests.kit.factories import transaction_text
from tests.kit.flow import Flow
from tests.kit.kafka import Topics, produce, read_all
from tests.kit.postgres import query
from tests.kit.recovery import make_recovery, recovery_options

USER, PASSWORD = "fraud", "s3cret-of-the-user"
TOPICS = Topics("transactions", "transactions-failed", "fraud-scoring")
RESOURCES = {
    "--topic": ResourceType.TOPIC,
    "--group": ResourceType.GROUP,
    "--transactional-id": ResourceType.TRANSACTIONAL_ID,
}


class WithLogin(ApacheKafka):
    """A broker with a second listener, for users with a password; the first is the admin's."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.login_port = free_port()

    def _defaults(self) -> dict[str, str]:
        given = super()._defaults()
        login = f"LOGIN://{LOCALHOST}:{self.login_port}"
        return {
            **given,
            "listeners": f"{given['listeners']},{login}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap_servers},{login}",
            "listener.security.protocol.map": (
                "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LOGIN:SASL_PLAINTEXT"
            ),
            "inter.broker.listener.name": "PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.login.plain.sasl.jaas.config": (
                "org.apache.kafka.common.security.plain.PlainLoginModule required"
                f' user_{USER}="{PASSWORD}";'
            ),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }


def documented() -> Iterator[AclBinding]:
    """What the lines that begin with `acl` in the document grant."""
    text = (CHECKOUT / "docs" / "security.md").read_text()
    for line in re.findall(r"^acl (--.*)$", text, re.MULTILINE):
        words = line.split()
        kind, name = words[-2:]
        prefixed = "--resource-pattern-type prefixed" in line
        pattern = ResourcePatternType.PREFIXED if prefixed else ResourcePatternType.LITERAL
        for operation in re.findall(r"--operation (\w+)", line):
            yield AclBinding(
                RESOURCES[kind],
                name,
                pattern,
                f"User:{USER}",
                "*",
                AclOperation[operation.upper()],
                AclPermissionType.ALLOW,
            )


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[WithLogin]:
    """A broker of the test's own, with the topics of the document."""
    with WithLogin(tmp_path / "kafka") as kafka:
        for topic in (TOPICS.transactions, TOPICS.failed):
            kafka.create_topic(topic, 2)
        yield kafka


def _variables(kafka: WithLogin, database_url: str, model_api: ModelApi) -> dict[str, str]:
    return environment(
        kafka,
        TOPICS,
        database_url=database_url,
        model_url=model_api.url,
        KAFKA_BOOTSTRAP_SERVERS=f"{LOCALHOST}:{kafka.login_port}",
        KAFKA_SECURITY_PROTOCOL="SASL_PLAINTEXT",
        KAFKA_SASL_MECHANISM="PLAIN",
        KAFKA_SASL_USERNAME=USER,
        KAFKA_SASL_PASSWORD=PASSWORD,
    )


NAMED: Mapping[tuple[Any, str], str] = {
    (AclOperation.READ, TOPICS.transactions): (
        "KAFKA_TOPIC: this user lacks READ on the topic transactions"
    ),
    (AclOperation.READ, TOPICS.failed): (
        "KAFKA_ERROR_TOPIC: this user lacks READ on the topic transactions-failed"
    ),
    (AclOperation.WRITE, TOPICS.failed): (
        "KAFKA_ERROR_TOPIC: this user lacks WRITE on the topic transactions-failed"
    ),
    (AclOperation.READ, TOPICS.group): (
        "KAFKA_CONSUMER_GROUP: this user lacks READ on the group fraud-scoring"
    ),
    (AclOperation.WRITE, f"{TOPICS.group}:"): (
        "KAFKA_ERROR_TOPIC: no producer with a transactional.id such as fraud-scoring:…: this user"
        " lacks WRITE on transactional ids with the prefix fraud-scoring:"
    ),
}
"""What is said without a right. READ and WRITE bring DESCRIBE with them."""


@pytest.mark.apache_kafka
def test_a_right_that_is_missing_is_named(
    kafka: WithLogin, database_url: str, model_api: ModelApi
) -> None:
    """Each of those in the document, by its name and its resource, before anything is read."""
    settings = settings_of(_variables(kafka, database_url, model_api))

    def complaints() -> list[str]:
        found = run_checks(settings, None, require_migrated=require_migrated)
        return [each.detail for each in found if not each.ok]

    at = settings.kafka_bootstrap_servers
    nothing = f"KAFKA_TOPIC: there is no topic transactions at {at}, or this user lacks DESCRIBE"
    assert nothing in complaints()[0]
    admin = AdminClient(kafka.client_settings)
    bindings = list(documented())
    for made in admin.create_acls(bindings).values():
        made.result(10)
    wait_until(lambda: complaints() == [], what="rights that have arrived")
    for binding in bindings:
        expected = NAMED.get((binding.operation, binding.name))
        filters = [AclBindingFilter(*_fields(binding))]
        assert [len(gone.result(10)) for gone in admin.delete_acls(filters).values()] == [1]
        wanted = [] if expected is None else [expected]
        wait_until(lambda: complaints() == wanted, what=f"{wanted}, not {complaints()}")  # noqa: B023
        for made in admin.create_acls([binding]).values():
            made.result(10)
        wait_until(lambda: complaints() == [], what="a right that is back")


def _fields(binding: AclBinding) -> tuple[Any, ...]:
    return (
        binding.restype,
        binding.name,
        binding.resource_pattern_type,
        binding.principal,
        binding.host,
        binding.operation,
        binding.permission_type,
    )


@pytest.mark.apache_kafka
def test_the_documented_acls_are_enough(
    kafka: WithLogin, database_url: str, model_api: ModelApi, tmp_path: Path
) -> None:
    """To check, read, refuse, commit, resume after a kill and audit; and without them: nothing."""
    variables = _variables(kafka, database_url, model_api)
    check = Flow(tmp_path / "check", variables, module=("ops", "check"))
    assert check.run() == 1, check.output()

    admin = AdminClient(kafka.client_settings)
    bindings = list(documented())
    assert len(bindings) == 9
    for made in admin.create_acls(bindings).values():
        made.result(10)
    wait_until(lambda: check.run() == 0, what="rights that have arrived")

    recovery = recovery_options(make_recovery(tmp_path))
    for number in range(2):  # the second reads back what the first wrote to the error topic
        values = [transaction_text(id=f'"{number} {each}"') for each in range(10)]
        produce(kafka, TOPICS.transactions, [*values, b"{"])
        with Flow(tmp_path / "flow", variables, recovery) as flow:
            read_all(kafka, TOPICS.failed, at_least=number + 1)
            rows = "SELECT count(*) FROM transactions"
            expected = len(values) * (number + 1)
            wait_until(lambda: query(database_url, rows) == [(expected,)], what="rows")  # noqa: B023
            assert flow.running
    audit = Flow(tmp_path / "audit", variables, module=("ops", "audit"))
    wait_until(lambda: audit.run() == 0, what="a clean audit")
