"""Settings come from the environment or from files, are checked at once, and keep their secrets."""

import json
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from settings import OWNED_PROPERTIES, Settings, SettingsError, load, recovery_directory

SECRET = "hunter2-SECRET"  # noqa: S105 - what must not show up

REQUIRED = {
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "KAFKA_CONSUMER_GROUP": "fraud-scoring",
    "DATABASE_URL": "postgresql://fraud@127.0.0.1:1/fraud",
    "ML_API_URL": "http://127.0.0.1:1",
}
SECRETS = {
    "DATABASE_URL": f"postgresql://fraud:{SECRET}@127.0.0.1:1/fraud",
    "ML_API_TOKEN": SECRET,
    "KAFKA_SASL_PASSWORD": SECRET,
    "KAFKA_PROPERTIES": f'{{"ssl.key.password": "{SECRET}"}}',
}
DURATIONS = (
    "DATABASE_TIMEOUT",
    "ML_API_TIMEOUT",
    "START_TIMEOUT",
    "STOP_TIMEOUT",
    "LIVE_TIMEOUT",
    "EPOCH_TIMEOUT",
)

Environment = Callable[..., None]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Environment:
    """Only what is required is set; `environment(NAME=…)` sets more, None removes."""
    for field in Settings.model_fields:
        monkeypatch.delenv(field.upper(), raising=False)
        monkeypatch.delenv(f"{field.upper()}_FILE", raising=False)
    monkeypatch.delenv("BYTEWAX_RECOVERY_DIRECTORY", raising=False)

    def change(**variables: str | Path | None) -> None:
        for name, value in variables.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, str(value))

    change(**REQUIRED)
    return change


def _complaint() -> str:
    with pytest.raises(SettingsError) as caught:
        load()
    text = str(caught.value)
    assert "\n" not in text
    # Whoever prints the exception, with its causes, prints no secret either.
    assert SECRET not in text + "".join(traceback.format_exception(caught.value))
    return text


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("value", [None, ""], ids=["unset", "empty"])
def test_a_required_setting_that_is_missing_is_named(
    environment: Environment, name: str, value: str | None
) -> None:
    """An empty variable, as compose files leave it, is a missing one."""
    environment(**{name: value})

    assert _complaint() == f"{name}: is not set"


def test_everything_that_is_wrong_is_named_at_once(environment: Environment) -> None:
    """In one line, so that nobody has to start five times."""
    environment(**dict.fromkeys(REQUIRED), BATCH_SIZE="0", LOG_FORMAT="xml")

    complaint = _complaint()

    assert {part.split(":")[0] for part in complaint.split("; ")} == {
        *REQUIRED,
        "BATCH_SIZE",
        "LOG_FORMAT",
    }


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


@pytest.mark.parametrize("field", Settings.model_fields)
def test_a_setting_is_described(field: str) -> None:
    """The table of settings is made of the descriptions."""
    description = Settings.model_fields[field].description

    assert description
    assert "\n" not in description


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("BATCH_SIZE", "0"),
        ("BATCH_SIZE", "10001"),
        ("BATCH_SIZE", "many"),
        ("SCORING_CONCURRENCY", "0"),
        ("MAX_RETRIES", "-1"),
        ("RETRY_BACKOFF", "0.9"),
        ("RETRY_BACKOFF", "nan"),
        ("KAFKA_TOPIC", "a b"),
        ("KAFKA_TOPIC", "x" * 250),
        ("KAFKA_CONSUMER_GROUP", "é"),
        ("KAFKA_SECURITY_PROTOCOL", "TLS"),
        ("KAFKA_SASL_MECHANISM", "MD5"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
        ("ML_API_URL", "model:8000"),
        ("ML_API_URL", "ftp://model"),
        ("ML_API_URL", "http://model:99999"),
        ("DATABASE_URL", "mysql://fraud@host/fraud"),
        ("DATABASE_URL", "postgresql://fraud@host/fraud?nonsense=1"),
    ],
)
def test_a_wrong_value_is_refused_by_name(environment: Environment, name: str, wrong: str) -> None:
    """Before anything connects."""
    environment(**{name: wrong})

    assert _complaint().startswith(f"{name}: ")


@pytest.mark.parametrize("name", ["KAFKA_TOPIC", "BATCH_SIZE", "START_TIMEOUT", *SECRETS])
def test_any_setting_can_come_from_a_file(
    environment: Environment, tmp_path: Path, name: str
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


def test_a_variable_goes_before_a_file(environment: Environment, tmp_path: Path) -> None:
    """The nearer one wins."""
    file = tmp_path / "topic"
    file.write_text("from-file")
    environment(KAFKA_TOPIC="direct", KAFKA_TOPIC_FILE=file)

    assert load().kafka_topic == "direct"


@pytest.mark.parametrize("name", ["DATABASE_URL", "ML_API_TOKEN", "KAFKA_PROPERTIES", "BATCH_SIZE"])
@pytest.mark.parametrize("kind", ["missing", "folder", "binary"])
def test_a_file_that_cannot_be_read_is_named_without_its_content(
    environment: Environment, tmp_path: Path, name: str, kind: str
) -> None:
    """By its variable and path; a setting from a file is never silently left out."""
    file = tmp_path / kind
    if kind == "folder":
        file.mkdir()
    elif kind == "binary":
        file.write_bytes(b"\xff" + SECRET.encode())
    environment(**{name: None, f"{name}_FILE": file})

    complaint = _complaint()

    assert complaint.startswith(f"{name}_FILE: cannot read {file}: ")


def test_an_empty_file_is_no_value(environment: Environment, tmp_path: Path) -> None:
    """An empty URL would mean libpq's own defaults: some database, not the right one."""
    file = tmp_path / "url"
    file.write_text("\n")
    environment(DATABASE_URL=None, DATABASE_URL_FILE=file)

    assert _complaint() == "DATABASE_URL: is not set"


def test_no_secret_is_printed(environment: Environment) -> None:
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
    environment: Environment, wrong: dict[str, str]
) -> None:
    """By default it repeats the input: of settings that are at odds with each other, all of it."""
    environment(**SECRETS, **wrong)

    with pytest.raises(ValidationError) as caught:
        Settings()

    assert SECRET not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", SECRET),
        ("DATABASE_URL", f"mysql://fraud:{SECRET}@host/fraud"),
        ("DATABASE_URL", f"postgresql://fraud:x {SECRET}@host/fraud"),
        ("DATABASE_URL", f"postgresql://fraud:{SECRET}%@host/fraud"),
        ("DATABASE_URL", f"postgresql://fraud@host/fraud?passwort={SECRET}"),
        ("DATABASE_URL", f"host=h passwort={SECRET}"),
        ("KAFKA_PROPERTIES", SECRET),
        ("KAFKA_PROPERTIES", f'"{SECRET}"'),
        ("KAFKA_PROPERTIES", f'["{SECRET}"]'),
        ("KAFKA_PROPERTIES", f'{{"ssl.key.password": "{SECRET}",}}'),
        ("KAFKA_PROPERTIES", f'{{"ssl.key.password": ["{SECRET}"]}}'),
        ("KAFKA_PROPERTIES", f'{{"{SECRET}": null}}'),
        ("KAFKA_PROPERTIES", f'{{"sasl.password": "{SECRET}"}}'),
        ("KAFKA_SASL_MECHANISM", SECRET),
        ("ML_API_URL", f"http://user:{SECRET}@model"),
        ("ML_API_URL", f"http://{SECRET}@model"),
        ("ML_API_URL", f"http://user:{SECRET}@model:99999"),
        ("ML_API_URL", SECRET),
    ],
)
@pytest.mark.parametrize("by", ["variable", "file"])
def test_a_wrong_value_is_never_repeated(
    environment: Environment, tmp_path: Path, name: str, value: str, by: str
) -> None:
    """A secret in the wrong place, or with a slip of the pen, stays one."""
    if by == "file":
        file = tmp_path / "setting"
        file.write_text(value)
        environment(**{name: None, f"{name}_FILE": file})
    else:
        environment(**{name: value})

    assert _complaint().startswith(f"{name}: ")  # and see there


@pytest.mark.parametrize("password", [f"{SECRET}/x", f"x@{SECRET}"], ids=["slash", "at sign"])
def test_a_password_that_is_not_percent_encoded_is_refused(
    environment: Environment, password: str
) -> None:
    """A part of it would be taken for host or port, which messages about connections name."""
    environment(DATABASE_URL=f"postgresql://fraud:{password}@127.0.0.1:1/fraud")

    assert _complaint().startswith("DATABASE_URL: ")


@pytest.mark.parametrize(
    "url",
    [
        *("http://user:password@model", "http://user@model", "http://:password@model"),
        *("http://model/?token=x", "http://model#x"),
    ],
)
def test_the_models_url_holds_no_credentials(environment: Environment, url: str) -> None:
    """It is logged at start."""
    environment(ML_API_URL=url)

    assert _complaint() == (
        "ML_API_URL: must hold no user, password or query, since it is logged; use ML_API_TOKEN"
    )


@pytest.mark.parametrize(
    "name",
    [
        *("acks", "auto.offset.reset", "bootstrap.servers", "enable.auto.commit"),
        *("enable.auto.offset.store", "enable.idempotence", "enable.partition.eof", "group.id"),
        *("metadata.broker.list", "request.required.acks", "sasl.password"),
    ],
)
def test_a_property_that_the_stream_sets_itself_is_refused(
    environment: Environment, name: str
) -> None:
    """With the setting to use instead, or the reason; aliases count too."""
    environment(KAFKA_PROPERTIES=f'{{"socket.keepalive.enable": true, "{name}": "x"}}')

    reason = OWNED_PROPERTIES[name]
    assert _complaint() == f"KAFKA_PROPERTIES: {name} is set by the stream: {reason}"


def test_other_properties_reach_the_clients_as_they_are(environment: Environment) -> None:
    """Texts, numbers and booleans keep their types."""
    given = {"a.a": "1", "b.b": 2, "c.c": True, "d.d": 0.5, "debug": "all", "client.id": "mine"}
    environment(KAFKA_PROPERTIES=json.dumps(given))

    properties = load().kafka_client()

    assert properties | given == properties
    assert properties["c.c"] is True


@pytest.mark.parametrize("name", ["logger", "error_cb", "on_commit", "oauth_cb", "", "A.B", "a b"])
def test_a_property_that_is_no_text_of_librdkafkas_is_refused(
    environment: Environment, name: str
) -> None:
    """The Python client takes callbacks under such names."""
    environment(KAFKA_PROPERTIES=json.dumps({name: "x"}))

    assert _complaint() == "KAFKA_PROPERTIES: a name in it is no librdkafka property"


@pytest.mark.parametrize("value", ["null", "[]", "{}"])
def test_a_property_is_a_plain_value(environment: Environment, value: str) -> None:
    """The property is named."""
    environment(KAFKA_PROPERTIES=f'{{"client.rack": {value}}}')

    assert _complaint() == ("KAFKA_PROPERTIES: client.rack must be a text, a number, true or false")


def test_a_plain_client_has_nothing_of_security() -> None:
    """What is not set is not passed on: librdkafka refuses empty values."""
    assert load().kafka_client() == {
        "bootstrap.servers": "127.0.0.1:1",
        "security.protocol": "PLAINTEXT",
        "client.id": "fraud-scoring",
    }


def test_security_settings_have_librdkafkas_names(environment: Environment) -> None:
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
    ("text", "time"),
    [
        ("earliest", None),
        ("latest", None),
        ("2026-11-23T10:00:00", datetime(2026, 11, 23, 10, tzinfo=UTC)),
        ("2026-11-23 10:00", datetime(2026, 11, 23, 10, tzinfo=UTC)),
        ("2026-11-23", datetime(2026, 11, 23, tzinfo=UTC)),
        ("2026-11-23T10:00:00Z", datetime(2026, 11, 23, 10, tzinfo=UTC)),
        ("2026-11-23T10:00:00+02:00", datetime(2026, 11, 23, 8, tzinfo=UTC)),
    ],
)
def test_a_start_is_a_word_or_a_time(
    environment: Environment, text: str, time: datetime | None
) -> None:
    """UTC where it has no offset, wherever the stream runs."""
    environment(KAFKA_START_AT=text)

    found = load().kafka_start_time()

    assert found == time
    assert found is None or found.tzinfo is not None


@pytest.mark.parametrize("text", ["Earliest", "beginning", "1700000000", "23.11.2026", " latest"])
def test_a_start_of_another_form_is_refused(environment: Environment, text: str) -> None:
    """With the forms that there are."""
    environment(KAFKA_START_AT=text)

    assert _complaint() == (
        "KAFKA_START_AT: must be earliest, latest or an ISO 8601 time such as 2026-11-23T10:00:00Z"
    )


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize(
    ("text", "seconds"), [("5", 5), ("0.25", 0.25), ("1e2", 100), ("600", 600)]
)
def test_a_duration_is_in_seconds(
    environment: Environment, name: str, text: str, seconds: float
) -> None:
    """Fractions too."""
    environment(**{name: text})

    assert getattr(load(), name.lower()) == timedelta(seconds=seconds)


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("text", ["0", "-1", "5s", "PT5S", "nan", "inf", "1e400", "0.0000001"])
def test_a_duration_is_a_positive_number(environment: Environment, name: str, text: str) -> None:
    """A limit of nothing would let nothing happen."""
    environment(**{name: text})

    assert _complaint().startswith(f"{name}: ")


@pytest.mark.parametrize(
    "topics",
    [
        {"KAFKA_TOPIC": "same", "KAFKA_ERROR_TOPIC": "same"},
        {"KAFKA_ERROR_TOPIC": "transactions"},
        {"KAFKA_TOPIC": "transactions-failed"},
    ],
    ids=["both set", "default of the topic", "default of the error topic"],
)
def test_failures_may_not_go_to_the_topic_that_is_read(
    environment: Environment, topics: dict[str, str]
) -> None:
    """They would be read, fail and be written again, for ever."""
    environment(**topics)

    assert _complaint().startswith("KAFKA_ERROR_TOPIC: must differ from KAFKA_TOPIC")


def test_an_argument_goes_before_the_environment(environment: Environment) -> None:
    """Commands around the stream override single settings."""
    environment(KAFKA_TOPIC="variable")

    assert load(kafka_topic="argument").kafka_topic == "argument"


def test_variables_of_others_do_not_matter(environment: Environment) -> None:
    """A container's environment is full of them."""
    environment(KAFKA_HEAP_OPTS="-Xmx1g", DATABASE_URLS="x")

    load()


@pytest.mark.parametrize(
    ("arguments", "directory"),
    [
        ("dataflow", None),
        ("dataflow -w 2 -s 5 -b 0", None),
        ("dataflow -r /recovery -s 5 -b 0", "/recovery"),
        ("-r recovery dataflow", "recovery"),
        ("dataflow -rrecovery", "recovery"),
        ("dataflow --recovery-directory recovery", "recovery"),
        ("dataflow --recovery-directory=recovery", "recovery"),
    ],
)
def test_the_recovery_directory_is_an_option_of_bytewax(
    arguments: str, directory: str | None
) -> None:
    """In all spellings that `bytewax.run` takes, among its other options."""
    assert recovery_directory(arguments.split()) == (directory and Path(directory))


def test_the_recovery_directory_may_come_from_the_environment(environment: Environment) -> None:
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
