"""What stops the stream.

    StreamError
    ├── DependencyError     a service did not answer, or refused: which setting to look at
    ├── SourceError         a partition cannot be read on
    ├── ScoringError        the model's API answered what no retry mends
    ├── StoreError          rows could not be written
    └── DeliveryError       a dead letter was not acknowledged

Bad data is no exception: it is a `Failure` in a stream. Messages hold no secret and no value of a
transaction.
"""

from typing import ClassVar, TypeVar

from telemetry import log

__all__ = [
    "DeliveryError",
    "DependencyError",
    "ScoringError",
    "SourceError",
    "StoreError",
    "StreamError",
    "fatal",
]


class StreamError(Exception):
    """Base of all that stops the stream."""

    event: ClassVar[str] = "stream.stopped"
    """Under which `fatal` logs it."""


class DependencyError(StreamError):
    """A service did not answer at start, or refused; the message names the setting."""


class SourceError(StreamError):
    """A partition cannot be read on without losing messages."""

    event = "source.stopped"


class ScoringError(StreamError):
    """The model's API refused or failed in a way that is not the fault of one transaction."""

    event = "score.stopped"


class StoreError(StreamError):
    """Rows could not be written to the database."""

    event = "postgres.stopped"


class DeliveryError(StreamError):
    """Dead letters were not acknowledged by the broker."""

    event = "dead_letters.stopped"


E = TypeVar("E", bound=StreamError)


def fatal(error: E) -> E:
    """Log an error that stops the stream: in a cluster no traceback of a worker is printed.

    :returns: The same error.

    """
    log.error(error.event, error=str(error))
    return error
