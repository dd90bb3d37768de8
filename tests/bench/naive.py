"""The loop that most teams write first: poll, validate, ask, insert, commit, one after the other.

Written as well as its kind allows: one HTTP client that keeps its connection, batches of 100 for
model and database, one transaction for both tables (psycopg sends `executemany` as a pipeline), a
primary key that makes redelivery harmless, and offsets committed after the rows. What it has not:
retries, an error topic, a limit on what a sick model costs, a lock against a second instance.

    python -m tests.bench.naive
"""

import signal
import threading
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final
from uuid import UUID, uuid5

import httpx
import psycopg
from confluent_kafka import Consumer, KafkaException, Message
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from operators.decode import EXTERNAL_ID_NAMESPACE
from settings import load

WAIT: Final = 0.1  # seconds for a batch to fill


class Transaction(BaseModel):
    """What producers send."""

    id: Annotated[UUID | int | str, Field(union_mode="left_to_right")]
    description: str = Field(max_length=10_000)
    amount: Decimal = Field(max_digits=18, decimal_places=4)
    timestamp: datetime
    merchant: str | None = Field(None, max_length=10_000)
    operation_type: str = Field(max_length=100)
    side: str = Field(max_length=100)


class Prediction(BaseModel):
    """What the model answers."""

    model_config = ConfigDict(protected_namespaces=())

    transaction_id: UUID
    prediction: str
    fraud_score: float = Field(ge=0, le=1)
    model_version: str | None = None


REQUEST: Final = TypeAdapter(list[Transaction])
ANSWER: Final = TypeAdapter(list[Prediction])

STORE_TRANSACTION: Final = """
INSERT INTO transactions (
    id, external_id, description, amount, "timestamp", merchant, operation_type, side,
    source_topic, source_partition, source_offset
) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""
STORE_PREDICTION: Final = """
INSERT INTO predictions (transaction_id, prediction, fraud_score, model_version)
VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING
"""


def decode(message: Message) -> tuple[str | None, Transaction]:
    """Validate a message; an id that is no UUID gets one, and is kept beside it."""
    transaction = Transaction.model_validate_json(message.value() or b"")
    if isinstance(transaction.id, UUID):
        return None, transaction
    external = str(transaction.id)
    transaction.id = uuid5(EXTERNAL_ID_NAMESPACE, external)
    return external, transaction


def handle(messages: list[Message], model: httpx.Client, database: psycopg.Connection) -> None:
    """Take a batch from validation to commit."""
    decoded = [decode(message) for message in messages]
    body = REQUEST.dump_json([transaction for _, transaction in decoded])
    answer = model.post("/predict", content=body, headers={"content-type": "application/json"})
    answer.raise_for_status()
    found: dict[Any, Prediction] = {
        prediction.transaction_id: prediction for prediction in ANSWER.validate_json(answer.content)
    }
    transactions: list[tuple[Any, ...]] = []
    predictions: list[tuple[Any, ...]] = []
    for message, (external, given) in zip(messages, decoded, strict=True):
        time = given.timestamp
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time
        transactions.append(
            (
                given.id,
                external,
                given.description,
                given.amount,
                time,
                given.merchant,
                given.operation_type,
                given.side,
                message.topic(),
                message.partition(),
                message.offset(),
            )
        )
        said = found[given.id]
        predictions.append((given.id, said.prediction, said.fraud_score, said.model_version))
    with database.transaction(), database.cursor() as cursor:
        cursor.executemany(STORE_TRANSACTION, transactions)
        cursor.executemany(STORE_PREDICTION, predictions)


def main() -> None:
    """Run until SIGTERM."""
    settings = load()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    consumer = Consumer(
        {
            **settings.kafka_client(),
            "group.id": settings.kafka_consumer_group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([settings.kafka_topic])
    with (
        httpx.Client(base_url=str(settings.ml_api_url), timeout=10, trust_env=False) as model,
        psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as database,
    ):
        while not stop.is_set():
            messages = consumer.consume(settings.batch_size, WAIT)
            for message in messages:
                if error := message.error():
                    raise KafkaException(error)
            if messages:
                handle(messages, model, database)
                consumer.commit(asynchronous=False)
    consumer.close()


if __name__ == "__main__":
    main()
