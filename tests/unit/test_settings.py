"""Settings come from the environment or from files, are checked at once, and keep their secrets."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from settings import Settings, load, recovery_directory
from tests.kit.variables import REQUIRED, SECRET, SetVariables, complaint

pytestmark = pytest.mark.usefixtures("environment")

SECRETS = {
    "DATABASE_URL": f"postgresql://fraud:{SECRET}@127.0.0.1:1/fraud",
    "ML_API_TOKEN": SECRET,
    "KAFKA_SASL_PASSWORD": SECRET,
    "KAFKA_PROPERTIES": f'{{"ssl.key.password": "{SECRET}"}}',
}


def test_an_empty_variable_is_a_missing_one(environment: SetVariables) -> None:
    """As compose files leave it."""
    environment(DATABASE_URL="")

    assert complaint() == "DATABASE_URL: is not set"


def test_everything_that_is_wrong_is_named_at_once(environment: SetVariables) -> None:
    """In one line, so that nobody has to start five times."""
    environment(**dict.fromkeys(REQUIRED), BATCH_SIZE="0", LOG_FORMAT="xml")

    complaints = complaint().split("; ")

    assert {f"{name}: is not set" for name in REQUIRED} < set(complaints)
    assert {text.split(":")[0] for text in complaints} == {*REQUIRED, "BATCH_SIZE", "LOG_FORMAT"}


def test_defaults() -> None:
    """What is not required has these values; a change of one is a change for everybody."""
    found = load().model_dump(exclude={name.lower() for name in REQUIRED})

    expected: dict[str, Any] = {
        "kafka_topic": "transactions",
        "kafka_error_topic": "transactions-failed",
        "kafka_start_at": "earliest",
        "kafka_security_protocol": "PLAINTEXT",
        "kafka_sasl_mechanism": None,
        "kafka_sasl_username": None,
        "kafka_sasl_password": None,
        "kafka_ssl_ca_location": None,
        "database_timeout": timedelta(seconds=30),
        "ml_api_token": None,
        "ml_api_timeout": timedelta(seconds=10),
        "batch_size": 100,
        "scoring_concurrency": 16,
        "max_retries": 3,
        "retry_backoff": 2.0,
        "start_timeout": timedelta(seconds=15),
        "stop_timeout": timedelta(seconds=8),
        "log_format": "text",
        "log_level": "INFO",
    }
    assert {name: found[name] for name in expected} == expected
    assert load().kafka_properties.get_secret_value() == {}


def test_every_setting_is_described() -> None:
    """The table of settings is made of the descriptions."""
    for field in Settings.model_fields.values():
        assert field.description
        assert "\n" not in field.description


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("BATCH_SIZE", "10001"),
        ("BATCH_SIZE", "many"),
        ("MAX_RETRIES", "-1"),
        ("RETRY_BACKOFF", "nan"),
        ("KAFKA_TOPIC", "a b"),
        ("KAFKA_TOPIC", "x" * 250),
        ("KAFKA_CONSUMER_GROUP", "a\nb"),
        ("KAFKA_CONSUMER_GROUP", "a\u200b"),
        ("KAFKA_CONSUMER_GROUP", " a"),
        ("KAFKA_CONSUMER_GROUP", "a "),
        ("KAFKA_CONSUMER_GROUP", "x" * 250),
        ("KAFKA_SECURITY_PROTOCOL", "TLS"),
        ("LOG_LEVEL", "LOUD"),
        ("ML_API_URL", "model:8000"),
        ("ML_API_URL", "ftp://model"),
        ("DATABASE_URL", "mysql://fraud@host/fraud"),
        ("DATABASE_URL", "postgresql://fraud@host/fraud?nonsense=1"),
    ],
)
def test_a_wrong_value_is_refused_by_name(environment: SetVariables, name: str, wrong: str) -> None:
    """Before anything connects."""
    environment(**{name: wrong})

    assert complaint().startswith(f"{name}: ")


@pytest.mark.parametrize("name", ["KAFKA_TOPIC", "BATCH_SIZE", "START_TIMEOUT", *SECRETS])
def test_any_setting_can_come_from_a_file(
    environment: SetVariables, tmp_path: Path, name: str
) -> None:
    """`NAME_FILE` does what `NAME` does; the line break at the end of a file is no part of it."""
    value = {"KAFKA_TOPIC": "other", "BATCH_SIZE": "7", "START_TIMEOUT": "3"} | SECRETS
    file = tmp_path / "setting"
    file.write_text(f"{value[name]}\n")
    environment(**{name: value[name]})
    direct = load()

    environment(**{name: None, f"{name}_FILE": file})

    assert load() == direct
    assert getattr(direct, name.lower()) != Settings.model_fields[name.lower()].default


def test_a_variable_goes_before_a_file(environment: SetVariables, tmp_path: Path) -> None:
    """The nearer one wins."""
    file = tmp_path / "topic"
    file.write_text("from-file")
    environment(KAFKA_TOPIC="direct", KAFKA_TOPIC_FILE=file)

    assert load().kafka_topic == "direct"


@pytest.mark.parametrize("name", ["DATABASE_URL", "KAFKA_PROPERTIES"])
@pytest.mark.parametrize("kind", ["missing", "folder", "binary"])
def test_a_file_that_cannot_be_read_is_named_without_its_content(
    environment: SetVariables, tmp_path: Path, name: str, kind: str
) -> None:
    """By its variable and path; a setting from a file is never silently left out."""
    file = tmp_path / kind
    if kind == "folder":
        file.mkdir()
    elif kind == "binary":
        file.write_bytes(b"\xff" + SECRET.encode())
    environment(**{name: None, f"{name}_FILE": file})

    found = complaint()

    assert found.startswith(f"{name}_FILE: cannot read {file}: ")


def test_an_empty_file_is_no_value(environment: SetVariables, tmp_path: Path) -> None:
    """An empty URL would mean libpq's own defaults: some database, not the right one."""
    file = tmp_path / "url"
    file.write_text("\n")
    environment(DATABASE_URL=None, DATABASE_URL_FILE=file)

    assert complaint() == "DATABASE_URL: is not set"


def test_no_secret_is_printed(environment: SetVariables) -> None:
    """Neither by the settings themselves nor by what is made of them for logs."""
    environment(**SECRETS)
    found = load()

    assert found.database_url.get_secret_value() == SECRETS["DATABASE_URL"]
    for text in (repr(found), str(found), found.model_dump_json(), str(found.model_dump())):
        assert SECRET not in text


@pytest.mark.parametrize(
    "wrong",
    [{"KAFKA_ERROR_TOPIC": "transactions"}, {"KAFKA_SASL_MECHANISM": SECRET}],
    ids=["settings at odds", "wrong place"],
)
def test_pydantics_own_error_holds_no_secret(
    environment: SetVariables, wrong: dict[str, str]
) -> None:
    """By default it repeats the input: of settings that are at odds with each other, all of it."""
    environment(**SECRETS, **wrong)

    with pytest.raises(ValidationError) as caught:
        Settings()

    assert SECRET not in str(caught.value) + repr(caught.value)


def test_other_properties_reach_the_clients_as_they_are(environment: SetVariables) -> None:
    """Texts, numbers and booleans keep their types."""
    given = {"a.a": "1", "b.b": 2, "c.c": True, "d.d": 0.5, "debug": "all", "client.id": "mine"}
    environment(KAFKA_PROPERTIES=json.dumps(given))

    properties = load().kafka_client()

    assert properties | given == properties
    assert properties["c.c"] is True


def test_a_plain_client_has_nothing_of_security() -> None:
    """What is not set is not passed on: librdkafka refuses empty values."""
    assert load().kafka_client() == {
        "bootstrap.servers": "127.0.0.1:1",
        "security.protocol": "PLAINTEXT",
        "client.id": "fraud-scoring",
    }


def test_security_settings_have_librdkafkas_names(environment: SetVariables) -> None:
    """Secrets come out readable here, and only here."""
    environment(
        KAFKA_SECURITY_PROTOCOL="SASL_SSL",
        KAFKA_SASL_MECHANISM="SCRAM-SHA-512",
        KAFKA_SASL_USERNAME="fraud",
        KAFKA_SASL_PASSWORD=SECRET,
        KAFKA_SSL_CA_LOCATION="/etc/ca.pem",
    )

    assert load().kafka_client() == {
        "bootstrap.servers": "127.0.0.1:1",
        "security.protocol": "SASL_SSL",
        "client.id": "fraud-scoring",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "fraud",
        "sasl.password": SECRET,
        "ssl.ca.location": "/etc/ca.pem",
    }


@pytest.mark.parametrize(
    "topics", [{"KAFKA_ERROR_TOPIC": "transactions"}, {"KAFKA_TOPIC": "transactions-failed"}]
)
def test_failures_may_not_go_to_the_topic_that_is_read(
    environment: SetVariables, topics: dict[str, str]
) -> None:
    """They would be read, fail and be written again, for ever; a default counts too."""
    environment(**topics)

    assert complaint().startswith("KAFKA_ERROR_TOPIC: must differ from KAFKA_TOPIC")


def test_an_argument_goes_before_the_environment(environment: SetVariables) -> None:
    """Commands around the stream override single settings."""
    environment(KAFKA_TOPIC="variable")

    assert load(kafka_topic="argument").kafka_topic == "argument"


def test_variables_of_others_do_not_matter(environment: SetVariables) -> None:
    """A container's environment is full of them."""
    environment(KAFKA_HEAP_OPTS="-Xmx1g", DATABASE_URLS="x")

    load()


@pytest.mark.parametrize(
    ("arguments", "directory"),
    [
        ("dataflow -w 2 -s 5 -b 0", None),
        ("dataflow -r /recovery -s 5 -b 0", "/recovery"),
        ("dataflow -rrecovery", "recovery"),
        ("dataflow --recovery-directory=recovery", "recovery"),
    ],
)
def test_the_recovery_directory_is_an_option_of_bytewax(
    arguments: str, directory: str | None
) -> None:
    """In all spellings that `bytewax.run` takes, among its other options."""
    assert recovery_directory(arguments.split()) == (directory and Path(directory))


def test_the_recovery_directory_may_come_from_the_environment(environment: SetVariables) -> None:
    """By the name that `bytewax.run` reads; the option wins, an empty variable is none."""
    environment(BYTEWAX_RECOVERY_DIRECTORY="/variable")
    assert recovery_directory(["dataflow"]) == Path("/variable")
    assert recovery_directory(["dataflow", "-r", "/option"]) == Path("/option")

    environment(BYTEWAX_RECOVERY_DIRECTORY="")
    assert recovery_directory(["dataflow"]) is None


def test_the_recovery_directory_is_looked_for_in_the_command_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where it is called without arguments."""
    monkeypatch.setattr("sys.argv", ["bytewax.run", "dataflow", "-r", "/recovery"])

    assert recovery_directory() == Path("/recovery")
