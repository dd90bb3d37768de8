"""Partitions cost few descriptors and threads, and the start says how many there have to be."""

import re
from collections.abc import Callable
from typing import NamedTuple

import psutil
import pytest

from lab.servers import wait_until
from tests.acceptance.world import LONG, World, garbage, starts, stop, valid
from tests.kit.flow import Flow

pytestmark = pytest.mark.timeout(400)

DESCRIPTORS, THREADS = 8, 4
"""That one partition more may cost."""


class Limited(Flow):
    """The stream in a shell that has said `ulimit -n`."""

    descriptors: int

    def command(self) -> list[str]:
        """Set the limit, and become the stream."""
        script = f'ulimit -n {self.descriptors} && exec "$@"'
        return ["sh", "-c", script, "sh", *super().command()]


def _limited(world: World, descriptors: int) -> Limited:
    flow = Limited(world.folder / "limited", world.variables, world.recovery)
    flow.descriptors = descriptors
    return flow


class Costs(NamedTuple):
    """What a process has open."""

    descriptors: int
    threads: int


def _use_all(world: World, partitions: int) -> None:
    """Have each partition store something and write a dead letter."""
    world.send(valid(partitions, partitions=partitions))
    world.send(garbage(partitions, partitions=partitions))
    world.wait_until_committed(2 * LONG)


def _costs(world: World, partitions: int) -> Costs:
    """Run until every partition has stored something and written a dead letter."""
    with world.flow() as flow:
        wait_until(lambda: len(starts(flow)) == partitions, 2 * LONG, what="all partitions")
        world.send(
            [*valid(partitions, partitions=partitions), *garbage(partitions, partitions=partitions)]
        )
        process = psutil.Process(flow.pid)
        costs = Costs(process.num_fds(), process.num_threads())
        stop(flow)
    assert world.audit().adds_up
    return costs


def test_a_partition_costs_few_descriptors_and_threads(make_world: Callable[..., World]) -> None:
    """Those of 64 partitions and of 4 tell what each one more needs."""
    few, many = (_costs(make_world(partitions=count), count) for count in (4, 64))
    assert (many.descriptors - few.descriptors) / 60 <= DESCRIPTORS
    assert (many.threads - few.threads) / 60 <= THREADS


def test_100_partitions_run_with_the_usual_limit(make_world: Callable[..., World]) -> None:
    """`ulimit -n 1024` is what a shell has that nobody changed."""
    world = make_world(partitions=100)
    with _limited(world, 1024) as flow:
        wait_until(
            lambda: len(starts(flow)) == 100 or not flow.running, 2 * LONG, what="all partitions"
        )
        assert flow.running, flow.output()
        _use_all(world, 100)
        stop(flow)
    assert world.audit().adds_up


def test_a_limit_that_is_too_low_is_said_in_one_line(make_world: Callable[..., World]) -> None:
    """How many descriptors are needed, and which limit is in force; nothing was read by then."""
    world = make_world(partitions=100)
    with _limited(world, 128) as flow:
        assert flow.wait(LONG) == 1
        output = flow.output()
    assert "Traceback" not in output
    [line] = [line for line in flow.lines() if "cannot start" in line]
    assert "open files" in line
    numbers = [int(number) for number in re.findall(r"\d+", line)]
    assert 128 in numbers
    assert max(numbers) > 128
    assert not starts(flow)
