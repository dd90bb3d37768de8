"""One value, decoded."""

from typing import Any

from operators.decode import decode_message
from operators.records import Failure, Received, Transaction
from tests.kit.factories import message

__all__ = ["accepted", "refused"]


def accepted(value: Any) -> Transaction:
    """The transaction that a message with this value becomes."""
    outcome = decode_message(message(value=value))
    assert isinstance(outcome, Received), outcome
    return outcome.transaction


def refused(value: Any) -> Failure:
    """The failure that a message with this value becomes."""
    outcome = decode_message(message(value=value))
    assert isinstance(outcome, Failure), outcome
    return outcome
