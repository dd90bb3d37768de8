"""The audit while the stream runs."""

import itertools
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import ops.audit.letters
from lab.sample import transactions
from lab.servers import ModelApi, wait_until
from ops.audit.tables import Tables
from ops.audit.topic import Topic
from tests.integration.audit.world import Result, World
from tests.kit.flow import Flow
from tests.kit.kafka import produce
from tests.kit.recovery import make_recovery, recovery_options


def test_the_stream_may_go_on_between_any_two_reads(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each look at something, another message is stored and committed: nothing is missing."""
    ends = itertools.count(5)

    def go_on() -> None:
        at = next(ends)
        world.send(1)
        if at % 2:
            world.store([at])
        else:
            world.bury(at)
        world.commit(at + 1)

    def followed(method: Callable[..., Any]) -> Callable[..., Any]:
        def followed_by_more(*arguments: Any) -> Any:
            result = method(*arguments)
            go_on()
            return result

        return followed_by_more

    world.send(5)
    world.store(range(5))
    world.commit(5)
    monkeypatch.setattr(Topic, "committed", followed(Topic.committed))
    monkeypatch.setattr(Topic, "ranges", followed(Topic.ranges))
    monkeypatch.setattr(ops.audit.letters, "read", followed(ops.audit.letters.read))
    monkeypatch.setattr(Tables, "_ask", followed(Tables._ask))  # noqa: SLF001 - each statement
    result = world.audited()
    assert next(ends) > 10
    assert result.status == 0
    assert result.total["settled"] >= 5


def test_a_running_stream_adds_up_at_any_time(
    world: World, model_api: ModelApi, tmp_path: Path
) -> None:
    """Every audit beside the stream says so, and the last one has all messages in a place."""
    world.variables["ML_API_URL"] = model_api.url
    options = recovery_options(make_recovery(tmp_path))
    values = [sample.value for sample in transactions(6_000, seed=7, broken=0.05, repeated=0.05)]
    sent = [value for value in values if value is not None]
    parts = [sent[begin : begin + 500] for begin in range(0, len(sent), 500)]
    audits: list[Result] = []
    with Flow(tmp_path, world.variables, options) as flow:

        def all_done() -> bool:
            assert flow.running, flow.output()
            if parts:
                produce(world.broker, world.topics.transactions, parts.pop(0))
            result = world.audit("--json")
            if result.status == 2:  # it had just begun
                assert "has committed no offset" in result.errors[0]
                return False
            audits.append(result)
            assert result.status == 0, result.output
            return not parts and result.total.get("settled") == len(sent)

        wait_until(all_done, timedelta(seconds=90), what="all messages before the committed offset")
    assert any("in_progress" in result.total for result in audits)
    last = audits[-1].total
    assert last["stored"] + last["duplicates"] + last["dead_letters"] == len(sent)
    assert min(last["stored"], last["duplicates"], last["dead_letters"]) > 100
