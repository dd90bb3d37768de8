"""Measure what a slow tail and an outage of the model cost: `make bench-scoring`.

Everything runs on this machine, so only the ratios and the orders of magnitude mean something.
"""

import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from signal import SIGTERM
from typing import Any, Final

import psutil
from rich.console import Console
from rich.table import Table

from lab.sample import transactions
from lab.servers import Broker, ModelApi, Postgres, wait_until
from ops.migrate import migrate
from tests.kit.environment import environment
from tests.kit.flow import Flow
from tests.kit.kafka import Topics, produce, read_all
from tests.kit.postgres import query
from tests.kit.recovery import make_recovery, recovery_options

MESSAGES: Final = 60_000
ROUNDS: Final = 3
TAIL: Final = {"name": "slow", "share": 0.01, "factor": 50}
OUTAGE: Final = timedelta(seconds=20)
RATE: Final = 1_000  # messages a second around the outage


class _Bench:
    """Servers, and one stream after the other with topics, database and group of its own."""

    def __init__(self, folder: Path, broker: Broker, postgres: Postgres, model: ModelApi) -> None:
        self.folder, self.broker, self.postgres, self.model = folder, broker, postgres, model
        self._runs = 0

    def stream(self) -> tuple[Flow, Topics, str]:
        """Make a stream, not yet started."""
        self._runs += 1
        name = f"run{self._runs}"
        topics = Topics(f"{name}-in", f"{name}-failed", name)
        self.broker.create_topic(topics.transactions, 4)
        self.broker.create_error_topic(topics.failed, 4)
        self.postgres.create_database(name)
        url = self.postgres.url(name)
        migrate(url)
        variables = environment(
            self.broker,
            topics,
            database_url=url,
            model_url=self.model.url,
            LOG_FORMAT="json",
            # The embedded broker holds every fetch that long.
            KAFKA_PROPERTIES='{"fetch.wait.max.ms": 10}',
        )
        folder = self.folder / name
        return Flow(folder, variables, recovery_options(make_recovery(folder))), topics, url

    def throughput(self, fault: dict[str, Any] | None) -> float:
        """Rows a second, with all messages there before; the first and last tenth are left out.

        At the end nothing is left that could go on beside a slow request.
        """
        flow, topics, url = self.stream()
        values = [sample.value for sample in transactions(MESSAGES, seed=1, broken=0, repeated=0)]
        produce(self.broker, topics.transactions, values)
        self.model.reset()
        if fault:
            self.model.control(**fault)
        with flow:
            wait_until(lambda: _stored(url) == MESSAGES, timedelta(minutes=2), what="all rows")
        [(begin, end)] = query(
            url,
            "SELECT percentile_disc(0.1) WITHIN GROUP (ORDER BY created_at),"
            " percentile_disc(0.9) WITHIN GROUP (ORDER BY created_at) FROM transactions",
        )
        seconds: float = (end - begin).total_seconds()
        return 0.8 * MESSAGES / seconds

    def outage(self) -> dict[str, str]:
        """A model that is down for a while, under a steady load."""
        flow, topics, url = self.stream()
        self.model.reset()
        values = [sample.value for sample in transactions(60_000, seed=2, broken=0, repeated=0)]
        sent = 0
        stop = threading.Event()

        def feed() -> None:
            nonlocal sent
            while not stop.wait(0.1):
                produce(self.broker, topics.transactions, values[sent : sent + RATE // 10])
                sent += RATE // 10

        feeder = threading.Thread(target=feed)
        with flow:
            feeder.start()
            wait_until(lambda: _stored(url) > 3 * RATE, timedelta(seconds=30), what="rows")
            process = psutil.Process(flow.pid)
            before = process.memory_info().rss
            self.model.control(name="outage")
            began = time.time()
            highest = _highest(lambda: process.memory_info().rss, OUTAGE)
            self.model.reset()
            ended = time.time()
            at_end = _stored(url)
            wait_until(lambda: _stored(url) > at_end, timedelta(seconds=30), what="resumed")
            resumed = time.time()
            stop.set()
            feeder.join()
            wait_until(lambda: _stored(url) == sent, timedelta(minutes=1), what="all rows")
            caught_up = time.time()
            flow.signal(SIGTERM)
            status = flow.wait()
        opened = next(
            line["timestamp"] for line in map(json.loads, flow.lines()) if "open" in line["event"]
        )
        paused = _epoch(opened) - began
        return {
            "messages sent, all stored": f"{sent:,}",
            "dead letters": str(len(read_all(self.broker, topics.failed))),
            "outage": f"{OUTAGE.total_seconds():g} s",
            "paused after": f"{paused:.2f} s",
            "first row after its end": f"{resumed - ended:.2f} s",
            "caught up after its end": f"{caught_up - ended:.2f} s",
            "memory before": f"{before / 1e6:.0f} MB",
            "highest memory while paused": f"{highest / 1e6:.0f} MB",
            "exit status": str(status),
        }


def _stored(url: str) -> int:
    [(rows,)] = query(url, "SELECT count(*) FROM transactions")
    return int(rows)


def _highest(measure: Callable[[], int], span: timedelta) -> int:
    highest, end = 0, time.monotonic() + span.total_seconds()
    while time.monotonic() < end:
        highest = max(highest, measure())
        time.sleep(0.2)
    return highest


def _epoch(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


def main() -> None:
    """Measure and print."""
    console = Console()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fraud-bench-")))
        broker = stack.enter_context(Broker(folder / "broker"))
        postgres = stack.enter_context(Postgres(folder / "postgres"))
        model = stack.enter_context(ModelApi(folder / "model"))
        bench = _Bench(folder, broker, postgres, model)
        bench.throughput(None)  # to warm up
        ratios = []
        table = Table("round", "rows/s without", "rows/s with a slow tail", "ratio")
        for number in range(ROUNDS):
            plain, slow = bench.throughput(None), bench.throughput(TAIL)
            ratios.append(slow / plain)
            table.add_row(str(number + 1), f"{plain:,.0f}", f"{slow:,.0f}", f"{slow / plain:.2f}")
        table.add_row("median", "", "", f"{statistics.median(ratios):.2f}")
        console.print("1 % of the requests take 50 times as long")
        console.print(table)
        outage = Table("an outage of the model", "", show_header=False)
        for name, value in bench.outage().items():
            outage.add_row(name, value)
        console.print(outage)


if __name__ == "__main__":
    main()
