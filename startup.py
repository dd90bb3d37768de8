"""What runs before the stream and after it: settings, log, signals, HTTP, checks, the last line."""

import atexit
import gc
import os
import signal
import sys
import threading
from queue import SimpleQueue
from types import FrameType, TracebackType
from typing import Final

from bytewax.recovery import InconsistentPartitionsError

from operators.engine import clock
from operators.engine.shutdown import Stop
from operators.errors import (
    ClusterError,
    DependencyError,
    SourceError,
    StreamError,
    end_process,
    fatal_ends_process,
)
from operators.kafka.client import partitions
from operators.postgres.session import await_predecessor
from operators.preflight import run_checks
from operators.records import partition_key
from ops.pending import require_migrated
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

__all__ = ["prepare"]

GARBAGE: Final = 100_000  # new containers between two looks of the collector
PEER_LOST: Final = "thread panic"  # how Bytewax says it, of its threads that send and receive
SPOILED: Final = (
    "recovery directory (-r): its partitions do not fit each other, as after two processes have"
    " written to it. Start with an empty one: the offsets of the consumer group are enough to go on"
)
LAST_WORD: Final = 1.0  # seconds that the end waits for the line that tells of the signal


def prepare() -> tuple[Settings, Stop, Progress]:
    """See that all is there that the stream needs, and set up what surrounds it.

    :returns: Settings, how to end the stream, and what counts what passes.

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
    _check(settings, health)
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
    atexit.register(_finish, progress, stop, reporter)
    if settings.log_level != "DEBUG":
        _end_in_one_line(progress)
    return settings, stop, progress


def _check(settings: Settings, health: Health) -> None:
    results = list(run_checks(settings, recovery_directory(), require_migrated=require_migrated))
    wrong = [result.detail for result in results if not result.ok]
    if wrong:
        # One word for both topics, if it is the broker.
        sys.exit("cannot start: " + "; ".join(dict.fromkeys(wrong)))
    try:
        numbers = partitions(settings)
        await_predecessor(
            settings, [partition_key(settings.kafka_topic, number) for number in numbers]
        )
    except DependencyError as error:
        sys.exit(f"cannot start: {error}")
    # Not what was found: addresses are not for everybody who may ask for the health.
    health.dependencies_answered([result.dependency for result in results])


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
    """End gracefully on the first SIGTERM or SIGINT, at once on the second.

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


def _end_in_one_line(progress: Progress) -> None:
    """Print no traceback round the line that says why the stream ends, unless it is a bug."""

    def before() -> None:
        progress.finish("failed")
        tracing.end()

    def hook(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, StreamError):
                end_process(cause)
            cause = cause.__cause__
        if PEER_LOST in str(error):
            end_process(ClusterError("another process of the cluster has ended: see its log"))
        if isinstance(error, InconsistentPartitionsError):
            end_process(SourceError(SPOILED))
        sys.__excepthook__(kind, error, traceback)

    fatal_ends_process(before)
    sys.excepthook = hook


def _finish(progress: Progress, stop: Stop, reporter: threading.Thread) -> None:
    if stop.requested:
        reporter.join(LAST_WORD)
    failed = getattr(sys, "last_value", None) is not None
    progress.finish("failed" if failed else "end")
