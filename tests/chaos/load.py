"""Send messages all the time, whatever is down."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from types import TracebackType
from typing import Final, Self

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from lab.servers import KafkaServer
from tests.chaos.messages import Messages
from tests.chaos.plan import Plan
from tests.kit.accounts import Position

__all__ = ["Load"]

_TICK: Final = 0.02
_ABORTED: Final = 0.15
"""Of the transactions."""

_ANSWER: Final = 5.0
_ANSWERS: Final = 60.0
"""Seconds to wait for the end of a transaction, at once and in all."""


class Load:
    """Sends messages at a constant rate, in a thread, inside its block.

    :arg broker: Where to.

    :arg topic: Exists, with the plan's partitions; they are used in turn.

    :arg plan: Says how many, which, and how.

    """

    def __init__(self, broker: KafkaServer, topic: str, plan: Plan) -> None:
        self._broker, self._topic, self._plan = broker, topic, plan
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._written: list[Position] = []
        self.acknowledged: list[Position] = []
        self.aborted = 0
        """Written in transactions that were given up."""
        self.unacknowledged = 0
        """Given up by the client; the broker may have them none the less."""
        self.messages = Messages(plan)
        self._aborts = random.Random(f"{plan.seed} aborts")  # noqa: S311 - it can be repeated
        self._producer = self._make_producer()

    def stop(self) -> None:
        """Send no more, and wait for all answers.

        :raises TimeoutError: There are none.

        """
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(90)
            if self._thread.is_alive():
                msg = "the producer hangs"
                raise TimeoutError(msg)

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

    def _make_producer(self) -> Producer:
        settings = {"acks": "all", "linger.ms": 5, "message.timeout.ms": 60_000}
        if self._plan.transactional:
            settings["transactional.id"] = f"{self._topic}-load"
        return Producer({**self._broker.client_settings, **settings, "socket.timeout.ms": 10_000})

    def _run(self) -> None:
        send = self._send_in_transaction if self._plan.transactional else self._send
        messages, rate = enumerate(self.messages), self._plan.rate
        if self._plan.transactional:
            self._ask(self._producer.init_transactions)
        began, sent = time.monotonic(), 0
        while not self._stop.wait(_TICK):
            now = int((time.monotonic() - began) * rate)
            if now > sent:
                # What could not be sent for a second is not made up for: a rate, not a number.
                send(islice(messages, min(now - sent, rate)))
            sent = now
            self._producer.poll(0)
        self._producer.flush(75)
        self._acknowledge()

    def _send(self, messages: Iterator[tuple[int, bytes]]) -> None:
        for number, value in messages:
            partition = number % self._plan.partitions
            while not self._stop.is_set():
                try:
                    self._producer.produce(
                        self._topic, value, partition=partition, on_delivery=self._delivered
                    )
                except BufferError:
                    self._producer.poll(_TICK)
                else:
                    break

    def _send_in_transaction(self, messages: Iterator[tuple[int, bytes]]) -> None:
        """One transaction; where it cannot be known how it ended, the topic itself tells."""
        aborts = self._aborts.random() < _ABORTED
        try:
            self._producer.begin_transaction()
            self._send(messages)
            self._producer.flush(75)  # an end that aborts would throw away what is not sent yet
            producer = self._producer
            self._ask(producer.abort_transaction if aborts else producer.commit_transaction)
        except KafkaException as error:
            self._recover(error.args[0])
        else:
            if aborts:
                self.aborted += len(self._written)
            else:
                self._acknowledge()
        self.unacknowledged += 0 if aborts else len(self._written)
        self._written = []

    def _ask(self, question: Callable[[float], None]) -> None:
        """Ask again while the broker is away."""
        end = time.monotonic() + _ANSWERS
        while True:
            try:
                question(_ANSWER)
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > end:
                    raise
                time.sleep(_TICK)
            else:
                return

    def _recover(self, error: KafkaError) -> None:
        """Give the transaction up; after a fatal error with another producer."""
        try:
            if not error.txn_requires_abort():
                self._producer = self._make_producer()
                self._ask(self._producer.init_transactions)
            else:
                self._ask(self._producer.abort_transaction)
        except KafkaException as next_error:
            if not self._stop.is_set():
                self._recover(next_error.args[0])

    def _acknowledge(self) -> None:
        self.acknowledged += self._written
        self._written = []

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        partition, offset = message.partition(), message.offset()
        if error is not None or partition is None or offset is None:
            self.unacknowledged += 1
        else:
            self._written.append((partition, offset))
