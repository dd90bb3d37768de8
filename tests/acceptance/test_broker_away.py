"""A broker that is away is told once, in words, and so is that it is back."""

import json
from collections import Counter
from collections.abc import Callable

import pytest

from lab.servers import ApacheKafka
from tests.acceptance.world import LONG, World, events, stop, valid

pytestmark = [pytest.mark.apache_kafka, pytest.mark.timeout(300)]


def test_a_broker_that_is_away_is_told_once(
    make_world: Callable[..., World], apache_kafka: ApacheKafka
) -> None:
    """Whatever its clients say while they try again; one line when it answers again."""
    world = make_world()
    with world.flow() as flow:
        world.send(valid(8))
        world.wait_until_committed()
        before = len(flow.lines())
        apache_kafka.kill()
        flow.wait_for("source.error", LONG)
        flow.wait_for("source.no_answer", LONG)
        apache_kafka.start()
        flow.wait_for("source.reconnected", LONG)
        world.send(valid(8))
        world.wait_until_committed()
        told = Counter(json.loads(line)["event"] for line in flow.lines()[before:])
        assert told["source.error"] == 1
        assert "tried again until it answers" in events(flow, "source.error")[0]["reason"]
        assert told["source.reconnected"] == 1
        assert sum(told.values()) < 10, told
        stop(flow)
