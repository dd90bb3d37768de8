"""The stream: Kafka transactions, scored for fraud, into PostgreSQL; what fails, to a topic.

    python -m bytewax.run dataflow -r recovery -s 5 -b 0

Everything is configured by the environment, see `settings.py`.
"""

import atexit
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from types import FrameType
from typing import Any, Final, TypeVar, cast

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.outputs import Sink

from operators.dead_letters.already_written import ReadBack
from operators.dead_letters.writer import DeadLetterSink, DeadLetterWriter
from operators.decode import decode
from operators.engine import clock
from operators.engine.loop import Loop, PerWorker
from operators.engine.positions import Unfinished
from operators.engine.shutdown import Stop
from operators.errors import DependencyError
from operators.kafka import client as topics
from operators.postgres.session import Session, await_predecessor
from operators.postgres.writer import PostgresWriter
from operators.preflight import examine
from operators.records import Failure, Message, Scored
from operators.score import score
from operators.sinks import PostgresSink
from operators.source import TransactionSource
from settings import Settings, SettingsError, load, recovery_directory, workers_per_process
from telemetry import (
    Health,
    Progress,
    log,
    log_to_stderr,
    routes,
    serve,
    status_routes,
    tracing,
)

__all__ = ["build", "flow"]

X = TypeVar("X", Scored, Failure)
GARBAGE: Final = 100_000  # new containers between two looks of the collector
LAST_WORD: Final = 1.0  # seconds that the end waits for the line that tells of the signal


def build(
    settings: Settings,
    *,
    source: Source[Message] | None = None,
    stored: Sink[Any] | None = None,
    failed: Sink[Any] | None = None,
    stop: Stop | None = None,
    progress: Progress | None = None,
    on_end: Callable[[Callable[[], None]], object] | None = None,
) -> Dataflow:
    """Put the stream together; nothing connects before it runs.

    :arg settings: Of the stream.

    :arg source: Instead of Kafka: gives `Message`.

    :arg stored: Instead of PostgreSQL: takes `(partition key, Scored)`.

    :arg failed: Instead of the error topic: takes `(partition key, Failure)`.

    :arg stop: How to end the stream; without it, it ends with its source.

    :arg progress: Counts what passes.

    :arg on_end: Is given what is to be done after an end in good order.

    :returns: The stream.

    """
    stop = stop or Stop(settings.stop_timeout)
    progress = progress or Progress()
    unfinished = Unfinished()
    # Each of these is a worker's own.
    loops = PerWorker(Loop)
    read_backs = PerWorker(lambda: ReadBack(settings))
    sessions = PerWorker(lambda: Session(settings, loop=loops(), stop=stop))
    dead_letters = PerWorker(
        lambda: DeadLetterWriter(
            settings, loop=loops(), read_back=read_backs(), progress=progress, stop=stop
        )
    )
    rows = PerWorker(
        lambda: PostgresWriter(
            sessions(),
            loop=loops(),
            dead_letters=dead_letters(),
            read_back=read_backs(),
            progress=progress,
        )
    )

    def claim(partition_key: str) -> None:
        if stored is None:  # else there is no database to hold the lock
            sessions().claim(partition_key)
        if failed is None:
            dead_letters().open(partition_key)

    transactions = TransactionSource(
        settings,
        loops=loops,
        read_backs=read_backs,
        claim=claim,
        progress=progress,
        unfinished=unfinished,
        stop=stop,
    )
    if on_end is not None:
        on_end(transactions.commit_ends)

    stream = Dataflow("fraud")
    messages = op.input("transactions", stream, source or cast(Source[Message], transactions))
    decoded = decode("decode", messages)  # Received | Failure
    scored = score(  # Scored | Failure
        "score",
        decoded.oks,
        settings=settings,
        loops=loops,
        read_backs=read_backs if failed is None else None,
        unfinished=unfinished,
        stop=stop,
    )
    failures = op.merge("failures", decoded.errs, scored.errs)
    to_store = op.flat_map_batch("stored_by", scored.oks, _by_partition)
    to_topic = op.flat_map_batch("failed_by", failures, _by_partition)
    store = PostgresSink(settings, writers=rows)
    errors = DeadLetterSink(settings, writers=dead_letters, claim=claim)
    op.output("stored", to_store, stored or store)
    op.output("failed", to_topic, failed or errors)
    return stream


def _by_partition(items: list[X]) -> list[tuple[str, X]]:
    return [(item.message.partition_key, item) for item in items]


def flow() -> Dataflow:
    """Make the stream that `python -m bytewax.run dataflow` runs, if all that it needs is there.

    :returns: The stream.

    :raises SystemExit: With one line that names the setting, if something is missing.

    """
    try:
        settings = load()
    except SettingsError as error:
        sys.exit(f"settings: {error}")
    log_to_stderr(settings.log_format, settings.log_level)
    _end_on_signals()
    _trace(settings)
    progress = Progress()
    health = Health(
        progress,
        workers=workers_per_process(),
        live_timeout=settings.live_timeout,
        epoch_timeout=settings.epoch_timeout,
    )
    _serve(settings, progress, health)
    findings = list(examine(settings, recovery_directory()))
    wrong = [finding.detail for finding in findings if not finding.ok]
    if wrong:
        # One word for both topics, if it is the broker.
        sys.exit("cannot start: " + "; ".join(dict.fromkeys(wrong)))
    try:
        await_predecessor(settings, topics.partition_keys(settings))
    except DependencyError as error:
        sys.exit(f"cannot start: {error}")
    # Not what was found: addresses are not for everybody who may ask for the health.
    health.dependencies_answered([finding.dependency for finding in findings])
    stop = Stop(settings.stop_timeout)
    reporter = _stop_on_signals(stop, health)
    clock.watch()
    log.info(
        "start",
        brokers=settings.kafka_bootstrap_servers,
        group=settings.kafka_consumer_group,
        topic=settings.kafka_topic,
        error_topic=settings.kafka_error_topic,
        model=str(settings.ml_api_url),
    )
    # Thousands of small containers are in flight all the time; the collector's default would look
    # at them again and again, which took a tenth of the processor.
    gc.freeze()
    gc.set_threshold(GARBAGE)
    at_end: list[Callable[[], None]] = []
    atexit.register(_finish, progress, at_end, stop, reporter)
    return build(settings, stop=stop, progress=progress, on_end=at_end.append)


def _trace(settings: Settings) -> None:
    if settings.tracing:
        try:
            tracing.start()
        except tracing.TracingError as error:
            sys.exit(f"cannot start: {error}")
        atexit.register(tracing.end)


def _serve(settings: Settings, progress: Progress, health: Health) -> None:
    if settings.http_port == 0:
        return
    table = routes(health) | status_routes(progress, health)
    try:
        serve(settings.http_host, settings.http_port, table)
    except OSError as error:
        address = f"{settings.http_host}:{settings.http_port}"
        sys.exit(f"cannot start: HTTP_PORT, HTTP_HOST: {address}: {error.strerror}")


def _end_on_signals() -> None:
    """End at once on SIGTERM or SIGINT: nothing has begun, and a check may wait for long."""

    def end(number: int, _frame: FrameType | None) -> None:
        try:  # it may have come in the middle of another line, which the log does not allow
            log.info("stop", signal=signal.Signals(number).name)
        finally:
            os._exit(0)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)


def _stop_on_signals(stop: Stop, health: Health) -> threading.Thread:
    """End in good order on the first SIGTERM or SIGINT, at once on the second.

    :returns: Who writes of the first one, and ends.

    """
    # A signal can come in the middle of a line of the log, and whatever is written then raises an
    # error. So a thread writes of it; this queue is made to be filled by a signal handler.
    came: SimpleQueue[int] = SimpleQueue()

    def report() -> None:
        log.info("stop", signal=signal.Signals(came.get()).name)

    reporter = threading.Thread(target=report, name="signals", daemon=True)
    reporter.start()

    def request(number: int, _frame: FrameType | None) -> None:
        if stop.requested:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        stop.request()
        health.stopping()
        came.put(number)

    signal.signal(signal.SIGTERM, request)
    signal.signal(signal.SIGINT, request)
    return reporter


def _finish(
    progress: Progress, at_end: list[Callable[[], None]], stop: Stop, reporter: threading.Thread
) -> None:
    if stop.requested:
        reporter.join(LAST_WORD)
    failed = getattr(sys, "last_value", None) is not None
    if not failed:
        for action in at_end:
            action()
    progress.finish("failed" if failed else "end")
