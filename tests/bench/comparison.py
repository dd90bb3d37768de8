"""The stream beside the two others, in turn, round by round."""

from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from tests.bench.contenders import EXPERT, NAIVE, OURS
from tests.bench.runs import latency, throughput
from tests.bench.stage import Stage

__all__ = ["RATES", "compare_latency", "compare_throughput"]

CONTENDERS: Final = (OURS, EXPERT, NAIVE)
RATES: Final = (1_000, 5_000)
PARTITIONS: Final = 4

Tell = Callable[[str], None]
Result = dict[str, Any]


def compare_throughput(stage: Stage, tell: Tell, *, rounds: int, count: int) -> Result:
    """Measure throughput, cost and memory of all three.

    :arg stage: Servers.

    :arg tell: Is told of each run.

    :arg rounds: In each, all have their turn.

    :arg count: Messages.

    :returns: By contender, what each round gave.

    """
    # In each partition, of the contender that gets the fewest.
    below = int(count * min(contender.share for contender in CONTENDERS)) // PARTITIONS
    for contender in CONTENDERS:  # compilers and caches of the servers
        throughput(stage, contender, count)
    found = defaultdict(list)
    for number in range(rounds):
        # In turn, so that what changes meanwhile meets all.
        for contender in CONTENDERS[:: 1 if number % 2 == 0 else -1]:
            run = throughput(stage, contender, count, partitions=PARTITIONS, below=below)
            found[contender.name].append(run)
            cpu = ", ".join(f"{name} {value:.0f}" for name, value in run["cpu"].items())
            tell(
                f"{contender.name}: {run['rate']:,.0f} rows/s; CPU in µs a row: {cpu}{_noise(run)}"
            )
    digests = {run["digest"] for runs in found.values() for run in runs}
    assert len(digests) == 1, f"they did not store the same: {digests}"
    return dict(found)


def compare_latency(stage: Stage, tell: Tell, *, rounds: int, span: timedelta) -> Result:
    """Measure latency of those that can take each rate.

    :arg stage: Servers.

    :arg tell: Is told of each run.

    :arg rounds: In each, all have their turn.

    :arg span: Of each run.

    :returns: By rate and contender, what each round gave.

    """
    found: Result = {str(rate): defaultdict(list) for rate in RATES}
    for number in range(rounds):
        for rate in RATES:
            able = [one for one in CONTENDERS if one.capacity > rate]
            for contender in able[:: 1 if number % 2 == 0 else -1]:
                run = latency(stage, contender, rate=rate, span=span)
                found[str(rate)][contender.name].append(run)
                times = f"p50 {run['p50']:.0f} ms, p99 {run['p99']:.0f} ms"
                tell(f"{contender.name} at {rate:,}/s: {times}{_noise(run)}")
    return found


def _noise(run: Any) -> str:
    return f"; {run['others']:.0%} of the machine went to others"
