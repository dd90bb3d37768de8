"""What passes from step to step.

    Message ──decode──> Received ──score──> Scored
                  └──────────────┴────────> Failure

From `decode` on they pass in lists: what was read, answered or refused together. All are named
tuples, which are cheap to make.
"""

from datetime import datetime
from decimal import Decimal
from typing import Literal, NamedTuple
from uuid import UUID

from operators.engine.positions import Fetch

__all__ = [
    "Disposition",
    "Failure",
    "Message",
    "Prediction",
    "Received",
    "Scored",
    "Stage",
    "Transaction",
    "partition_key",
]

Stage = Literal["decode", "validate", "score", "persist"]
"""The step that refused a message."""

Disposition = Literal["poison", "rejected", "exhausted", "conflict"]
"""Why a message is a dead letter.

`poison`: it is broken and will never pass. `rejected`: a service refused it while it took others.
`exhausted`: it failed as often as retries are allowed. `conflict`: its id is stored with other
content.
"""


def partition_key(topic: str, partition: int) -> str:
    """Bytewax's own name for a Kafka partition, which source and sinks share."""
    return f"{partition}-{topic}"


class Message(NamedTuple):
    """A message as Kafka gave it."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    topic: str
    partition: int
    offset: int
    timestamp: int
    """Milliseconds since 1970 in UTC, from the producer or the broker; -1 if there is none."""
    fetch: Fetch | None = None
    """What it was read with, which counts it when it is done; None if nobody keeps account."""
    unreadable: tuple[str, ...] = ()
    """Parts that Kafka's client could not give, or not in full: `headers`."""

    @property
    def partition_key(self) -> str:
        """Key under which source and sinks know its partition."""
        return partition_key(self.topic, self.partition)


class Transaction(NamedTuple):
    """A valid transaction, its fields in the order of the table's columns."""

    id: UUID
    """To look it up by, take its `int`: the hash of a UUID is made in Python, and costs ten times
    as much."""
    external_id: str | None
    """The id as received, where that is no UUID."""
    description: str
    amount: Decimal
    timestamp: datetime
    """In UTC."""
    merchant: str | None
    operation_type: str
    side: str


class Prediction(NamedTuple):
    """What the model says of a transaction."""

    prediction: str
    fraud_score: float
    """In [0, 1]."""
    model_version: str | None


class Received(NamedTuple):
    """A valid transaction and the message that it came in."""

    message: Message
    transaction: Transaction


class Scored(NamedTuple):
    """A transaction with its prediction, to be stored."""

    message: Message
    transaction: Transaction
    prediction: Prediction
    trace: str | None = None
    """`traceparent` of the batch in which it was scored, where tracing is on."""


class Failure(NamedTuple):
    """A message that ends in the error topic."""

    message: Message
    stage: Stage
    disposition: Disposition
    code: str
    """Short and stable, to filter by: `amount.decimal_max_places`."""
    error: str
    """Names field and rule, never the value."""
    attempts: int = 1
    """How often the step tried."""
    trace: str | None = None
    """As in `Scored`; None if it came to no scoring."""
