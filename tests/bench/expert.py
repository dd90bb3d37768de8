"""What an expert writes without a framework: one asyncio loop, everything in flight at once.

uvloop, msgspec for all JSON, aiohttp with 16 requests in flight, asyncpg with binary COPY of all
that waits, one transaction for both tables. A free slot takes what waits. Batches are written in
the order in which they were read, so an offset is passed on only when all before it are stored;
librdkafka commits what was passed on once a second.

What it has not: retries, a breaker, an error topic, a search for the one bad message, positions of
repeated messages, a word about conflicts, snapshots, a lock against a second instance. One bad
message or one refused request ends it.

    python -m tests.bench.expert
"""

import asyncio
import gc
import re
import signal
from collections import deque
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final
from uuid import UUID, uuid5

import aiohttp
import asyncpg
import msgspec
import uvloop
from confluent_kafka import Consumer, KafkaException, Message

from operators.decode import EXTERNAL_ID_NAMESPACE
from settings import Settings, load

IN_FLIGHT: Final = 16
WRITE_BATCHES: Final = 20
PAUSE: Final = 0.002  # seconds until the next look, when there was nothing to read
SPARE: Final = 4
"""Requests in flight from which on one waits for a full batch: small ones cost more than they
gain."""

LongText = Annotated[str, msgspec.Meta(max_length=10_000, pattern=r"^[^\x00]*$")]
ShortText = Annotated[str, msgspec.Meta(max_length=100, pattern=r"^[^\x00]*$")]
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Transaction(msgspec.Struct):
    """What producers send."""

    id: str | int
    description: LongText
    amount: Decimal
    timestamp: datetime
    operation_type: ShortText
    side: ShortText
    merchant: LongText | None = None


class Question(msgspec.Struct):
    """What the model is asked."""

    id: str
    description: str
    amount: float
    timestamp: datetime
    merchant: str | None
    operation_type: str
    side: str


class Prediction(msgspec.Struct):
    """What the model answers."""

    transaction_id: str
    prediction: str
    fraud_score: Annotated[float, msgspec.Meta(ge=0, le=1)]
    model_version: str | None = None


Row = tuple[Any, ...]
Batch = tuple[list[Message], list[Row], list[Row]]
"""Messages, and their rows in both tables."""

_decode: Final = msgspec.json.Decoder(Transaction).decode
_answer: Final = msgspec.json.Decoder(list[Prediction]).decode
_encode: Final = msgspec.json.Encoder().encode

TRANSACTION: Final = (
    *("id", "external_id", "description", "amount", "timestamp", "merchant"),
    *("operation_type", "side", "source_topic", "source_partition", "source_offset"),
)
PREDICTION: Final = ("transaction_id", "prediction", "fraud_score", "model_version")


def identify(given: str | int) -> tuple[str, str | None]:
    """Give the UUID in its usual spelling, and the id as received where that is no UUID."""
    text = str(given)
    if _UUID.fullmatch(text):
        return text, None
    try:
        return str(UUID(text)), None
    except ValueError:
        return str(uuid5(EXTERNAL_ID_NAMESPACE, text)), text


async def score(messages: list[Message], model: aiohttp.ClientSession) -> Batch:
    """Validate a batch and ask the model."""
    transactions: list[Row] = []
    questions = []
    for message in messages:
        if error := message.error():
            raise KafkaException(error)
        given = _decode(message.value() or b"")
        identity, external = identify(given.id)
        time = given.timestamp
        questions.append(
            Question(
                identity,
                given.description,
                float(given.amount),
                time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None),
                given.merchant,
                given.operation_type,
                given.side,
            )
        )
        transactions.append(
            (
                identity,
                external,
                given.description,
                given.amount,
                time.replace(tzinfo=UTC) if time.tzinfo is None else time,
                given.merchant,
                given.operation_type,
                given.side,
                message.topic(),
                message.partition(),
                message.offset(),
            )
        )
    async with model.post("/predict", data=_encode(questions)) as answer:
        answer.raise_for_status()
        found = {said.transaction_id: said for said in _answer(await answer.read())}
    predictions: list[Row] = []
    for row in transactions:
        said = found[row[0]]
        predictions.append((row[0], said.prediction, said.fraud_score, said.model_version))
    return messages, transactions, predictions


async def store(transactions: list[Row], predictions: list[Row], database: Any) -> None:
    """Write both tables in one transaction; rows that are there already stay as they are."""
    try:
        async with database.transaction():
            await database.copy_records_to_table(
                "transactions", records=transactions, columns=TRANSACTION
            )
            await database.copy_records_to_table(
                "predictions", records=predictions, columns=PREDICTION
            )
    except asyncpg.UniqueViolationError:
        async with database.transaction():
            for table, columns, rows in (
                ("transactions", TRANSACTION, transactions),
                ("predictions", PREDICTION, predictions),
            ):
                values = ", ".join(f"${number + 1}" for number in range(len(columns)))
                insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values})"  # noqa: S608 - names from above
                await database.executemany(f"{insert} ON CONFLICT DO NOTHING", rows)


class Pipeline:
    """Reads, asks and writes on one loop.

    :arg consumer: Subscribed.

    :arg model: With the model's base URL.

    :arg database: A connection of asyncpg's.

    :arg batch_size: Most messages in a request.

    """

    def __init__(
        self, consumer: Consumer, model: aiohttp.ClientSession, database: Any, *, batch_size: int
    ) -> None:
        self._consumer, self._model, self._database = consumer, model, database
        self._batch_size = batch_size
        self._batches: deque[asyncio.Task[Batch]] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Semaphore(2 * IN_FLIGHT + WRITE_BATCHES)
        self._in_flight = 0
        self._free = asyncio.Event()
        self.stop = asyncio.Event()

    async def run(self) -> None:
        """Go on until `stop` is set, then finish what was begun."""
        writer = asyncio.create_task(self._write())
        waiting: list[Message] = []
        while not self.stop.is_set() and not writer.done():
            if len(waiting) < self._batch_size:
                waiting += self._consumer.consume(self._batch_size - len(waiting), 0)
            full = len(waiting) == self._batch_size
            if self._in_flight == IN_FLIGHT or (not full and self._in_flight >= SPARE):
                if full:
                    self._free.clear()
                    await self._free.wait()
                else:
                    await asyncio.sleep(PAUSE)
            elif waiting:
                await self._room.acquire()
                self._in_flight += 1
                task = asyncio.create_task(score(waiting, self._model))
                task.add_done_callback(self._answered)
                self._batches.append(task)
                self._news.set()
                waiting = []
                await asyncio.sleep(0)
            else:
                await asyncio.sleep(PAUSE)
        self.stop.set()
        self._news.set()
        await writer

    def _answered(self, _: "asyncio.Task[Batch]") -> None:
        self._in_flight -= 1
        self._free.set()

    async def _write(self) -> None:
        while self._batches or not self.stop.is_set():
            if not self._batches:
                self._news.clear()
                await self._news.wait()
                continue
            await self._batches[0]
            messages: list[Message] = []
            transactions: list[Row] = []
            predictions: list[Row] = []
            taken = 0
            while self._batches and self._batches[0].done() and taken < WRITE_BATCHES:
                batch = self._batches.popleft().result()
                messages += batch[0]
                transactions += batch[1]
                predictions += batch[2]
                taken += 1
                self._room.release()
            await store(transactions, predictions, self._database)
            last = {message.partition(): message for message in messages}
            for message in last.values():
                self._consumer.store_offsets(message)


def consume_from(settings: Settings) -> Consumer:
    """Make the consumer."""
    return Consumer(
        {
            **settings.kafka_client(),
            "group.id": settings.kafka_consumer_group,
            "enable.auto.commit": True,
            "auto.commit.interval.ms": 1_000,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
        }
    )


async def serve(settings: Settings) -> None:
    """Run until SIGTERM."""
    consumer = consume_from(settings)
    consumer.subscribe([settings.kafka_topic])
    database = await asyncpg.connect(settings.database_url.get_secret_value())
    async with aiohttp.ClientSession(
        str(settings.ml_api_url),
        connector=aiohttp.TCPConnector(limit=IN_FLIGHT),
        timeout=aiohttp.ClientTimeout(10),
        headers={"content-type": "application/json"},
    ) as model:
        pipeline = Pipeline(consumer, model, database, batch_size=settings.batch_size)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, pipeline.stop.set)
        await pipeline.run()
    await database.close()
    consumer.close()


if __name__ == "__main__":
    # Many small objects live for a moment; the default threshold looks at them all the time.
    gc.set_threshold(50_000, 50, 100)
    uvloop.run(serve(load()))
