"""Replays beside the stream that they give work to."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from lab.servers import ModelApi, wait_until
from ops.__main__ import app
from tests.integration.replay.world import World
from tests.kit.factories import transaction_json
from tests.kit.flow import Flow
from tests.kit.kafka import produce
from tests.kit.postgres import query
from tests.kit.recovery import make_recovery, recovery_options


def settled(world: World, count: int) -> dict[str, Any]:
    """Wait until so many messages have ended, and audit."""
    found: dict[str, Any] = {}

    def ended() -> bool:
        done = CliRunner().invoke(app, ["audit", "--json"], env=world.variables)
        if done.exit_code == 2:  # it has just begun
            return False
        found.update(json.loads(done.stdout))
        assert found["adds_up"], done.stdout
        return bool(found["total"]["settled"] == count)

    wait_until(ended, timedelta(seconds=40), what=f"{count} messages before the committed offset")
    return dict(found["total"])


def test_the_audit_adds_up_after_each_replay_and_loops_end(
    world: World, database_url: str, model_api: ModelApi, tmp_path: Path
) -> None:
    """What is repaired is stored, what is not comes back with its count until the limit."""
    world.variables |= {"DATABASE_URL": database_url, "ML_API_URL": model_api.url}
    good = [
        json.dumps(transaction_json(id=number, description="poison")).encode()
        for number in range(3)
    ]
    model_api.control(name="poison")
    produce(world.broker, world.topics.transactions, [*good, b"{broken"])
    options = recovery_options(make_recovery(tmp_path))
    with Flow(tmp_path, world.variables, options) as flow:
        total = settled(world, 4)
        assert (total["dead_letters"], total["put_back"]) == (4, 0)

        model_api.reset()
        assert "Replayed 4" in world.replay("--max-replays", "2").lines[-1]
        total = settled(world, 8)
        assert (total["stored"], total["dead_letters"]) == (3, 5)
        assert (total["put_back"], total["replayed"]) == (4, 1)

        assert "Replayed 1" in world.replay("--max-replays", "2").lines[-1]
        total = settled(world, 9)
        assert (total["stored"], total["dead_letters"]) == (3, 6)
        assert (total["put_back"], total["replayed"]) == (5, 2)

        result = world.replay("--max-replays", "2")
        assert "Replayed 0" in result.lines[-1]
        assert any(re.fullmatch(r"over the limit of .* 1", line) for line in result.lines)
        assert flow.running
    lines = CliRunner().invoke(app, ["audit"], env=world.variables).stdout.splitlines()
    assert "put back" in lines[0]
    assert lines[-1] == "Adds up: 9 consumed messages, each in exactly one place."
    assert query(database_url, "SELECT count(*) FROM transactions") == [(3,)]
