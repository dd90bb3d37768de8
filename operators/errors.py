"""What stops the stream.

    StreamError
    ├── DependencyError     a service did not answer, or refused: which setting to look at
    ├── SourceError         a partition cannot be read on
    ├── ScoringError        the model's API answered what no retry mends
    ├── StoreError          rows could not be written
    ├── DeliveryError       a dead letter was not acknowledged
    ├── BugError            one message, and an exception that nobody foresaw
    └── ClusterError        another process of the cluster has ended

Bad data is no exception: it is a `Failure` in a stream. Messages hold no secret and no value of a
transaction.
"""

import os
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, NoReturn, TypeVar

from telemetry import log

__all__ = [
    "BugError",
    "ClusterError",
    "DeliveryError",
    "DependencyError",
    "ScoringError",
    "SourceError",
    "StoreError",
    "StreamError",
    "bug",
    "end_process",
    "fatal",
    "fatal_ends_process",
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


class ClusterError(StreamError):
    """Another process of the cluster has ended, which ends all."""

    event = "cluster.ended"


E = TypeVar("E", bound=StreamError)
_ending = threading.Lock()
_before: list[Callable[[], None]] = []


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

    :returns: The same error, unless `fatal_ends_process`.

    """
    if _before:
        end_process(error)
    log.error(error.event, error=str(error))
    return error


def fatal_ends_process(before: Callable[[], None]) -> None:
    """Have `fatal` end this process: Bytewax would print up to 225 lines round the one that counts.

    For the stream that is the end that a kill is: what is not done is read again.

    :arg before: Called first, to finish what is not the stream's.

    """
    _before[:] = [before]


def end_process(error: StreamError) -> NoReturn:
    """End this process at once, with exit code 1; the last line says why."""
    _ending.acquire()  # for good: of two workers that cannot go on, one has the last word
    try:
        for before in _before:
            before()
        if isinstance(error, BugError):
            traceback.print_exception(error)
        log.error(error.event, error=str(error))
    finally:
        os._exit(1)
