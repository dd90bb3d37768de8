"""Environment variables that the settings are read from, and what `load` says of wrong ones."""

import traceback
from collections.abc import Callable
from typing import Final

import pytest

from settings import SettingsError, load

__all__ = ["REQUIRED", "SECRET", "SetVariables", "complaint"]

SECRET: Final = "hunter2-SECRET"  # noqa: S105 - what must not show up

REQUIRED: Final = {
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "KAFKA_CONSUMER_GROUP": "fraud-scoring",
    "DATABASE_URL": "postgresql://fraud@127.0.0.1:1/fraud",
    "ML_API_URL": "http://127.0.0.1:1",
}

SetVariables = Callable[..., None]
"""Sets variables by name; None removes one."""


def complaint() -> str:
    """What `load` says of the environment as it is; no secret is in it, nor in its traceback."""
    with pytest.raises(SettingsError) as caught:
        load()
    text = str(caught.value)
    assert "\n" not in text
    # Whoever prints the exception, with its causes, prints no secret either.
    assert SECRET not in text + "".join(traceback.format_exception(caught.value))
    return text
