"""What else is promised: idle, many partitions, several processes, long runs, a stopped model."""

import json
import time
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from tests.bench.comparison import Result, Tell
from tests.bench.contenders import OURS, Contender, processes
from tests.bench.figures import windows
from tests.bench.load import Backlog, fill, values
from tests.bench.runs import (
    CONTENDER,
    latency,
    sampler,
    started,
    stopped,
    throughput,
    wait_for_rows,
)
from tests.bench.sampler import Sampler, others
from tests.bench.stage import Stage
from tests.kit.flow import Flow

__all__ = ["idle", "many_partitions", "paused", "several_processes", "soak"]

SETTLE: Final = timedelta(seconds=12)
"""Until what a start costs is over, and an idle worker knows how long an epoch is."""

LOOK: Final = 5.0  # seconds between two looks at memory

FEW: Final = 4  # partitions
WINDOW: Final = 30.0  # seconds over which the shares of processes are compared


def idle(stage: Stage, *, span: timedelta) -> Result:
    """Measure what the stream costs with 16 partitions and nothing to read."""
    ground = stage.ground(partitions=16)
    with started(processes(ground)) as flows:
        fill(stage.broker, ground.topics.transactions, values(160), 16)
        wait_for_rows(ground, 160, flows)
        time.sleep(SETTLE.total_seconds())
        watch = sampler(stage, flows)
        before = watch.look()
        time.sleep(span.total_seconds())
        after = watch.look()
        stopped(flows)
    stage.clear(ground)
    return {
        name: (after.cpu[name] - before.cpu[name]) / (after.time - before.time)
        for name in after.cpu
    } | {"others": others([before, after])}


def many_partitions(
    stage: Stage, tell: Tell, *, partitions: int, rounds: int, span: timedelta
) -> Result:
    """Measure latency at 1,000 a second with many partitions and with four, in turn."""
    found: Result = {str(FEW): [], str(partitions): []}
    for _ in range(rounds):
        for number in (FEW, partitions):
            run = latency(stage, OURS, rate=1_000, span=span, partitions=number)
            found[str(number)].append(run)
            tell(f"{number} partitions: p50 {run['p50']:.0f} ms, p99 {run['p99']:.0f} ms")
    return found


def several_processes(stage: Stage, tell: Tell, *, number: int, rounds: int, count: int) -> Result:
    """Measure the stream's cost an item with several processes and with one, in turn."""
    found: Result = {"1": [], str(number): []}
    for _ in range(rounds):
        for many in (1, number):
            cluster = Contender(f"{many} processes", partial(processes, number=many))
            run = throughput(stage, cluster, count, partitions=2 * number)
            found[str(many)].append(run)
            tell(f"{many} processes: {run['rate']:,.0f} rows/s, {run['cpu'][CONTENDER]:.0f} µs")
    return found


def soak(stage: Stage, tell: Tell, *, span: timedelta, number: int, rate: float | None) -> Result:
    """Let processes read for long, each partition always ahead of its reader.

    :arg stage: Servers.

    :arg tell: Is told now and then.

    :arg span: How long.

    :arg number: Of processes.

    :arg rate: Most messages a second; None lets them read what they can.

    :returns: Memory of each process over time, in MB; the most that one grew from the first minute
        to the end; what each read in windows of half a minute, and the least that one read of what
        another did.

    """
    ground = stage.ground(partitions=2 * number)
    memory: list[tuple[float, list[float]]] = []
    topic = ground.topics.transactions
    with (
        Backlog(stage.broker, topic, reached=ground.reached, rate=rate),
        started(processes(ground, number)) as flows,
    ):
        wait_for_rows(ground, 1_000, flows)
        watch = Sampler({str(index): [flow.pid] for index, flow in enumerate(flows)})
        everything = sampler(stage, flows)
        begin, began = everything.look(), time.monotonic()
        while (gone := time.monotonic() - began) < span.total_seconds():
            memory.append((gone, [rss / 1e6 for rss in watch.look().rss.values()]))
            told = " ".join(f"{rss:.0f}" for rss in memory[-1][1])
            tell(f"{gone:.0f} s: {sum(ground.reached()):,} rows, {told} MB")
            time.sleep(min(LOOK, span.total_seconds() - gone))
        memory.append((gone, [rss / 1e6 for rss in watch.look().rss.values()]))
        noise = others([begin, everything.look()])
        stopped(flows)
    read = windows([_totals(flow) for flow in flows], WINDOW)
    stage.clear(ground)
    first = next((rss for seconds, rss in memory if seconds >= 60), memory[0][1])
    shares = [min(row) / max(row) for row in zip(*read, strict=True) if max(row)]
    return {
        "minutes": span.total_seconds() / 60,
        "processes": number,
        "memory": memory,
        "growth": max(last / one - 1 for one, last in zip(first, memory[-1][1], strict=True)),
        "read": read,
        "least": min(shares, default=None),
        "others": noise,
    }


def _totals(flow: Flow) -> list[tuple[float, int]]:
    lines = [json.loads(line) for line in flow.lines() if line.startswith("{")]
    return [
        (datetime.fromisoformat(line["timestamp"]).timestamp(), line["messages"])
        for line in lines
        if line["event"] == "progress"
    ]


def paused(stage: Stage, *, count: int, span: timedelta) -> Result:
    """Measure memory while the model is stopped and the topic full.

    :arg stage: Servers.

    :arg count: Messages in the topic.

    :arg span: How long the model is stopped.

    :returns: Highest memory before and during that, in MB; messages that waited meanwhile.

    """
    ground = stage.ground()
    fill(stage.broker, ground.topics.transactions, values(count), FEW)
    with started(processes(ground)) as flows:
        wait_for_rows(ground, 1, flows)
        pids = {CONTENDER: [flow.pid for flow in flows]}
        with Sampler(pids) as before:
            time.sleep(1)
        stage.model.stop()
        waiting = count - ground.stored()
        with Sampler(
            pids | {"broker": [stage.broker.pid], "Postgres": [stage.postgres.pid]},
            parents=["Postgres"],
        ) as during:
            time.sleep(span.total_seconds())
        stage.model.start()
        wait_for_rows(ground, count, flows)
        stopped(flows)
    stage.clear(ground)
    return {
        "before": _highest(before),
        "during": _highest(during),
        "waiting": waiting,
        "others": others(during.samples),
        "seconds": span.total_seconds(),
    }


def _highest(watch: Sampler) -> float:
    return max(sample.rss[CONTENDER] for sample in watch.samples) / 1e6
