"""Measure the stream beside two others that do the same job: `make bench`.

Without a mode it compares throughput and latency, in several rounds. Everything runs on this
machine and shares it, so only ratios of one run mean something elsewhere.
"""

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from lab.servers import ApacheKafka
from tests.bench import modes
from tests.bench.comparison import compare_latency, compare_throughput
from tests.bench.report import page
from tests.bench.stage import Stage

RESULTS: Final = Path(".bench-results")


class Kafka(StrEnum):
    """The broker."""

    AUTO = "auto"
    APACHE = "apache"
    EMBEDDED = "embedded"


def main(
    *,
    throughput: Annotated[bool, typer.Option("--throughput", help="Compare throughput.")] = False,
    latency: Annotated[bool, typer.Option("--latency", help="Compare latency.")] = False,
    idle: Annotated[bool, typer.Option("--idle", help="CPU with 16 idle partitions.")] = False,
    partitions: Annotated[
        int | None, typer.Option(min=5, help="Latency with so many partitions, against 4.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=2, help="Cost a row with so many processes, against 1.")
    ] = None,
    soak: Annotated[
        float | None, typer.Option(help="Memory and fairness over so many minutes.")
    ] = None,
    paused: Annotated[
        bool, typer.Option("--paused", help="Memory with the model stopped, the topic full.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Of what is compared.")] = 5,
    count: Annotated[int, typer.Option(min=10_000, help="Messages of a run.")] = 100_000,
    seconds: Annotated[float, typer.Option(min=2, help="Of a run at a constant rate.")] = 12,
    workers: Annotated[int, typer.Option(min=1, help="Processes of --soak.")] = 3,
    rate: Annotated[
        float | None,
        typer.Option(help="Messages a second of --soak; as fast as it can if not set."),
    ] = None,
    kafka: Annotated[
        Kafka, typer.Option(help="auto: Apache Kafka if Java and Maven are there.")
    ] = Kafka.AUTO,
    quick: Annotated[
        bool, typer.Option("--quick", help="Once and small, to see that it works.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="For figures, tables and the plot; what is there is kept.")
    ] = RESULTS,
) -> None:
    """Measure, and print the table of targets with the last result of each mode."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if quick:
        rounds, count, seconds = 1, 10_000, 4
    span = timedelta(seconds=seconds)
    chosen = _broker(kafka)

    def tell(line: str) -> None:
        console.print(line, style="dim")

    offered: dict[str, tuple[object, Callable[[Stage], Any]]] = {
        "throughput": (
            throughput,
            lambda stage: compare_throughput(stage, tell, rounds=rounds, count=count),
        ),
        "latency": (
            latency,
            lambda stage: compare_latency(stage, tell, rounds=rounds, span=span),
        ),
        "idle": (idle, lambda stage: modes.idle(stage, span=span)),
        "partitions": (
            partitions,
            lambda stage: modes.many_partitions(
                stage, tell, partitions=partitions or 0, rounds=rounds, span=span
            ),
        ),
        "processes": (
            processes,
            lambda stage: modes.several_processes(
                stage, tell, number=processes or 0, rounds=rounds, count=count
            ),
        ),
        "paused": (paused, lambda stage: modes.paused(stage, count=3 * count, span=span)),
        "soak": (
            soak,
            lambda stage: modes.soak(
                stage, tell, span=timedelta(minutes=soak or 0), number=workers, rate=rate
            ),
        ),
    }
    wanted = [name for name, (asked, _) in offered.items() if asked] or ["throughput", "latency"]
    out.mkdir(parents=True, exist_ok=True)
    with _folder() as folder, Stage(folder, kafka=chosen) as stage:
        for name in wanted:
            console.print(name)
            found = offered[name][1](stage)
            (out / f"{name}.json").write_text(_note(chosen, found))
    _conclude(console, out)


def _broker(kafka: Kafka) -> Any:
    reason = ApacheKafka.missing() if kafka is not Kafka.EMBEDDED else None
    if reason and kafka is Kafka.APACHE:
        raise typer.BadParameter(reason)
    return "embedded" if reason or kafka is Kafka.EMBEDDED else "apache"


@contextmanager
def _folder() -> Iterator[Path]:
    """Keep it if something goes wrong."""
    folder = Path(tempfile.mkdtemp(prefix="fraud-scoring-bench-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _note(kafka: str, found: Any) -> str:
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "python": f"Python {platform.python_version()}",
        "broker": kafka,
    }
    return json.dumps({"about": about, "found": found}, indent=1) + "\n"


def _conclude(console: Console, out: Path) -> None:
    notes = {path.stem: json.loads(path.read_text()) for path in out.glob("*.json")}
    results = {name: note["found"] for name, note in notes.items()}
    text = page(results)
    (out / "bench.md").write_text(text)
    console.print(text)
    if {"throughput", "latency"} & results.keys():
        # Late: modes that draw nothing need no matplotlib.
        from tests.bench.plot import draw  # noqa: PLC0415

        draw(results, out / "bench.png")
    for name, note in sorted(notes.items()):
        console.print(f"{name}: {', '.join(note['about'].values())}", style="dim")
    console.print(f"In {out}", style="dim")


if __name__ == "__main__":
    typer.run(main)
