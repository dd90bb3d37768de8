"""The three that do the same job, each in processes of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bytewax.recovery import init_db_dir

from lab.servers import free_port
from tests.bench.stage import Ground
from tests.kit.flow import Flow

__all__ = ["EXPERT", "NAIVE", "OURS", "Contender", "processes"]


@dataclass(frozen=True)
class Contender:
    """Who does the job.

    :arg name: In tables.

    :arg make: Makes its processes, not started yet.

    :arg share: Of the messages of a throughput run, so that a slow one takes about as long.

    :arg capacity: Messages a second beyond which its latency means nothing.

    """

    name: str
    make: Callable[[Ground], list[Flow]]
    share: float = 1.0
    capacity: float = float("inf")


def processes(ground: Ground, number: int = 1) -> list[Flow]:
    """Make the stream, as its README says to run it, in one process or several.

    :arg ground: Of the run.

    :arg number: Of processes, with one worker each.

    :returns: One process for each worker.

    """
    recovery = ground.folder / "recovery"
    recovery.mkdir()
    init_db_dir(recovery, 4)  # type: ignore[no-untyped-call]  # as it ships
    options = ["-r", str(recovery), "-s", "5", "-b", "0"]
    if number == 1:
        return [_process(ground.folder / "process0", ground, options)]
    addresses = ";".join(f"localhost:{free_port()}" for _ in range(number))
    return [
        _process(
            ground.folder / f"process{index}", ground, [*options, "-i", str(index), "-a", addresses]
        )
        for index in range(number)
    ]


def _process(folder: Path, ground: Ground, options: list[str]) -> Flow:
    return Flow(folder, ground.variables, options)


def _naive(ground: Ground) -> list[Flow]:
    return [Flow(ground.folder / "naive", ground.variables, module=["tests.bench.naive"])]


def _expert(ground: Ground) -> list[Flow]:
    return [Flow(ground.folder / "expert", ground.variables, module=["tests.bench.expert"])]


OURS: Final = Contender("this stream", processes)
EXPERT: Final = Contender("expert's loop", _expert)
NAIVE: Final = Contender("first loop", _naive, share=0.1, capacity=2_000)
