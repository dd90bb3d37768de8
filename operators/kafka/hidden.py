"""Notice that somebody's open transaction hides messages of a partition that is read.

Who reads committed records only is given nothing behind the first open transaction, its *last
stable offset*, while the partition's end goes on. Without a word that is a lag without a reason.
"""

import threading
import time
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition

from operators.kafka.client import CALL_TIMEOUT
from telemetry import log, metrics

__all__ = ["HiddenMessages", "Standing"]

STANDS: Final = 3.0  # seconds without a step, after which the broker is asked why
REASON: Final = (
    "somebody's transaction is open in the topic since this offset: what is behind it is read when"
    " its producer commits or aborts it, or when it times out"
)


class Standing(NamedTuple):
    """Where a partition is read, and where it ends."""

    read: int
    end: int


class HiddenMessages:
    """Of the partitions of one worker.

    :arg in_use: Held while the consumer is asked in another thread.

    """

    def __init__(self, topic: str, consumer: Consumer, in_use: threading.Lock) -> None:
        self._topic, self._consumer, self._in_use = topic, consumer, in_use
        self._stood: dict[int, tuple[int, float]] = {}  # where, and since when
        self._hidden: set[int] = set()
        self._stable: dict[int, int] = {}
        self._asking: threading.Thread | None = None

    def look(self, standings: Mapping[int, Standing]) -> None:
        """Say, once, of each partition that stands still whether that is why; never blocks."""
        now = time.monotonic()
        waiting = []
        for number, (read, end) in standings.items():
            at, since = self._stood.get(number, (-1, now))
            if at != read or read >= end:
                self._stood[number] = (read, now)
                self._note(number, 0)
            elif now - since >= STANDS:
                waiting.append(number)
                if self._stable.get(number) == read:
                    self._note(number, end - read, read)
        is_asking = self._asking is not None and self._asking.is_alive()
        if waiting and not is_asking:
            # In a thread that the end of the process does not wait for.
            self._asking = threading.Thread(
                target=self._ask, args=[waiting], name="hidden", daemon=True
            )
            self._asking.start()

    def _ask(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            at = TopicPartition(self._topic, number)
            try:
                with self._in_use:
                    # Asked for, and not remembered by the client, it is the last stable offset.
                    _, self._stable[number] = self._consumer.get_watermark_offsets(
                        at, timeout=CALL_TIMEOUT
                    )
            except (KafkaException, RuntimeError):  # it is asked again; or the consumer is closed
                return

    def _note(self, number: int, messages: int, offset: int = 0) -> None:
        metrics.HIDDEN.labels(number).set(messages)
        if messages and number not in self._hidden:
            self._hidden.add(number)
            log.warning("source.open_transaction", partition=number, offset=offset, reason=REASON)
        elif not messages and number in self._hidden:
            self._hidden.remove(number)
            log.info("source.transaction_ended", partition=number)
