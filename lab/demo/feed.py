"""Produce the messages and remember where the broker put each."""

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from lab.sample import Sample

__all__ = ["Feed", "Position", "Sent"]

Position = tuple[int, int]
"""Partition and offset."""


class Sent(NamedTuple):
    """A message that the broker has acknowledged."""

    sample: Sample
    time: float
    """Seconds since 1970 at which it was handed to the client; its Kafka timestamp is the same, cut
    to milliseconds."""


class Feed:
    """A producer.

    :arg settings: Of the client.

    :arg topic: Where to.

    """

    def __init__(self, settings: dict[str, Any], topic: str) -> None:
        own = {"enable.idempotence": True, "linger.ms": 1, "compression.type": "lz4"}
        self._producer = Producer({**settings, **own})
        self._topic = topic
        self._error: KafkaError | None = None
        self.sent: dict[Position, Sent] = {}
        self._latest: dict[Position, Sent] = {}

    def send(
        self,
        samples: Iterable[Sample],
        *,
        rate: float | None = None,
        meanwhile: Callable[[], None],
    ) -> dict[Position, Sent]:
        """Produce, and wait until all is acknowledged.

        :arg samples: What.

        :arg rate: Messages a second; None is as fast as it goes.

        :arg meanwhile: Called again and again.

        :returns: These messages; `sent` has them and all before them.

        :raises KafkaException: A message was not delivered.

        """
        self._latest = {}
        start = time.monotonic()
        for number, sample in enumerate(samples):
            while rate and (early := start + number / rate - time.monotonic()) > 0:
                self._producer.poll(early)
            self._produce(sample)
            meanwhile()
        while self._producer.flush(0.1):
            meanwhile()
        if self._error is not None:
            raise KafkaException(self._error)
        return self._latest

    def _produce(self, sample: Sample) -> None:
        while True:
            now = time.time()
            try:
                self._producer.produce(
                    self._topic,
                    sample.value,
                    sample.key,
                    timestamp=int(now * 1000),
                    on_delivery=partial(self._delivered, sample, now),
                )
            except BufferError:
                self._producer.poll(0.1)
            else:
                self._producer.poll(0)
                return

    def _delivered(
        self, sample: Sample, at: float, error: KafkaError | None, message: Message
    ) -> None:
        partition, offset = message.partition(), message.offset()
        if error is not None or partition is None or offset is None:
            self._error = error
        else:
            self.sent[partition, offset] = self._latest[partition, offset] = Sent(sample, at)
