"""Dead letters of one worker, written to a broker."""

import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final

from confluent_kafka import Message as KafkaMessage

from lab.servers import KafkaServer
from operators.dead_letters.envelope import Record
from operators.dead_letters.writer import DeadLetterWriter
from operators.engine.loop import EventLoop
from operators.engine.positions import InHand, Tracker
from operators.engine.shutdown import Stop
from operators.kafka.metadata import CommitMetadata, LettersPosition, ResumePoint
from operators.records import Failure, Message
from settings import Settings
from telemetry import Progress
from tests.kit.environment import environment, settings_of
from tests.kit.kafka import Topics, header, read_all

__all__ = ["PARTITION", "SEED", "Writing", "ids", "limited", "noise", "record_of"]

SEED: Final = 20260301
PARTITION: Final = 1
"""Of the source, unless told otherwise."""


class Writing:
    """A writer, and what it is told.

    :arg broker: Where the error topic is.

    :arg topics: The test's own.

    """

    def __init__(self, broker: KafkaServer, topics: Topics) -> None:
        self.broker, self.topics = broker, topics
        self.loop = EventLoop()
        self.progress, self.stop = Progress(), Stop(timedelta(seconds=5))
        self.confirmed = 0
        self.writer = self.writer_of()

    def settings(self, **variables: str) -> Settings:
        """Make settings, with the same environment or more of it."""
        return settings_of(
            environment(
                self.broker,
                self.topics,
                database_url="postgresql://unused",
                model_url="http://unused",
                **variables,
            )
        )

    def writer_of(
        self,
        *,
        is_stored: Callable[[int, list[int]], Awaitable[set[int]]] | None = None,
        **variables: str,
    ) -> DeadLetterWriter:
        """Make a writer that has taken nothing over."""
        return DeadLetterWriter(
            self.settings(**variables),
            loop=self.loop,
            progress=self.progress,
            stop=self.stop,
            confirm=self._confirm,
            is_stored=is_stored,
        )

    def take_over(
        self,
        writer: DeadLetterWriter | None = None,
        *,
        partition: int = PARTITION,
        offset: int = 0,
        letters: LettersPosition | None = None,
    ) -> DeadLetterWriter:
        """Take a partition over from whoever had it."""
        writer = writer or self.writer_of()
        writer.fence([partition])
        writer.take_over({partition: ResumePoint(offset, CommitMetadata("", letters))})
        return writer

    def failure(self, value: bytes | None = b"{}", offset: int = 0, **fields: Any) -> Failure:
        """Make a failure of a message of the test's own topic."""
        message = Message(
            key=fields.pop("key", None),
            value=value,
            headers=fields.pop("headers", []),
            topic=fields.pop("topic", self.topics.transactions),
            partition=fields.pop("partition", PARTITION),
            offset=offset,
            timestamp=1_770_000_000_123,
        )
        given = {
            "stage": "validate",
            "disposition": "poison",
            "code": "amount.missing",
            "error": "amount: Field required",
        }
        return Failure(message, **{**given, **fields})

    def failures(self, *offsets: int, **fields: Any) -> list[Failure]:
        """Make failures of several messages."""
        return [self.failure(offset=offset, **fields) for offset in offsets]

    def tracked(self, *offsets: int, horizon: int) -> tuple[Tracker, list[Failure]]:
        """Make failures of messages that were read together, and the account of them."""
        tracker = Tracker(
            PARTITION, offsets[0], horizon=horizon, in_hand=InHand(len(offsets) + 1, 1_000)
        )
        fetch = tracker.add(len(offsets), offsets[-1] + 1)
        failures = self.failures(*offsets)
        return tracker, [
            each._replace(message=each.message._replace(fetch=fetch)) for each in failures
        ]

    def flush(self, writer: DeadLetterWriter | None = None) -> None:
        """Wait until everything is committed, or has failed."""
        writer = writer or self.writer
        writer.flush_soon()
        self.loop.run_until(lambda: writer.is_idle)

    def write(self, *failures: Failure, by: DeadLetterWriter | None = None) -> None:
        """Write failures and wait for that."""
        writer = by or self.writer
        writer.put(failures)
        self.flush(writer)

    def deliver(self, *failures: Failure) -> list[KafkaMessage]:
        """Write failures, and read the topic."""
        self.write(*failures)
        return read_all(self.broker, self.topics.failed, at_least=len(failures))

    def offsets(self) -> list[int]:
        """Source offsets of what is in the error topic."""
        found = read_all(self.broker, self.topics.failed)
        return sorted(int(header(each, "dlq.offset") or -1) for each in found)

    async def _confirm(self) -> None:
        self.confirmed += 1


def ids(found: list[KafkaMessage]) -> list[str]:
    """Ids of dead letters."""
    return sorted(header(record, "dlq.id") or "" for record in found)


def record_of(message: KafkaMessage) -> Record:
    """What was read, as `to_message` wants it."""
    value, headers = message.value(), message.headers()
    assert value is not None
    assert isinstance(headers, list)
    return Record(
        message.key(),
        value,
        [(name, text.encode() if isinstance(text, str) else text) for name, text in headers],
    )


def noise(length: int) -> bytes:
    """Text that does not compress, the same at every run."""
    print("seed", SEED)  # noqa: T201 - to repeat it
    rng = random.Random(SEED)  # noqa: S311 - chance that can be repeated
    text = bytes(rng.randrange(33, 127) for _ in range(length))
    return text.replace(b'"', b"'").replace(b"\\", b"/")


def limited(broker: KafkaServer, topics: Topics, size: int) -> Topics:
    """Make an error topic that takes no more than so many bytes."""
    name = f"{topics.failed}-limited"
    broker.create_topic(name, 1, config={"max.message.bytes": str(size)})
    return Topics(topics.transactions, name, topics.group)
