"""Write failures to the error topic.

Bytewax's own `KafkaSink` never looks at the result of a delivery. This one does: delivered means
acknowledged by all in-sync replicas, and an epoch does not end before every failure of it is.

The sink has the source's partitions, so each stays on the worker of its source partition; all of a
worker's share one writer. Exactly once, as far as Kafka's idempotent producer goes: what is there
after a crash is read back and not written again (see `operators.read_back`), and nothing is written
for a partition without its lock (see `operators.session`).
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from bytewax.outputs import StatefulSinkPartition
from confluent_kafka import KafkaError, KafkaException, Producer

from operators import topics
from operators.aligned import SourceAlignedSink
from operators.envelope import Record, cut, seal
from operators.errors import DeliveryError
from operators.read_back import ReadBack
from operators.records import Failure
from operators.stop import Stop
from settings import Settings
from telemetry import Progress, beat, log

__all__ = ["DeadLetterSink", "DeadLetterWriter", "check"]

POLL: Final = 0.1  # seconds that one call to librdkafka may take; signals wait that long
WARN_EVERY: Final = 10.0  # seconds between words about acknowledgements that do not come


def check(settings: Settings) -> str:
    """Look for the error topic.

    :arg settings: Brokers and topic.

    :returns: What was found.

    :raises DependencyError: Which setting to look at.

    """
    return topics.check(settings, settings.kafka_error_topic)


class DeadLetterWriter:
    """Writes failures of one worker to the error topic.

    :arg settings: Brokers and topic.

    :arg read_back: Knows what is there already.

    :arg progress: Told of what is acknowledged.

    :arg stop: When overdue, acknowledgements are not waited for any more.

    """

    def __init__(
        self, settings: Settings, *, read_back: ReadBack, progress: Progress, stop: Stop
    ) -> None:
        self._topic = settings.kafka_error_topic
        self._read_back = read_back
        self._progress, self._stop = progress, stop
        self._error: str | None = None
        self._refused: deque[tuple[Failure, Record]] = deque()
        self._producer = Producer(
            topics.client(
                settings,
                {"enable.idempotence": True, "linger.ms": 5, "compression.type": "lz4"},
            )
        )

    def write(self, failures: Iterable[Failure]) -> None:
        """Hand failures to the producer; `flush` waits until they are there.

        :arg failures: Of this worker.

        :raises DeliveryError: An earlier one could not be delivered.

        """
        for failure in failures:
            if self._read_back.has(failure.message):
                continue
            try:
                self._produce(failure, seal(failure))
            except KafkaException as error:
                if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                    raise self._stopped(error.args[0].str()) from None
                self._produce(failure, cut(failure))
        self._producer.poll(0)
        self._raise_error()
        if self._refused:
            self.flush()

    def flush(self) -> None:
        """Wait until every failure is acknowledged.

        :raises DeliveryError: One could not be delivered, or not before the end of a stop.

        """
        self._wait()
        while self._refused:
            # The topic's limit holds for a batch of records, so most of them fit when alone.
            self._produce(*self._refused.popleft(), alone=True)
            self._wait()

    def _wait(self) -> None:
        warned = time.monotonic()
        while self._producer.flush(POLL):
            beat()
            self._raise_error()
            if self._stop.overdue():
                reason = "no acknowledgement before the end of the stop"
                raise self._stopped(reason)
            if time.monotonic() - warned > WARN_EVERY:
                warned = time.monotonic()
                log.warning("dead_letters.waiting", unacknowledged=len(self._producer))
        self._raise_error()

    def _produce(self, failure: Failure, record: Record, *, alone: bool = False) -> None:
        def delivered(error: KafkaError | None, _message: Any) -> None:
            self._delivered(failure, record, error, alone=alone)

        while True:
            try:
                self._producer.produce(
                    self._topic,
                    record.value,
                    record.key,
                    headers=record.headers,  # type: ignore[arg-type]  # a list is invariant
                    on_delivery=delivered,
                )
            except BufferError:  # the producer's queue is full: that is our back-pressure
                self._producer.poll(POLL)
                self._raise_error()
            else:
                return

    def _delivered(
        self, failure: Failure, record: Record, error: KafkaError | None, *, alone: bool
    ) -> None:
        if error is None:
            self._progress.count(
                "failed",
                1,
                stage=failure.stage,
                disposition=failure.disposition,
                code=failure.code,
            )
        elif error.code() == KafkaError.MSG_SIZE_TOO_LARGE and not alone:
            # The topic's limit is below the producer's.
            self._refused.append((failure, record))
        elif error.code() == KafkaError.MSG_SIZE_TOO_LARGE and record.headers[-1][0] != "dlq.cut":
            self._refused.append((failure, cut(failure)))
        else:
            self._error = error.str()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._stopped(self._error)

    def _stopped(self, reason: str) -> DeliveryError:
        msg = f"KAFKA_ERROR_TOPIC: cannot write to {self._topic}: {reason}"
        log.error("dead_letters.stopped", error=msg)
        return DeliveryError(msg)


class _Partition(StatefulSinkPartition[Failure, None]):
    def __init__(self, key: str, writer: DeadLetterWriter, claim: Callable[[str], None]) -> None:
        self._key, self._writer, self._claim = key, writer, claim

    def write_batch(self, values: list[Failure]) -> None:
        self._claim(self._key)
        self._writer.write(values)

    def snapshot(self) -> None:
        self._writer.flush()


class DeadLetterSink(SourceAlignedSink[Failure]):
    """Failures to the error topic; see the module.

    :arg settings: Brokers and topics.

    :arg writers: Gives the calling worker's writer.

    :arg claim: Holds a partition's lock, or raises.

    """

    def __init__(
        self,
        settings: Settings,
        *,
        writers: Callable[[], DeadLetterWriter],
        claim: Callable[[str], None],
    ) -> None:
        super().__init__(settings)
        self._writers, self._claim = writers, claim

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Partition:
        """See ABC docstring."""
        del step_id, resume_state
        return _Partition(for_part, self._writers(), self._claim)
