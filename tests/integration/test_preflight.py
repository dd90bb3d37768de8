"""The checks before a start: each thing that can be wrong is told in one line, by its setting."""

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from lab.servers import KafkaServer, ModelApi, Postgres, free_port, wait_until
from operators.preflight import CheckResult, run_checks
from ops.pending import require_migrated
from settings import SettingsError, load
from tests.kit.environment import environment, settings_of
from tests.kit.kafka import Topics, read_all
from tests.kit.postgres import query
from tests.kit.recovery import make_recovery

TOKEN = "t0ken-of-the-model"  # noqa: S105 - of a stand-in
NO_HOST = ".".join(["h" * 60] * 5)  # too long for a name: no resolver is asked
BAD_HOST = "no..host"
LIMIT = timedelta(seconds=60)
"""For what takes a few seconds where nothing else runs."""


@dataclass
class Start:
    """All that a start needs; a test spoils a part of it."""

    variables: dict[str, str]
    model_api: ModelApi
    postgres: Postgres
    broker: KafkaServer
    folder: Path
    secrets: list[str] = field(default_factory=list)
    recovery: Path | None = None

    def run_checks(self) -> list[CheckResult]:
        """Run the checks; no finding may have a secret."""
        settings = settings_of(self.variables)
        findings = list(run_checks(settings, self.recovery, require_migrated=require_migrated))
        for finding in findings:
            assert not any(secret in finding.detail for secret in self.secrets)
            assert "\n" not in finding.detail
        return findings

    def complaints(self) -> list[str]:
        """What is wrong."""
        return [finding.detail for finding in self.run_checks() if not finding.ok]


@pytest.fixture(scope="session")
def guarded(servers_folder: Path) -> Iterator[ModelApi]:
    """A model that wants a token."""
    with ModelApi(servers_folder / "guarded", options=["--token", TOKEN]) as server:
        yield server


@pytest.fixture
def start(
    request: pytest.FixtureRequest,
    topics: Topics,
    database_url: str,
    guarded: ModelApi,
    tmp_path: Path,
) -> Start:
    """Everything well."""
    broker: KafkaServer = request.getfixturevalue("broker")
    postgres: Postgres = request.getfixturevalue("postgres")
    model_api: ModelApi = request.getfixturevalue("model_api")
    variables = environment(
        broker, topics, database_url=database_url, model_url=guarded.url, START_TIMEOUT="3"
    )
    variables["ML_API_TOKEN"] = TOKEN
    made = Start(variables, model_api, postgres, broker, tmp_path)
    made.secrets = [postgres.password, TOKEN]
    return made


def test_all_is_well(start: Start) -> None:
    """One finding for each dependency, which tells what was found."""
    start.recovery = make_recovery(start.folder)
    topic, failed, database, model, recovery = start.run_checks()
    at = start.broker.bootstrap_servers
    assert topic == ("Kafka topic", True, f"{start.variables['KAFKA_TOPIC']} at {at}, 4 partitions")
    assert failed[:2] == ("Kafka error topic", True)
    assert failed.detail.startswith(f"{start.variables['KAFKA_ERROR_TOPIC']} at {at}, ")
    assert database.ok
    assert database.detail.endswith(f"at 127.0.0.1:{start.postgres.port}, PostgreSQL 18")
    assert model == ("Model API", True, f"{start.variables['ML_API_URL']}/predict")
    assert recovery == ("Recovery", True, f"{start.recovery}, 2 partitions")


def test_recovery_is_optional(start: Start) -> None:
    """Without a directory there is nothing to look for."""
    assert [finding.dependency for finding in start.run_checks()] == [
        "Kafka topic",
        "Kafka error topic",
        "PostgreSQL",
        "Model API",
    ]


@pytest.mark.parametrize(
    ("spoiled", "expected"),
    [
        ({"KAFKA_TOPIC": "nowhere"}, ["KAFKA_TOPIC: there is no topic nowhere at {broker}"]),
        (
            {"KAFKA_ERROR_TOPIC": "nowhere"},
            ["KAFKA_ERROR_TOPIC: there is no topic nowhere at {broker}"],
        ),
        (
            {"KAFKA_BOOTSTRAP_SERVERS": "{nobody}"},
            ["KAFKA_BOOTSTRAP_SERVERS: no broker answers at {nobody}"] * 2,
        ),
        (
            {"KAFKA_BOOTSTRAP_SERVERS": f"{NO_HOST}:9092"},
            [f"KAFKA_BOOTSTRAP_SERVERS: no such host: {NO_HOST}:9092"] * 2,
        ),
        pytest.param(
            {"KAFKA_SECURITY_PROTOCOL": "SSL"},
            ["KAFKA_SECURITY_PROTOCOL, KAFKA_SSL_CA_LOCATION: no TLS with the broker at {broker}"]
            * 2,
            marks=pytest.mark.apache_kafka,  # the embedded broker does not answer at all
        ),
        (
            {"KAFKA_PROPERTIES": '{"no.such.thing": 1}'},
            ['KAFKA_PROPERTIES: No such configuration property: "no.such.thing"'] * 2,
        ),
        ({"DATABASE_URL": "{database_url}x"}, ['database "{database}x" does not exist']),
        (
            {"DATABASE_URL": "postgresql://postgres:wr0ng-password@{postgres}/postgres"},
            ['password authentication failed for user "postgres"'],
        ),
        (
            {"DATABASE_URL": "postgresql://postgres:{password}@{nobody}/postgres"},
            ["Connection refused"],
        ),
        (
            {"DATABASE_URL": "postgresql://postgres:{password}@{postgres}/postgres"},
            ["DATABASE_URL: there is no table transactions: run python -m ops migrate"],
        ),
        ({"ML_API_URL": "http://{nobody}"}, ["ML_API_URL: the model at http://{nobody}/predict: "]),
        (
            {"DATABASE_URL": f"postgresql://postgres:{{password}}@{BAD_HOST}/postgres"},
            ["DATABASE_URL: "],
        ),
        (
            {"ML_API_URL": f"http://{BAD_HOST}"},
            [f"ML_API_URL: the model at http://{BAD_HOST}/predict: "],
        ),
        (
            {"ML_API_URL": "{model}/wrong"},
            ["ML_API_URL.*: the model at {model}/wrong/predict answered 404"],
        ),
        ({"ML_API_TOKEN": "wr0ng-token"}, ["ML_API_TOKEN: the model at .*/predict answered 401"]),
    ],
)
def test_what_is_wrong_is_told_by_its_setting(
    start: Start, spoiled: dict[str, str], expected: list[str]
) -> None:
    """One line for each thing that is wrong, and nothing else is."""
    database_url = start.variables["DATABASE_URL"]
    known = {
        "broker": start.broker.bootstrap_servers,
        "nobody": f"127.0.0.1:{free_port()}",
        "postgres": f"127.0.0.1:{start.postgres.port}",
        "password": start.postgres.password,
        "database_url": database_url,
        "database": database_url.rsplit("/", 1)[1],
        "model": start.variables["ML_API_URL"],
    }
    start.secrets += ["wr0ng-password", "wr0ng-token"]
    for name, value in spoiled.items():
        plain = name == "KAFKA_PROPERTIES"
        start.variables[name] = value if plain else value.format_map(known)
    complaints = start.complaints()
    assert len(complaints) == len(expected)
    for complaint, pattern in zip(complaints, expected, strict=True):
        _expect(complaint, pattern.format_map(known))
        assert any(setting in complaint.split(":")[0] for setting in spoiled)


def _expect(complaint: str, pattern: str) -> None:
    begin, _, end = pattern.partition(".*")
    assert begin in complaint
    assert end in complaint


def test_several_things_wrong_are_told_at_once(start: Start) -> None:
    """One start shows all that is to be mended."""
    start.variables |= {"KAFKA_TOPIC": "nowhere", "ML_API_TOKEN": "wr0ng"}
    assert [complaint.split(":")[0] for complaint in start.complaints()] == [
        "KAFKA_TOPIC",
        "ML_API_TOKEN",
    ]


def test_looking_for_a_topic_does_not_make_it(start: Start) -> None:
    """Or the second look would find it."""
    start.variables["KAFKA_ERROR_TOPIC"] = "nowhere-yet"
    assert len(start.complaints()) == 1
    assert len(start.complaints()) == 1


def test_a_table_that_is_missing_is_named(start: Start) -> None:
    """Before anything is read, and with what to do."""
    query(start.variables["DATABASE_URL"], "DROP TABLE duplicates")
    assert start.complaints() == [
        "DATABASE_URL: there is no table duplicates: run python -m ops migrate"
    ]


@pytest.mark.parametrize(
    ("privilege", "table"),
    [
        ("SELECT", "transactions"),
        ("INSERT", "transactions"),
        ("INSERT", "predictions"),
        ("SELECT", "duplicates"),
        ("INSERT", "duplicates"),
    ],
)
def test_a_privilege_that_is_missing_is_named(start: Start, privilege: str, table: str) -> None:
    """The user of the stream needs no more than it uses, and all of that."""
    url = start.variables["DATABASE_URL"]
    user = f"fraud_{privilege}_{table}".lower()
    query(url, f"CREATE USER {user} PASSWORD 'le4ked'")
    try:
        query(url, f"GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO {user}")
        start.variables["DATABASE_URL"] = url.replace(
            f"postgres:{start.postgres.password}", f"{user}:le4ked"
        )
        start.secrets.append("le4ked")
        assert start.complaints() == []
        query(url, f"REVOKE {privilege} ON {table} FROM {user}")
        assert start.complaints() == [f"DATABASE_URL: this user lacks {privilege} on {table}"]
    finally:
        query(url, f"DROP OWNED BY {user}")
        query(url, f"DROP USER {user}")


def test_a_database_that_hangs_is_told(start: Start) -> None:
    """Within the limit."""
    start.postgres.pause()
    [complaint] = start.complaints()
    assert complaint.startswith("DATABASE_URL: ")


def test_a_broker_that_hangs_is_told(start: Start) -> None:
    """Within the limit; both topics are on it."""
    start.broker.pause()
    at = start.broker.bootstrap_servers
    assert start.complaints() == [f"KAFKA_BOOTSTRAP_SERVERS: no broker answers at {at}"] * 2


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"name": "html"}, "not the contract's answer"),
        ({"name": "status", "code": 503}, "status 503"),
        ({"name": "status", "code": 422}, "answered 422 to a made-up transaction (ML_API_CHECK)"),
        ({"name": "hang"}, "no answer"),
    ],
)
def test_a_model_that_misbehaves_is_told(
    start: Start, fault: dict[str, str | int], expected: str
) -> None:
    """What it did is in the line, once; it is not asked again and again."""
    start.variables["ML_API_URL"] = start.model_api.url
    start.model_api.control(**fault)
    [complaint] = start.complaints()
    assert complaint.startswith("ML_API_URL")
    assert f": the model at {start.model_api.url}/predict" in complaint
    assert expected in complaint


def test_a_recovery_directory_without_partitions_is_told(start: Start) -> None:
    """Missing or empty, with the commands that make it."""
    start.recovery = start.folder / "missing"
    [complaint] = start.complaints()
    assert complaint.startswith(f"recovery directory (-r): {start.recovery} is no directory; ")
    assert f"python -m bytewax.recovery {start.recovery} " in complaint
    start.recovery.mkdir()
    [complaint] = start.complaints()
    assert "holds no recovery partitions" in complaint


@pytest.mark.apache_kafka  # the embedded broker keeps everything
def test_an_error_topic_that_is_compacted_is_told(start: Start) -> None:
    """It refuses records without a key, which dead letters are if their messages have none."""
    topic = start.variables["KAFKA_ERROR_TOPIC"] = f"{start.variables['KAFKA_ERROR_TOPIC']}-compact"
    admin = AdminClient(start.broker.client_settings)
    admin.create_topics([NewTopic(topic, 1, config={"cleanup.policy": "compact"})])[topic].result()
    [complaint] = start.complaints()
    assert complaint.startswith(f"KAFKA_ERROR_TOPIC: {topic} is compacted")
    assert "cleanup.policy=delete" in complaint


@pytest.mark.apache_kafka  # the embedded broker shows what was aborted
def test_the_letter_of_the_check_is_taken_back(start: Start) -> None:
    """Those who read what is committed never see it, whoever looks how often."""
    for _ in range(2):
        assert start.complaints() == []
    topic = start.variables["KAFKA_ERROR_TOPIC"]
    assert sum(start.broker.ends(topic).values()) > 0
    assert read_all(start.broker, topic) == []


@pytest.mark.apache_kafka  # the embedded broker tells of no members
def test_a_program_that_subscribes_with_the_group_is_told(start: Start) -> None:
    """While it has the group, brokers take no offsets of the stream."""
    group, topic = start.variables["KAFKA_CONSUMER_GROUP"], start.variables["KAFKA_TOPIC"]
    given = {"group.id": group, "client.id": "somebody", "session.timeout.ms": 6_000}
    other = Consumer(start.broker.client_settings | given)
    other.subscribe([topic])
    try:
        wait_until(lambda: other.poll(0.1) is None and other.assignment(), LIMIT, what="a member")
        [complaint] = start.complaints()
        assert complaint.startswith(
            f"KAFKA_CONSUMER_GROUP: another program subscribes with the group {group}"
            " (client somebody at "
        )
    finally:
        other.close()


@contextmanager
def _as_somebody_else() -> Iterator[None]:
    """Root may write anywhere."""
    me = os.geteuid()
    if me == 0:
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        yield
    finally:
        os.seteuid(me)


@pytest.mark.parametrize("spoiled", ["directory", "file"])
def test_a_recovery_directory_that_is_read_only_is_told(
    start: Start, servers_folder: Path, spoiled: str
) -> None:
    """Before the engine finds out, in Rust."""
    servers_folder.chmod(0o755)
    folder = servers_folder / f"read-only-{spoiled}"
    folder.mkdir()
    start.recovery = make_recovery(folder)
    modes = {start.recovery: 0o777, **dict.fromkeys(start.recovery.iterdir(), 0o666)}
    changed = start.recovery if spoiled == "directory" else min(start.recovery.iterdir())
    modes[changed] &= 0o555
    for path, mode in modes.items():
        path.chmod(mode)
    with _as_somebody_else():
        [complaint] = start.complaints()
    what = start.recovery if spoiled == "directory" else changed.name
    assert complaint.startswith("recovery directory (-r): ")
    assert f"write to {what}" in complaint


def test_settings_that_cannot_be_are_refused_before(start: Start) -> None:
    """The password of an unreadable URL is not repeated, in the message nor in its cause."""
    fields = {name.lower(): value for name, value in start.variables.items()}
    fields["database_url"] = "postgresql://postgres:s3cret@[::1/x"
    with pytest.raises(SettingsError) as refused:
        load(**fields)
    assert str(refused.value).startswith("DATABASE_URL: must be a PostgreSQL URL")
    assert refused.value.__cause__ is None
