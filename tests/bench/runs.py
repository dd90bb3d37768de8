"""One run of one contender: throughput with all messages there before, or latency at a rate."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from signal import SIGTERM
from typing import Any, Final

from tests.bench.contenders import Contender
from tests.bench.figures import cost, middle_rate, percentile, whole_rate
from tests.bench.load import fill, steady, values
from tests.bench.sampler import Sampler, others
from tests.bench.stage import Ground, Stage
from tests.kit.flow import Flow
from tests.kit.kafka import read_all

__all__ = ["CONTENDER", "latency", "sampler", "started", "stopped", "throughput", "wait_for_rows"]

CONTENDER: Final = "itself"
"""Name of the contender's own processes among the others'."""

WARM_UP: Final = 400  # messages before the rate begins
PATIENCE: Final = timedelta(minutes=3)
LOOK: Final = 0.1  # seconds between two looks at the database, which cost it something


@contextmanager
def started(processes: Sequence[Flow]) -> Iterator[Sequence[Flow]]:
    """Run processes inside the block; they are killed at its end if they have not ended."""
    with ExitStack() as stack:
        for process in processes:
            stack.enter_context(process)
        yield processes


def stopped(processes: Sequence[Flow]) -> None:
    """Ask all to end.

    :raises AssertionError: One ended otherwise than with 0.

    """
    for process in processes:
        process.signal(SIGTERM)
    for process in processes:
        status = process.wait()
        assert status == 0, f"ended with {status}:\n{process.log_tail()}"


def wait_for_rows(ground: Ground, count: int, processes: Sequence[Flow]) -> None:
    """Wait until so many rows are stored.

    :raises AssertionError: A process ended before.

    :raises TimeoutError: It takes too long.

    """
    end = time.monotonic() + PATIENCE.total_seconds()
    # The index says when it is worth while to count.
    while sum(ground.reached()) < count or ground.stored() < count:
        for process in processes:
            assert process.running, f"it has ended by itself:\n{process.log_tail()}"
        if time.monotonic() > end:
            msg = f"{ground.stored():,} of {count:,} rows in {PATIENCE.total_seconds():g} s"
            raise TimeoutError(msg)
        time.sleep(LOOK)


def sampler(stage: Stage, processes: Sequence[Flow]) -> Sampler:
    """Look at a contender and at what it uses."""
    everyone = {
        CONTENDER: [process.pid for process in processes],
        "Postgres": [stage.postgres.pid],
        "broker": [stage.broker.pid],
        "model": [stage.model.pid],
    }
    return Sampler(everyone, parents=["Postgres"])


def throughput(
    stage: Stage, contender: Contender, count: int, *, partitions: int = 4, below: int = 0
) -> Any:
    """Let a contender work off what is there.

    :arg stage: Servers.

    :arg contender: Who.

    :arg count: Messages; a slow contender gets its share of them.

    :arg partitions: Of the topic.

    :arg below: Of each partition, the offset up to which the digest goes.

    :returns: Rows a second, in the middle and as a whole; CPU in µs a row and memory in MB by
        process; the share of the machine that others had; a digest of what is stored.

    """
    count = int(count * contender.share)
    ground = stage.ground(partitions=partitions)
    fill(stage.broker, ground.topics.transactions, values(count), partitions)
    with started(contender.make(ground)) as processes:
        with sampler(stage, processes) as watch:
            wait_for_rows(ground, count, processes)
        stopped(processes)
    digest = ground.digest(below)
    commits = ground.commits()
    assert sum(rows for _, rows in commits) == count
    stage.clear(ground)
    return {
        "rate": middle_rate(commits),
        "whole": whole_rate(commits),
        "cpu": cost(commits, watch.samples),
        "rss": {
            name: max(sample.rss[name] for sample in watch.samples) / 1e6
            for name in watch.samples[0].rss
        },
        "others": others(watch.samples),
        "digest": digest,
    }


def latency(
    stage: Stage, contender: Contender, *, rate: float, span: timedelta, partitions: int = 4
) -> Any:
    """Measure from a message's timestamp to the commit of its row, at a constant rate.

    :arg stage: Servers.

    :arg contender: Who.

    :arg rate: Messages a second.

    :arg span: How long; the first second is left out.

    :arg partitions: Of the topic.

    :returns: Median and 99th percentile, in milliseconds; the share of the machine that others
        had.

    """
    ground = stage.ground(partitions=partitions)
    topic = ground.topics.transactions
    messages = values(WARM_UP + int(rate * span.total_seconds()))
    with started(contender.make(ground)) as processes:
        fill(stage.broker, topic, messages[:WARM_UP], partitions)
        wait_for_rows(ground, WARM_UP, processes)
        with sampler(stage, processes) as watch:
            steady(stage.broker, topic, messages[WARM_UP:], partitions, rate=rate)
            wait_for_rows(ground, len(messages), processes)
        stopped(processes)
    arrived: dict[Any, float] = {
        (message.partition(), message.offset()): message.timestamp()[1] / 1e3
        for message in read_all(stage.broker, topic, at_least=len(messages))
    }
    began = sorted(arrived.values())[WARM_UP]
    committed: dict[Any, float] = dict(ground.committed())
    assert len(committed) == len(messages)
    waited = [
        1e3 * (committed[position] - time)
        for position, time in arrived.items()
        if time >= began + 1
    ]
    stage.clear(ground)
    return {
        "p50": percentile(waited, 0.5),
        "p99": percentile(waited, 0.99),
        "others": others(watch.samples),
    }
