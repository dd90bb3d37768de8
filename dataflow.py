"""The stream: Kafka transactions, scored for fraud, into PostgreSQL; what fails, to a topic.

    python -m bytewax.run dataflow -r recovery -s 5 -b 0

Everything is configured by the environment, see `settings.py`.
"""

from functools import partial
from typing import Any, cast

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.outputs import Sink

import startup
from operators.decode import decode
from operators.engine.loop import WorkerLocal
from operators.engine.shutdown import Stop
from operators.records import Message
from operators.score import score
from operators.sinks import DeadLetterSink, PostgresSink, hand_over
from operators.source import TransactionSource
from operators.workers import Worker
from settings import Settings
from telemetry import Progress

__all__ = ["build", "flow"]


def build(
    settings: Settings,
    *,
    source: Source[Message] | None = None,
    stored: Sink[Any] | None = None,
    failed: Sink[Any] | None = None,
    stop: Stop | None = None,
    progress: Progress | None = None,
) -> Dataflow:
    """Put the stream together; nothing connects before it runs.

    :arg source: Instead of Kafka: gives `Message`.

    :arg stored: Instead of PostgreSQL: takes lists of `Scored`.

    :arg failed: Instead of the error topic: takes lists of `Failure`.

    :arg stop: How to end the stream; without it, it ends with its source.

    :arg progress: Counts what passes.

    """
    workers = WorkerLocal(
        partial(
            Worker,
            settings,
            stop=stop or Stop(settings.stop_timeout),
            progress=progress or Progress(),
            stores_rows=stored is None,
            sends_failures=failed is None,
        )
    )
    transactions = cast(Source[Message], TransactionSource(settings, workers))

    stream = Dataflow("fraud")
    messages = op.input("transactions", stream, source or transactions)  # Message
    decoded = decode("decode", messages)  # list[Received], list[Failure]
    scored = score("score", decoded.oks, workers=workers)  # list[Scored], list[Failure]
    failures = op.merge("failures", decoded.errs, scored.errs)
    rows = scored.oks if stored is None else op.flat_map_batch("given", scored.oks, hand_over)
    op.output("stored", rows, stored or PostgresSink(workers))
    letters = failures if failed is None else op.flat_map_batch("given_up", failures, hand_over)
    op.output("failed", letters, failed or DeadLetterSink(workers))
    return stream


def flow() -> Dataflow:
    """Make the stream that `python -m bytewax.run dataflow` runs, if all that it needs is there.

    :raises SystemExit: With one line that names the setting, if something is missing.

    """
    settings, stop, progress = startup.prepare()
    return build(settings, stop=stop, progress=progress)
