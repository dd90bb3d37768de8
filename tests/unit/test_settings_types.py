"""Each kind of value: what is taken, and what is refused without being repeated."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from settings import Settings, load
from settings_types import OWNED_PROPERTIES
from tests.kit.variables import SECRET, SetVariables, complaint

pytestmark = pytest.mark.usefixtures("environment")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", SECRET),
        ("DATABASE_URL", f"postgresql://fraud:x {SECRET}@host/fraud"),
        ("DATABASE_URL", f"postgresql://fraud:{SECRET}%@host/fraud"),
        ("DATABASE_URL", f"postgresql://fraud@host/fraud?passwort={SECRET}"),
        ("KAFKA_PROPERTIES", SECRET),
        ("KAFKA_PROPERTIES", f'["{SECRET}"]'),
        ("KAFKA_PROPERTIES", f'{{"ssl.key.password": "{SECRET}",}}'),
        ("KAFKA_PROPERTIES", f'{{"ssl.key.password": ["{SECRET}"]}}'),
        ("KAFKA_PROPERTIES", f'{{"{SECRET}": null}}'),
        ("KAFKA_PROPERTIES", f'{{"sasl.password": "{SECRET}"}}'),
        ("KAFKA_SASL_MECHANISM", SECRET),
        ("ML_API_URL", f"http://user:{SECRET}@model"),
        ("ML_API_URL", f"http://user:{SECRET}@model:99999"),
        ("ML_API_URL", SECRET),
    ],
)
@pytest.mark.parametrize("by", ["variable", "file"])
def test_a_wrong_value_is_never_repeated(
    environment: SetVariables, tmp_path: Path, name: str, value: str, by: str
) -> None:
    """A secret in the wrong place, or with a slip of the pen, stays one."""
    if by == "file":
        file = tmp_path / "setting"
        file.write_text(value)
        environment(**{name: None, f"{name}_FILE": file})
    else:
        environment(**{name: value})

    assert complaint().startswith(f"{name}: ")  # and see there


@pytest.mark.parametrize(
    "password",
    [f"{SECRET}/x", f"1/{SECRET}", f"x@{SECRET}"],
    ids=["slash", "slash behind a number", "at sign"],
)
def test_a_password_that_is_not_percent_encoded_is_refused(
    environment: SetVariables, password: str
) -> None:
    """A part of it would be taken for host, port or database, which messages name."""
    environment(DATABASE_URL=f"postgresql://fraud:{password}@127.0.0.1:1/fraud")

    assert complaint().startswith("DATABASE_URL: ")


@pytest.mark.parametrize(
    "url",
    [
        *("http://user@model", "http://:password@model", "http://model/?token=x", "http://model#x"),
    ],
)
def test_the_models_url_holds_no_credentials(environment: SetVariables, url: str) -> None:
    """It is logged at start."""
    environment(ML_API_URL=url)

    assert complaint() == (
        "ML_API_URL: must hold no user, password or query, since it is logged; use ML_API_TOKEN"
    )


@pytest.mark.parametrize(
    "name",
    [  # not from the code's own list, from which one may get lost
        "acks",
        "auto.offset.reset",
        "bootstrap.servers",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.idempotence",
        "enable.partition.eof",
        "group.id",
        "isolation.level",
        "metadata.broker.list",
        "request.required.acks",
        "sasl.password",
        "transactional.id",
    ],
)
def test_a_property_that_the_stream_sets_itself_is_refused(
    environment: SetVariables, name: str
) -> None:
    """With the setting to use instead, or the reason; aliases count too."""
    environment(KAFKA_PROPERTIES=f'{{"socket.keepalive.enable": true, "{name}": "x"}}')

    reason = OWNED_PROPERTIES[name]
    assert complaint() == f"KAFKA_PROPERTIES: {name} is set by the stream: {reason}"


@pytest.mark.parametrize("name", ["logger", "error_cb", "on_commit", "oauth_cb", "", "A.B", "a b"])
def test_a_property_that_is_no_text_of_librdkafkas_is_refused(
    environment: SetVariables, name: str
) -> None:
    """The Python client takes callbacks under such names."""
    environment(KAFKA_PROPERTIES=json.dumps({name: "x"}))

    assert complaint() == "KAFKA_PROPERTIES: a name in it is no librdkafka property"


@pytest.mark.parametrize("value", ["null", "[]", "{}"])
def test_a_property_is_a_plain_value(environment: SetVariables, value: str) -> None:
    """The property is named."""
    environment(KAFKA_PROPERTIES=f'{{"client.rack": {value}}}')

    assert complaint() == ("KAFKA_PROPERTIES: client.rack must be a text, a number, true or false")


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("latest", None),
        ("2026-11-23", datetime(2026, 11, 23, tzinfo=UTC)),
        ("2026-11-23 10:00", datetime(2026, 11, 23, 10, tzinfo=UTC)),
        ("2026-11-23T10:00:00Z", datetime(2026, 11, 23, 10, tzinfo=UTC)),
        ("2026-11-23T10:00:00+02:00", datetime(2026, 11, 23, 8, tzinfo=UTC)),
    ],
)
def test_a_start_is_a_word_or_a_time(
    environment: SetVariables, text: str, time: datetime | None
) -> None:
    """UTC where it has no offset, wherever the stream runs."""
    environment(KAFKA_START_AT=text)

    found = load().kafka_start_time()

    assert found == time
    assert found is None or found.tzinfo is not None


@pytest.mark.parametrize("text", ["Earliest", "1700000000", "23.11.2026"])
def test_a_start_of_another_form_is_refused(environment: SetVariables, text: str) -> None:
    """With the forms that there are."""
    environment(KAFKA_START_AT=text)

    assert complaint() == (
        "KAFKA_START_AT: must be earliest, latest or an ISO 8601 time such as 2026-11-23T10:00:00Z"
    )


@pytest.mark.parametrize(("text", "seconds"), [("5", 5), ("0.25", 0.25), ("1e2", 100)])
def test_a_duration_is_in_seconds(environment: SetVariables, text: str, seconds: float) -> None:
    """Fractions too."""
    environment(ML_API_TIMEOUT=text)

    assert load().ml_api_timeout == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["0", "-1", "5s", "PT5S", "nan", "inf", "0.0000001"])
def test_a_duration_is_a_positive_number(environment: SetVariables, text: str) -> None:
    """A limit of nothing would let nothing happen."""
    environment(ML_API_TIMEOUT=text)

    assert complaint().startswith("ML_API_TIMEOUT: ")


def test_every_limit_is_a_duration() -> None:
    """Those whose name says so have the type of which the rules above are tried."""
    named = [field for name, field in Settings.model_fields.items() if name.endswith("_timeout")]

    assert named
    for field in named:
        assert field.annotation is timedelta
        assert field.metadata == Settings.model_fields["ml_api_timeout"].metadata


def test_openssls_folders_are_written_as_openssl_takes_them(
    environment: SetVariables, tmp_path: Path
) -> None:
    """Several, separated by colons; one that is not there is named by its variable."""
    folders = tmp_path / "one", tmp_path / "two"
    environment(SSL_CERT_DIR=":".join(map(str, folders)))
    assert complaint().startswith("SSL_CERT_DIR: ")
    for folder in folders:
        folder.mkdir()
    assert load().ssl_cert_dir == folders
