"""Kinds of settings: how each is written in an environment variable, and what is wrong with it.

No message repeats the value, since a secret may be in the wrong place.
"""

import json
import os
import re
from datetime import datetime, timedelta
from typing import Annotated, Any

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import (
    AfterValidator,
    BeforeValidator,
    DirectoryPath,
    Field,
    HttpUrl,
    Secret,
    SecretStr,
)
from pydantic_settings import NoDecode

__all__ = [
    "OWNED_PROPERTIES",
    "DatabaseUrl",
    "Folders",
    "GroupName",
    "Name",
    "PlainUrl",
    "Properties",
    "Seconds",
    "StartAt",
    "Token",
]

OWNED_PROPERTIES = {
    "acks": "every dead letter is acknowledged by all replicas",
    "auto.offset.reset": "KAFKA_START_AT",
    "bootstrap.servers": "KAFKA_BOOTSTRAP_SERVERS",
    "enable.auto.commit": "offsets are committed when they are durable",
    "enable.auto.offset.store": "offsets are committed when they are durable",
    "enable.idempotence": "a retried dead letter must not be there twice",
    "enable.partition.eof": "the stream has no end",
    "group.id": "KAFKA_CONSUMER_GROUP",
    "isolation.level": "what a transaction has not committed is no message",
    "metadata.broker.list": "KAFKA_BOOTSTRAP_SERVERS",
    "request.required.acks": "every dead letter is acknowledged by all replicas",
    "sasl.password": "KAFKA_SASL_PASSWORD",
    "transactional.id": "named after group, topic and partition, so that a newer fences an older",
}
"""librdkafka's properties that the stream sets itself, with the setting or the reason."""


def _seconds(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value
    try:
        return timedelta(seconds=float(value))
    except (TypeError, ValueError, OverflowError):
        msg = "must be a number of seconds"
        raise ValueError(msg) from None


def _properties(value: Any) -> Any:
    if isinstance(value, Secret):
        return value
    try:
        properties = json.loads(value) if isinstance(value, str) else value
        names = list(properties.items())
    except (AttributeError, ValueError):
        msg = 'must be a JSON object such as {"socket.keepalive.enable": true}'
        raise ValueError(msg) from None
    for name, setting in names:
        if name in OWNED_PROPERTIES:
            msg = f"{name} is set by the stream: {OWNED_PROPERTIES[name]}"
            raise ValueError(msg)
        # The Python client takes callbacks under other names, which no text can be.
        if not re.fullmatch(r"[a-z]+(\.[a-z0-9]+)+|debug", name):
            msg = "a name in it is no librdkafka property"
            raise ValueError(msg)
        if not isinstance(setting, str | bool | int | float):
            msg = f"{name} must be a text, a number, true or false"
            raise ValueError(msg)  # noqa: TRY004 - Pydantic's way
    return properties


def _start_at(value: str) -> str:
    if value in {"earliest", "latest"}:
        return value
    try:
        datetime.fromisoformat(value)
    except ValueError:
        msg = "must be earliest, latest or an ISO 8601 time such as 2026-11-23T10:00:00Z"
        raise ValueError(msg) from None
    return value


def _group_name(value: str) -> str:
    if not value.isprintable() or value.strip() != value:
        msg = "must have no invisible characters, and no space at its ends"
        raise ValueError(msg)
    return value


def _database_url(value: SecretStr) -> SecretStr:
    msg = (
        "must be a PostgreSQL URL such as postgresql://user:password@host:5432/database,"
        " special characters in the password percent-encoded"
    )
    try:
        parts = conninfo_to_dict(value.get_secret_value())
    except ProgrammingError:
        # libpq's message repeats the text, password included.
        raise ValueError(msg) from None
    # What is left of a password that is not encoded would be logged as the host or the database.
    named = f"{parts.get('host', '')}{parts.get('dbname', '')}"
    if "@" in named or str(parts.get("port", "")).strip("0123456789,"):
        raise ValueError(msg)
    return value


def _token(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~]+", value.get_secret_value()):
        msg = "must be of letters, digits and signs of ASCII, without spaces and ends of lines"
        raise ValueError(msg)
    return value


def _folders(value: Any) -> Any:
    return [each for each in value.split(os.pathsep) if each] if isinstance(value, str) else value


def _plain_url(value: HttpUrl) -> HttpUrl:
    if value.username or value.password or value.query or value.fragment:
        msg = "must hold no user, password or query, since it is logged; use ML_API_TOKEN"
        raise ValueError(msg)
    return value


Seconds = Annotated[timedelta, BeforeValidator(_seconds), Field(gt=timedelta(0))]
"""A limit, written as a number of seconds."""

Name = Annotated[str, Field(min_length=1, max_length=249, pattern=r"^[A-Za-z0-9._-]+$")]
"""Of a topic."""

GroupName = Annotated[str, Field(min_length=1, max_length=249), AfterValidator(_group_name)]
"""Of a group: Kafka takes any text, here what can be seen."""

StartAt = Annotated[str, AfterValidator(_start_at)]
"""`earliest`, `latest` or an ISO 8601 time."""

Properties = Annotated[Secret[dict[str, str | bool | int | float]], BeforeValidator(_properties)]
"""librdkafka's, as a JSON object."""

DatabaseUrl = Annotated[SecretStr, AfterValidator(_database_url)]
"""A connection string that libpq understands, and none of whose messages holds the password."""

Folders = Annotated[tuple[DirectoryPath, ...] | None, NoDecode, BeforeValidator(_folders)]
"""Written as OpenSSL takes them: separated as in `PATH`."""

Token = Annotated[SecretStr, AfterValidator(_token)]
"""What a header of HTTP can hold."""

PlainUrl = Annotated[HttpUrl, AfterValidator(_plain_url)]
"""One that may be logged."""
