"""Kill everything and move clocks, again and again, and count both ends: `make chaos`.

Each episode is drawn from a seed. What fails can be run again with `--seed`; its timing is never
quite the same, so a rare failure may take several attempts.
"""

import random
import shutil
import signal
import sys
import tempfile
import time
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import typer
from rich.console import Console

from lab.servers import ApacheKafka
from tests.chaos.episode import Result, run
from tests.chaos.plan import Kind, Plan, draw
from tests.chaos.report import line, outline, summarise
from tests.chaos.world import World
from tests.kit.wall_clock import WallClock

STRIKES: Final = 12
"""In an episode."""


class Kafka(StrEnum):
    """The broker."""

    APACHE = "apache"
    EMBEDDED = "embedded"


def main(
    *,
    kills: Annotated[
        int | None, typer.Option(min=1, help="How many at least; 200, or one episode with --seed.")
    ] = None,
    kafka: Annotated[
        Kafka, typer.Option(help="The embedded broker is not killed: it keeps nothing.")
    ] = Kafka.APACHE,
    seed: Annotated[
        int | None, typer.Option(help="Of the first episode; each next has the next.")
    ] = None,
    only: Annotated[
        list[Kind] | None,
        typer.Option(help="Strikes of this kind; may be repeated. All kinds if not given."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep all folders.")] = False,
) -> None:
    """Run episodes until there were enough kills; exit code 1 if one failed."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    reason = WallClock.missing() or (ApacheKafka.missing() if kafka is Kafka.APACHE else None)
    if reason:
        console.print(reason)
        raise typer.Exit(2)
    wanted = kills or (STRIKES if seed is not None else 200)
    first = random.SystemRandom().randrange(10**6) if seed is None else seed
    signal.signal(signal.SIGTERM, _interrupt)
    folder = Path(tempfile.mkdtemp(prefix="fraud-scoring-chaos-"))
    began = time.monotonic()
    results: list[Result] = []
    console.print(f"first seed {first}, folder {folder}")
    try:
        with World(folder / "servers", kafka.value) as world:
            while sum(len(result.hits) for result in results) < wanted and not _in_vain(results):
                plan = draw(
                    first + len(results),
                    strikes=STRIKES,
                    apache=kafka is Kafka.APACHE,
                    only=only or tuple(Kind),
                )
                results.append(_episode(world, plan, folder, console, keep=keep))
    except KeyboardInterrupt:
        console.print("interrupted")
    finally:
        if results:
            summarise(console, results, time.monotonic() - began)
    failed = any(result.problems for result in results)
    if failed or keep:
        console.print(f"logs are in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if failed else 0)


def _episode(world: World, plan: Plan, folder: Path, console: Console, *, keep: bool) -> Result:
    console.print(outline(plan), style="dim")
    its_folder = folder / f"seed-{plan.seed}"
    its_folder.mkdir()
    result = run(world, plan, its_folder)
    console.print(line(result), style="red" if result.problems else "green")
    if not (result.problems or keep):
        shutil.rmtree(its_folder, ignore_errors=True)
    return result


def _in_vain(results: list[Result]) -> bool:
    """Whether nothing comes to be struck any more."""
    return len(results) > 1 and not any(result.hits for result in results[-2:])


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    typer.run(main)
