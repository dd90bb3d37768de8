"""Messages: all there before, at a constant rate, or always some ahead of the reader."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import cache
from types import TracebackType
from typing import Final, Self
from uuid import UUID

from confluent_kafka import Producer

from lab.sample import transactions
from lab.servers import KafkaServer

__all__ = ["Backlog", "fill", "steady", "values"]

TICK: Final = 0.005  # seconds between two looks at what is due
AHEAD: Final = 20_000  # messages of each partition that wait for a reader that is slow
_ID: Final = len(b'{"id": "')


@cache
def values(count: int) -> Sequence[bytes]:
    """Make valid transactions, none twice; the same at each call."""
    return [sample.value for sample in transactions(count, seed=1, broken=0, repeated=0)]


@cache
def _producer(broker: KafkaServer) -> Producer:
    """One for all topics: until the broker has given a new one its number, messages wait."""
    own = {"enable.idempotence": True, "linger.ms": 1, "compression.type": "lz4"}
    return Producer({**broker.client_settings, **own})


def _send(producer: Producer, topic: str, value: bytes, partition: int) -> None:
    while True:
        try:
            producer.produce(topic, value, partition=partition)
        except BufferError:
            producer.poll(0.01)
        else:
            return


def _flush(producer: Producer) -> None:
    if left := producer.flush(60):
        msg = f"{left} messages had no answer in 60 s"
        raise TimeoutError(msg)


def fill(broker: KafkaServer, topic: str, messages: Sequence[bytes], partitions: int) -> None:
    """Produce as fast as it goes, as many to each partition."""
    producer = _producer(broker)
    for number, value in enumerate(messages):
        _send(producer, topic, value, number % partitions)
        if number % 1_000 == 0:
            producer.poll(0)
    _flush(producer)


def steady(
    broker: KafkaServer, topic: str, messages: Sequence[bytes], partitions: int, *, rate: float
) -> None:
    """Produce at a constant rate, to one partition for a few milliseconds, then to the next.

    So producers do that send no key. To change with every message would cost them and the broker
    several times as much, on processors that are to be measured.

    :arg broker: Where to.

    :arg topic: Exists.

    :arg messages: Each has the time at which it was produced as its timestamp.

    :arg partitions: Of the topic.

    :arg rate: Messages a second.

    """
    producer = _producer(broker)
    began, sent, tick = time.monotonic(), 0, 0
    while sent < len(messages):
        due = min(len(messages), int((time.monotonic() - began) * rate) + 1)
        for value in messages[sent:due]:
            _send(producer, topic, value, tick % partitions)
        sent, tick = due, tick + 1
        producer.poll(0)
        time.sleep(TICK)
    _flush(producer)


def _endless() -> Iterator[bytes]:
    """Transactions with ids of their own, cheaper than making each anew."""
    templates = [value for value in values(20_000) if _has_uuid(value)]
    while True:
        for value in templates:
            identity = str(UUID(bytes=os.urandom(16))).encode()
            yield value[:_ID] + identity + value[_ID + 36 :]


def _has_uuid(value: bytes) -> bool:
    text = value[_ID : _ID + 36]
    return value.startswith(b'{"id": "') and text.count(b"-") == 4 and b'"' not in text


class Backlog:
    """Keeps each partition ahead of its reader, in a thread, inside its block.

    Each by its own: one that is read slowly does not slow down the others.

    :arg broker: Where to.

    :arg topic: Exists.

    :arg reached: Tells how far each partition is.

    :arg rate: Most messages a second, of all together; None is no limit.

    """

    def __init__(
        self,
        broker: KafkaServer,
        topic: str,
        *,
        reached: Callable[[], Sequence[int]],
        rate: float | None = None,
    ) -> None:
        self._producer, self._topic = _producer(broker), topic
        self._reached, self._rate = reached, rate
        self._messages = _endless()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="backlog", daemon=True)
        self.error: Exception | None = None

    def _run(self) -> None:
        try:
            began = time.monotonic()
            sent = [0] * len(self._reached())
            while not self._stop.wait(timedelta(milliseconds=200).total_seconds()):
                limit = self._rate and (time.monotonic() - began) * self._rate / len(sent)
                for partition, reached in enumerate(self._reached()):
                    wanted = int(min(reached + AHEAD, limit or float("inf")))
                    for _ in range(sent[partition], wanted):
                        _send(self._producer, self._topic, next(self._messages), partition)
                    sent[partition] = max(sent[partition], wanted)
                    self._producer.poll(0)
        except Exception as error:  # noqa: BLE001 - raised at the end of the block
            self.error = error

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End."""
        self._stop.set()
        self._thread.join()
        self._producer.purge()
        if self.error is not None:
            raise self.error
