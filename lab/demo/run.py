"""Start everything, feed it, watch it, stop it, and say how it went."""

import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import NamedTuple, Self

from confluent_kafka import KafkaException
from psycopg import Error as DatabaseError
from rich.console import Console

from lab.demo.feed import Feed
from lab.demo.flow import Flow
from lab.demo.ledger import Counts, Ledger
from lab.demo.proof import differences
from lab.demo.report import Display, conclude, summarise
from lab.model_api.faults import Fault
from lab.sample import Sample, transactions
from lab.servers import Broker, ModelApi, Postgres, ServerError, free_port
from ops.migrate import MigrationError, migrate

__all__ = ["demo"]

TOPIC, ERROR_TOPIC, DATABASE = "transactions", "transactions-failed", "demo"
FIRST_MESSAGES = 100
STEADY_RATE = 1_000.0
STEADY_MESSAGES = 5_000
LOOK_EVERY = 0.25
FAULT_SECONDS = 10.0
LASTING = {"slow", "shuffle", "too_large"}  # faults with which a stream goes on
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM; its argument is which."""


class _StalledError(Exception):
    """Messages are under way and nothing happens any more."""


class _Database(Postgres):
    """PostgreSQL that notes the time of each commit: a row's own time is that of the beginning."""

    def command(self) -> list[str]:
        """Run the server."""
        return [*super().command(), "-c", "track_commit_timestamp=on"]


class _Stage:
    """The servers and the flow, in one folder.

    :arg folder: Exists.

    :arg partitions: Of the topic that is read.

    :arg workers: Of the flow.

    """

    def __init__(self, folder: Path, *, partitions: int, workers: int) -> None:
        self.broker = Broker(folder / "broker")
        self.database = _Database(folder / "postgres")
        self.model = ModelApi(folder / "model")
        port = free_port()
        self.page = f"http://127.0.0.1:{port}/"
        self.flow = Flow(
            folder / "flow",
            settings={
                "KAFKA_BOOTSTRAP_SERVERS": self.broker.bootstrap_servers,
                "KAFKA_CONSUMER_GROUP": "demo",
                "HTTP_PORT": str(port),
                "KAFKA_TOPIC": TOPIC,
                "KAFKA_ERROR_TOPIC": ERROR_TOPIC,
                # Kafka answers a fetch when there is a message, the embedded broker when its time
                # is over: at 100 ms that alone would be half of the latency.
                "KAFKA_PROPERTIES": '{"fetch.wait.max.ms": 10}',
                "DATABASE_URL": self.database.url(DATABASE),
                "ML_API_URL": self.model.url,
                "LOG_FORMAT": "json",
            },
            workers=workers,
        )
        self._partitions = partitions

    def start(self, stack: ExitStack) -> None:
        """Start everything; the stack ends it in reverse order."""
        for server in (self.broker, self.database, self.model):
            stack.enter_context(server)
        self.broker.create_topic(TOPIC, self._partitions)
        self.broker.create_error_topic(ERROR_TOPIC, self._partitions)
        self.database.create_database(DATABASE)
        migrate(self.database.url(DATABASE))
        stack.enter_context(self.flow)


class _Phases(NamedTuple):
    """The messages, in three parts. Latency means something only while nothing queues."""

    first: Sequence[Sample]
    burst: Sequence[Sample]
    steady: Sequence[Sample]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Self:
        """Cut the messages in parts."""
        first = min(FIRST_MESSAGES, len(samples) // 20)
        steady = len(samples) - min(STEADY_MESSAGES, len(samples) // 4)
        return cls(samples[:first], samples[first:steady], samples[steady:])


class _Watch:
    """Keeps an eye on the stream and shows its progress."""

    def __init__(self, *, flow: Flow, feed: Feed, ledger: Ledger, display: Display) -> None:
        self._flow, self._feed, self._ledger, self._display = flow, feed, ledger, display
        self._looked = 0.0
        self._counts = Counts()

    def look(self) -> None:
        """Look, unless it is too soon.

        :raises ServerError: The flow has ended.

        """
        now = time.monotonic()
        if now < self._looked + LOOK_EVERY:
            return
        self._looked = now
        self._flow.expect_running()
        self._counts = self._ledger.counts()
        for event in self._flow.news():
            self._display.tell(event)
        self._display.show(len(self._feed.sent), self._counts)

    def wait(self, patience: timedelta) -> None:
        """Wait until every message that was produced has ended.

        :arg patience: How long nothing may happen.

        :raises _StalledError: Nothing happened for longer.

        """
        changed, last = time.monotonic(), self._counts
        while self._counts.total < len(self._feed.sent):
            time.sleep(LOOK_EVERY / 10)
            self.look()
            if self._counts != last:
                changed, last = time.monotonic(), self._counts
            if time.monotonic() > changed + patience.total_seconds():
                msg = f"nothing has happened for {patience.total_seconds():g} s"
                raise _StalledError(msg)


def demo(
    *,
    count: int = 20_000,
    seed: int = 7,
    fault: str | None = None,
    partitions: int = 4,
    workers: int = 1,
    patience: timedelta = timedelta(seconds=60),
) -> int:
    """Run the whole stream on this machine, with servers of its own, and prove that it worked.

    :arg count: How many messages.

    :arg seed: Of the messages; the same makes the same.

    :arg fault: Of the stand-in for the model, as its `--fault` takes it, such as
        `slow,share=0.01,factor=50`; one that would meet everything for ever ends after ten seconds.

    :arg partitions: Of the topic.

    :arg workers: Of the flow.

    :arg patience: How long nothing may happen.

    :returns: Exit code: 0 if every message ended in exactly one place, the right one; 1 if not;
        2 if there is no such fault; 130 or 143 if it was interrupted.

    """
    console = Console()
    try:
        meets = _with_end(Fault.parse(fault)) if fault else None
    except ValueError:
        console.print(f"No such fault: {fault}; python -m lab.model_api --help lists them")
        return 2
    folder = Path(tempfile.mkdtemp(prefix="fraud-scoring-demo-"))
    try:
        with _interruptible(), ExitStack() as stack:
            try:
                problems = _run(
                    stack,
                    console,
                    _Stage(folder, partitions=partitions, workers=workers),
                    list(transactions(count, seed=seed)),
                    patience=patience,
                    fault=meets,
                )
            finally:
                _ignore_signals()
    except _Interrupted as interrupted:
        shutil.rmtree(folder, ignore_errors=True)
        console.print("Interrupted; everything is stopped.")
        return 128 + int(interrupted.args[0])
    except (ServerError, MigrationError, _StalledError, KafkaException, DatabaseError) as error:
        problems = [str(error)]
    conclude(console, count, problems)
    if problems:
        console.print(f"Logs are kept in {folder}", highlight=False, soft_wrap=True)
        return 1
    shutil.rmtree(folder)
    return 0


def _run(
    stack: ExitStack,
    console: Console,
    stage: _Stage,
    samples: Sequence[Sample],
    *,
    patience: timedelta,
    fault: Fault | None,
) -> list[str]:
    console.print("Starting a broker, a database, a stand-in for the model, and the stream …")
    stage.start(stack)
    console.print(f"Status page while it runs: {stage.page}", highlight=False)
    kafka = stage.broker.client_settings
    feed = Feed(kafka, TOPIC)
    ledger = Ledger(kafka, stage.database.url(DATABASE), topic=TOPIC, error_topic=ERROR_TOPIC)
    stack.enter_context(closing(ledger))
    phases = _Phases.of(samples)
    console.print(
        f"{len(phases.first):,} messages to warm up, {len(phases.burst):,} at once for throughput; "
        f"when all have ended, {len(phases.steady):,} at {STEADY_RATE:,.0f}/s for latency.",
        highlight=False,
    )
    with Display(console, len(samples)) as display:
        watch = _Watch(flow=stage.flow, feed=feed, ledger=ledger, display=display)
        positions = []
        for part, rate in zip(phases, (None, None, STEADY_RATE), strict=True):
            positions.append(feed.send(part, rate=rate, meanwhile=watch.look))
            watch.wait(patience)
            if fault and len(positions) == 1:  # it would not start with a model that is down
                console.print(f"From now on the model has a fault: {fault.name}.")
                stage.model.control(**fault.model_dump(exclude_unset=True))
    stage.flow.finish()
    places = ledger.places()
    summarise(
        console,
        produced=len(feed.sent),
        burst=positions[1],
        steady=positions[2],
        places=places,
        model=stage.model.state(),
    )
    poison = fault.mark if fault and fault.name.startswith("poison") else None
    return differences(feed.sent, places, poison=poison)


def _with_end(fault: Fault) -> Fault:
    limited = fault.model_fields_set & {"share", "requests", "seconds", "marker"}
    if limited or fault.name.startswith("poison") or fault.name in LASTING:
        return fault
    return Fault.model_validate(fault.model_dump(exclude_unset=True) | {"seconds": FAULT_SECONDS})


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raise `_Interrupted` on the first SIGINT or SIGTERM, and ignore all that follow."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        _ignore_signals()
        raise _Interrupted(number)

    before = {number: signal.signal(number, interrupt) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
