"""Large messages pass in little memory."""

import re
from datetime import timedelta
from pathlib import Path

import pytest

from lab.servers import wait_until
from tests.acceptance.world import World, garbage, stop, valid
from tests.kit.kafka import produce

pytestmark = [pytest.mark.apache_kafka, pytest.mark.timeout(600)]

MESSAGES = 1_200
MOST = 512 * 1024
"""KiB that the process may have at its peak."""

FILLER = "x" * 900_000
VERY_LONG = timedelta(minutes=4)


def _peak(pid: int) -> int:
    """Most memory that a process ever had resident, in KiB, as the kernel counts it."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def test_messages_of_900_kb_pass_in_512_mib(world: World) -> None:
    """Valid ones and garbage, though the model is slow and far more than that is waiting."""
    for _ in range(MESSAGES // 40):  # all at once would be in this process too
        messages = [*valid(20, unknown=FILLER), *garbage(20, filler=FILLER.encode())]
        produce(world.broker, world.topics.transactions, messages)
    world.model_api.control(name="slow", delay_ms=1_000)
    with world.flow() as flow:
        wait_until(lambda: sum(world.committed().values()) == MESSAGES, VERY_LONG, what="the end")
        peak = _peak(flow.pid)
        stop(flow)
    found = world.audit()
    assert found.total("stored") == found.total("dead_letters") == MESSAGES / 2
    assert found.adds_up
    assert peak < MOST
