"""Messages that come all the time, whatever is down, and what should become of each."""

import random
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Literal, Self

from confluent_kafka import KafkaError, Message, Producer

from lab.sample import DUPLICATE, STORED, transactions
from lab.servers import KafkaServer
from tests.support import Position

__all__ = ["UNSTORABLE", "Load", "Place"]

Place = Literal["row", "dead letter", "either"]
"""Where a message may end: `transactions` or `duplicates`, or the error topic."""

UNSTORABLE: Final = "unstorable"
"""In a description: Postgres is to refuse it."""

_UNSCORABLE: Final = "poison"
_TICK: Final = 0.02
_SHARE: Final = 0.002
"""Of the messages, for each of: unscorable, unstorable, in conflict with another."""

_DESCRIPTION: Final = b'"description": "'


def _marked(value: bytes, mark: str) -> bytes:
    return value.replace(_DESCRIPTION, _DESCRIPTION + mark.encode() + b" ", 1)


class Load:
    """Sends sample messages at a constant rate, in a thread, inside its block.

    Beside those that decoding refuses there are some that only the model, only the database or only
    a comparison with what is stored refuses.

    :arg broker: Where to.

    :arg topic: Exists.

    :arg partitions: Of it; they are used in turn.

    :arg rate: Messages a second.

    :arg broken: Share that decoding refuses.

    :arg seed: The same seed makes the same messages.

    """

    def __init__(
        self,
        broker: KafkaServer,
        topic: str,
        *,
        partitions: int,
        rate: int,
        broken: float,
        seed: int,
    ) -> None:
        self._topic, self._partitions = topic, partitions
        self._rate, self._broken, self._seed = rate, broken, seed
        self._producer = Producer(
            {
                **broker.client_settings,
                "acks": "all",
                "linger.ms": 5,
                "message.timeout.ms": 60_000,
                "socket.timeout.ms": 10_000,
            }
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self.acknowledged: list[Position] = []
        self.unacknowledged = 0
        """Given up by the client; the broker may have them none the less."""
        self._places: dict[bytes, Place] = {}

    def place(self, value: bytes | None) -> Place | None:
        """Say where a message has to end; None if it was not sent from here."""
        return self._places.get(value or b"")

    def stop(self) -> None:
        """Send no more, and wait for all answers."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(90)
            assert not self._thread.is_alive(), "the producer hangs"

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
        """End, after an error without waiting for answers."""
        if error is not None:
            self._producer.purge()
        self.stop()

    def _run(self) -> None:
        messages = enumerate(self._messages())
        began, sent = time.monotonic(), 0
        while not self._stop.wait(_TICK):
            # What could not be sent in time is not made up for: a rate, not a number.
            due = min(int((time.monotonic() - began) * self._rate) - sent, self._rate // 10)
            for number, value in (next(messages) for _ in range(due)):
                self._send(value, number % self._partitions)
            sent = int((time.monotonic() - began) * self._rate)
            self._producer.poll(0)
        self._producer.flush(75)

    def _send(self, value: bytes, partition: int) -> None:
        while not self._stop.is_set():
            try:
                self._producer.produce(
                    self._topic, value, partition=partition, on_delivery=self._delivered
                )
            except BufferError:
                self._producer.poll(_TICK)
            else:
                return

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        partition, offset = message.partition(), message.offset()
        if error is not None or partition is None or offset is None:
            self.unacknowledged += 1
        else:
            self.acknowledged.append((partition, offset))

    def _messages(self) -> Iterator[bytes]:
        rng = random.Random(f"{self._seed} load")  # noqa: S311 - chance that can be repeated
        samples = transactions(10**9, seed=self._seed, broken=self._broken, repeated=0.02)
        for sample in samples:
            place: Place = "row" if sample.expected in {STORED, DUPLICATE} else "dead letter"
            value, chance = sample.value, rng.random()
            if sample.expected != STORED or chance > 3 * _SHARE:
                # A repetition of one of a pair may come after its other one.
                self._places.setdefault(value, place)
                yield value
            elif chance < 2 * _SHARE:
                value = _marked(value, _UNSCORABLE if chance < _SHARE else UNSTORABLE)
                self._places[value] = "dead letter"
                yield value
            else:
                # Which of the two comes to the database first is open.
                pair = [value, _marked(value, "corrected")]
                self._places |= dict.fromkeys(pair, "either")
                yield from pair
