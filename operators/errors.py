"""What stops the stream.

    StreamError
    ├── DependencyError     a service did not answer, or refused: which setting to look at
    ├── SourceError         a partition cannot be read on
    ├── ScoringError        the model's API answered what no retry mends
    ├── StoreError          rows could not be written
    ├── DeliveryError       a dead letter was not acknowledged
    └── BugError            one message, and an exception that nobody foresaw

Bad data is no exception: it is a `Failure` in a stream. Messages hold no secret and no value of a
transaction.
"""

import traceback
from pathlib import Path
from typing import ClassVar, TypeVar

from telemetry import log

__all__ = [
    "BugError",
    "DeliveryError",
    "DependencyError",
    "ScoringError",
    "SourceError",
    "StoreError",
    "StreamError",
    "bug",
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


class BugError(StreamError):
    """One message led to an exception that nobody foresaw; the message names its position."""

    event = "stream.bug"


E = TypeVar("E", bound=StreamError)


def bug(error: Exception, doing: str, key: str, offset: int) -> StreamError:
    """Say at which message something went wrong that nobody foresaw.

    :arg doing: What was being done: `decode`.

    :arg key: Topic and partition, as in `operators.records.partition_key`.

    :returns: What to raise `from None`: without the text of the exception, which may repeat what is
        in the message, and with its traceback. A `StreamError` was foreseen: it is given back.

    """
    if isinstance(error, StreamError):
        return error
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}:{place.lineno}"
    msg = f"{key}: offset {offset}: {doing} failed with {type(error).__name__} at {where}: a bug"
    return BugError(msg).with_traceback(error.__traceback__)


def fatal(error: E) -> E:
    """Log an error that stops the stream: in a cluster no traceback of a worker is printed.

    :returns: The same error.

    """
    log.error(error.event, error=str(error))
    return error
