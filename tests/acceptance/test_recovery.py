"""A stream that is ended and started again on its recovery directory."""

from pathlib import Path
from typing import Any

from bytewax.testing import TestingSink, TestingSource

from dataflow import build
from lab.servers import ModelApi, wait_until
from operators.records import Message, Scored
from tests.kit.factories import message, settings, transaction_json
from tests.kit.feed import LONG, SLOWLY, Feed, stop
from tests.kit.in_process import run_in_process
from tests.kit.recovery import make_recovery


def valid(count: int, start: int = 0) -> list[Message]:
    """Messages with a transaction each."""
    return [
        message(value=transaction_json(id=number), offset=number)
        for number in range(start, start + count)
    ]


def run(source: TestingSource[Message], model_api: ModelApi, recovery: Path) -> list[int]:
    """Run the stream in this process until its end: offsets of what is to be stored."""
    stored: list[list[Scored]] = []
    flow = build(
        settings(ml_api_url=model_api.url),
        source=source,
        stored=TestingSink(stored),
        failed=TestingSink([]),
    )
    run_in_process(flow, recovery=recovery)
    return sorted(item.message.offset for items in stored for item in items)


def test_a_stream_that_ended_goes_on_behind_the_end(model_api: ModelApi, tmp_path: Path) -> None:
    """Nothing comes twice and nothing is left out, also with another's source."""
    recovery = make_recovery(tmp_path)
    items: list[Any] = [*valid(20), TestingSource.EOF(), *valid(20, start=20)]
    assert run(TestingSource(items, batch_size=5), model_api, recovery) == list(range(20))
    assert run(TestingSource(items, batch_size=5), model_api, recovery) == list(range(20, 40))


def test_an_end_waits_for_what_is_in_flight(model_api: ModelApi, tmp_path: Path) -> None:
    """The source is at its end long before a slow model has answered."""
    model_api.control(name="slow", delay_ms=300)
    source = TestingSource(valid(50), batch_size=10)
    assert run(source, model_api, make_recovery(tmp_path)) == list(range(50))


def test_the_number_of_workers_may_change_between_runs(
    feed: Feed, recovery: list[str], model_api: ModelApi
) -> None:
    """What one worker had in flight is done by three, then by two, each message once."""
    for workers in ("1", "3"):
        with feed.flow(*recovery, "-w", workers) as flow:
            wait_until(lambda: flow.output().count("source.start") == 4, LONG, what="a start")
            model_api.control(name="hang")
            feed.send(100, seed=int(workers))
            wait_until(lambda: model_api.state()["in_flight"] > 0, LONG, what="a request")
            stop(flow)
            assert "score.interrupted" in flow.output()
        model_api.reset()
    with feed.flow(*recovery, "-w", "2") as flow:
        feed.wait_until_done()
        stop(flow)
    feed.expect_all()


def test_the_group_is_ahead_of_an_old_snapshot(feed: Feed, recovery: list[str]) -> None:
    """A kill between two snapshots: what was committed after the first of them counts too."""
    feed.send()
    with feed.flow(*recovery, "-s", "600", **SLOWLY) as flow:
        feed.wait_midway()
        wait_until(lambda: feed.committed() > 0, LONG, what="a commit")
        flow.kill()
    with feed.flow(*recovery) as flow:
        feed.wait_until_done()
        stop(flow)
    feed.expect_all()
