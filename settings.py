"""Every setting of the stream: one environment variable each, typed and checked at start.

`load` reads them; nothing else in the project looks at `os.environ`. Any variable can come from a
file instead: `DATABASE_URL_FILE=/run/secrets/database-url` is read where `DATABASE_URL` is not set.
Secrets are kept in Pydantic's `SecretStr` and are never printed. `settings_types.py` says how each
kind of value is written.
"""

import argparse
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    FilePath,
    Secret,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as UnreadableSettingsError

from settings_types import (
    DatabaseUrl,
    Folders,
    GroupName,
    Name,
    PlainUrl,
    Properties,
    Seconds,
    StartAt,
    Token,
)

__all__ = ["Settings", "SettingsError", "load", "recovery_directory", "workers_per_process"]


class SettingsError(ValueError):
    """A setting is missing or wrong. The message names each in one line and holds no secret."""


class _FileSettingsSource(EnvSettingsSource):
    """Values of `NAME_FILE` variables: the content of the file that each names."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        path = os.environ.get(f"{field_name.upper()}_FILE")
        if not path:
            return None, field_name, self.field_is_complex(field)
        try:
            content = Path(path).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            msg = f"{field_name.upper()}_FILE: cannot read {path}: {type(error).__name__}"
            raise SettingsError(msg) from None
        return content or None, field_name, self.field_is_complex(field)


class Settings(BaseSettings):
    """Settings of the stream; each field is the environment variable of its name in capitals."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True
    )

    kafka_bootstrap_servers: str = Field(
        min_length=1, description="Brokers to start from, `host:port`, separated by commas"
    )
    kafka_consumer_group: GroupName = Field(
        description="Consumer group under which progress is committed; names the stream"
    )
    kafka_topic: Name = Field("transactions", description="Topic that is read")
    kafka_error_topic: Name = Field("transactions-failed", description="Topic for what fails")
    kafka_start_at: StartAt = Field(
        "earliest",
        description="Where a group without offsets starts: `earliest`, `latest` or an ISO 8601 time"
        " (UTC if it has no offset)",
    )
    kafka_on_missing: Literal["stop", "skip"] = Field(
        "stop",
        description="When retention has removed messages that were not read yet: `stop`, or `skip`"
        " them and say how many",
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="`PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`"
    )
    kafka_sasl_mechanism: (
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "GSSAPI"] | None
    ) = Field(
        None, description="`PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`, `OAUTHBEARER` or `GSSAPI`"
    )
    kafka_sasl_username: str | None = Field(None, description="User for `PLAIN` and `SCRAM`")
    kafka_sasl_password: SecretStr | None = Field(None, description="Its password (secret)")
    kafka_ssl_ca_location: Path | None = Field(
        None, description="File with the certificates of the authority that signed the brokers'"
    )
    kafka_properties: Properties = Field(
        Secret({}),
        description="Any other librdkafka property, as a JSON object; may hold secrets",
    )

    database_url: DatabaseUrl = Field(
        description="PostgreSQL, `postgresql://user:password@host:5432/database` (secret)"
    )
    database_timeout: Seconds = Field(
        timedelta(seconds=30),
        description="Limit of one statement and of one attempt to connect, in seconds",
    )

    ml_api_url: PlainUrl = Field(
        description="Base URL of the model's API; the contract adds its path"
    )
    ml_api_contract: Literal["native", "oip", "mlflow"] = Field(
        "native",
        description="How the model is asked: `native` (`/predict`), `oip` (Open Inference Protocol"
        " v2) or `mlflow` (`/invocations`)",
    )
    ml_api_model: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] = Field(
        "fraud", description="Name of the model, where the contract's path has one (`oip`)"
    )
    ml_api_token: Token | None = Field(
        None, description="Sent as `Authorization: Bearer …` (secret)"
    )
    ml_api_ssl_ca_location: FilePath | None = Field(
        None, description="File with the certificates of the authority that signed the model's"
    )
    ml_api_ssl_certificate_location: FilePath | None = Field(
        None, description="File with the certificate that the stream shows to the model"
    )
    ml_api_ssl_key_location: FilePath | None = Field(
        None, description="File with its key, if the certificate's file has none"
    )
    ml_api_ssl_key_password: SecretStr | None = Field(
        None, description="Password of the key (secret)"
    )
    ssl_cert_file: FilePath | None = Field(
        None,
        description="OpenSSL's own: file with the authorities that are trusted where no other"
        " setting names any",
    )
    ssl_cert_dir: Folders = Field(
        None, description="The same, a folder, or several separated by colons"
    )
    ml_api_check: bool = Field(
        True,
        description="Whether the check at start asks the model about one made-up transaction;"
        " `false` to ask about none",
    )
    ml_api_timeout: Seconds = Field(
        timedelta(seconds=10), description="Limit of one request to the model, in seconds"
    )
    batch_size: int = Field(100, ge=1, le=10_000, description="Most transactions in one request")
    scoring_concurrency: int = Field(
        16, ge=1, le=1_000, description="Most requests in flight at once, for each worker"
    )
    scoring_adaptive: bool = Field(
        True,
        description="Whether fewer are in flight when the model is slow or says it has too much to"
        " do; `false` for a fixed number",
    )
    scoring_hedge_after: Seconds | None = Field(
        None, description="Seconds after which a slow request is sent once more; off if not set"
    )
    scoring_on_outage: Literal["pause", "dead_letter"] = Field(
        "pause",
        description="When the model is down: `pause` until it is back, or `dead_letter` what has"
        " had all retries",
    )
    max_retries: int = Field(
        3, ge=0, le=100, description="How often a failed request is sent again"
    )
    retry_backoff: float = Field(
        2.0,
        ge=1,
        le=10,
        description="Factor by which the pause before each retry grows; the first is up to 1 s",
    )

    in_hand_messages: int = Field(
        10_000,
        ge=1,
        description="Messages that a worker may have read and not finished; then it reads no more",
    )
    in_hand_bytes: int = Field(
        64_000_000, ge=1, description="The same in bytes; the first limit that is met counts"
    )

    start_timeout: Seconds = Field(
        timedelta(seconds=15),
        description="Limit within which each dependency has to answer at start, in seconds",
    )
    stop_timeout: Seconds = Field(
        timedelta(seconds=8),
        description="Limit of a graceful end after SIGTERM, in seconds",
    )
    http_host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address on which health and metrics are served; `0.0.0.0` in a container",
    )
    http_port: int = Field(
        8080,
        ge=0,
        le=65_535,
        description="Port of the same, one for each process of a machine; `0` for no server",
    )
    live_timeout: Seconds = Field(
        timedelta(seconds=120),
        description="Seconds without a sign of life of a worker, or until a cluster has come"
        " together, after which `/health/live` fails",
    )
    epoch_timeout: Seconds = Field(
        timedelta(seconds=60),
        description="Seconds since the end of the last epoch, or since a message was last finished"
        " while some are in hand, after which `/health/ready` fails; several times what `-s` says",
    )
    log_format: Literal["text", "json"] = Field("text", description="`text` or `json`")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="`DEBUG`, `INFO`, `WARNING` or `ERROR`"
    )
    tracing: bool = Field(
        False,
        description="Whether traces are sent with OpenTelemetry, an extra, to where its own"
        " `OTEL_…` variables say",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, then variables, then the files that `NAME_FILE` variables name."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, _FileSettingsSource(settings_cls)

    @model_validator(mode="after")
    def _topics_differ(self) -> Self:
        if self.kafka_topic == self.kafka_error_topic:
            msg = "KAFKA_ERROR_TOPIC: must differ from KAFKA_TOPIC, or failures would be read again"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _key_has_certificate(self) -> Self:
        key = self.ml_api_ssl_key_location or self.ml_api_ssl_key_password
        if key and not self.ml_api_ssl_certificate_location:
            msg = "ML_API_SSL_KEY_LOCATION: needs ML_API_SSL_CERTIFICATE_LOCATION"
            raise ValueError(msg)
        return self

    def kafka_start_time(self) -> datetime | None:
        """The time in `KAFKA_START_AT`, UTC if it has no offset; None if it is a word."""
        if self.kafka_start_at in {"earliest", "latest"}:
            return None
        time = datetime.fromisoformat(self.kafka_start_at)
        return time if time.tzinfo else time.replace(tzinfo=UTC)

    def read_again(self, name: str) -> Any:
        """Look whether the file that a setting came from says something else by now.

        :arg name: Of the field.

        :returns: What the file says, or the value as it is if it is from no file.

        """
        if f"{name.upper()}_FILE" not in os.environ:
            return getattr(self, name)
        try:
            return getattr(Settings(), name)
        except (ValidationError, UnreadableSettingsError):
            return getattr(self, name)

    def kafka_client(self) -> dict[str, Any]:
        """The librdkafka properties that every client of the stream starts from (has secrets)."""
        password = self.kafka_sasl_password
        optional = {
            "sasl.mechanism": self.kafka_sasl_mechanism,
            "sasl.username": self.kafka_sasl_username,
            "sasl.password": password.get_secret_value() if password else None,
            "ssl.ca.location": str(self.kafka_ssl_ca_location or "") or None,
        }
        return {
            "bootstrap.servers": self.kafka_bootstrap_servers,
            "security.protocol": self.kafka_security_protocol,
            "client.id": self.kafka_consumer_group,
            **{name: value for name, value in optional.items() if value is not None},
            **self.kafka_properties.get_secret_value(),
        }


def load(**overrides: Any) -> Settings:
    """Read the settings from the environment.

    :arg overrides: Values by field name that go before the environment's.

    :returns: The settings, checked.

    :raises SettingsError: One line that names every setting that is missing or wrong.

    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError("; ".join(_complaint(detail) for detail in error.errors())) from None
    except UnreadableSettingsError as error:
        raise SettingsError(str(error.__cause__ or error)) from None


def recovery_directory(arguments: Sequence[str] | None = None) -> Path | None:
    """The recovery directory: no setting of the stream, but an option of `bytewax.run`.

    :arg arguments: Of the command line; `sys.argv` if None.

    :returns: What `-r` or `BYTEWAX_RECOVERY_DIRECTORY` says; None if the stream runs without.

    """
    parser = argparse.ArgumentParser(add_help=False)
    default = os.environ.get("BYTEWAX_RECOVERY_DIRECTORY") or None
    parser.add_argument("-r", "--recovery-directory", type=Path, default=default)
    given: Path | None = parser.parse_known_args(arguments)[0].recovery_directory
    return given


def workers_per_process(arguments: Sequence[str] | None = None) -> int:
    """The number of worker threads of this process, an option of `bytewax.run` too.

    :arg arguments: Of the command line; `sys.argv` if None.

    :returns: What `-w` or `BYTEWAX_WORKERS_PER_PROCESS` says; 1 if that is no number, which
        Bytewax itself complains of.

    """
    parser = argparse.ArgumentParser(add_help=False)
    default = os.environ.get("BYTEWAX_WORKERS_PER_PROCESS")
    parser.add_argument("-w", "--workers-per-process", default=default)
    given: str | None = parser.parse_known_args(arguments)[0].workers_per_process
    return int(given) if given is not None and given.isdecimal() else 1


def _complaint(detail: Any) -> str:
    text = str(detail["msg"]).removeprefix("Value error, ")
    if not detail["loc"]:
        return text
    name = str(detail["loc"][0]).upper()
    return f"{name}: is not set" if detail["type"] == "missing" else f"{name}: {text}"
