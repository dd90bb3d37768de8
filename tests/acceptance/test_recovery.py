"""The stream in this process, ended and started again on its recovery directory."""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from bytewax.testing import TestingSink, TestingSource

import operators.score
from dataflow import build
from lab.servers import ModelApi
from operators.engine.loop import Loop
from operators.engine.routing import lane_of
from operators.engine.shutdown import Stop
from operators.model.scorer import Scorer
from operators.records import Failure, Message, Scored
from tests.factories import message, settings, transaction_json
from tests.support import GivenSource, leave_state, make_recovery, run_in_process


class Lanes:
    """The scoring lanes of all runs: what they resumed, and what is to be ended after a test."""

    def __init__(self) -> None:
        self.resumed: set[str] = set()
        self._made: list[tuple[Scorer, Loop]] = []

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Take note of every lane from now on."""
        lanes = self

        class Watched(operators.score._Lane):  # noqa: SLF001 - what else sees what is resumed?
            def __init__(self, resume_state: dict[str, Any] | None, **given: Any) -> None:
                if resume_state is not None:
                    lanes.resumed.add(resume_state["lane"])
                lanes._made.append((given["scorer"], given["loop"]))
                super().__init__(resume_state, **given)

        monkeypatch.setattr(operators.score, "_Lane", Watched)

    def end(self) -> None:
        """End what an aborted run left in flight; a process that aborts would be gone."""
        for scorer, loop in self._made:
            loop.run(_end(scorer))


async def _end(scorer: Scorer) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await scorer.close()


class Stream:
    """Runs over one recovery directory; what comes out of each is kept."""

    def __init__(self, folder: Path, model_api: ModelApi) -> None:
        self.recovery = make_recovery(folder)
        self.model_api = model_api
        self.stored: list[tuple[str, Scored]] = []
        self.failed: list[tuple[str, Failure]] = []

    def run(self, source: Any, *, workers: int = 1, stop: Stop | None = None) -> None:
        """Run the stream until its end."""
        self.stored.clear()
        self.failed.clear()
        flow = build(
            settings(ml_api_url=self.model_api.url),
            source=source,
            stored=TestingSink(self.stored),
            failed=TestingSink(self.failed),
            stop=stop,
        )
        run_in_process(flow, workers=workers, recovery=self.recovery)

    def run_and_interrupt(self, messages: list[Message], *, workers: int) -> None:
        """Run until all is read, and stop so that what is in flight stays so."""
        stop = Stop(timedelta(0))
        self.run(GivenSource(messages, at_end=stop.request), workers=workers, stop=stop)

    def positions(self) -> list[tuple[int, int]]:
        """Of what was stored in the last run."""
        return sorted((item.message.partition, item.message.offset) for _, item in self.stored)


@pytest.fixture
def lanes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lanes]:
    """The lanes of the test's runs."""
    watched = Lanes()
    watched.watch(monkeypatch)
    yield watched
    watched.end()


@pytest.fixture
def stream(tmp_path: Path, model_api: ModelApi, lanes: Lanes) -> Stream:
    """A stream with an empty recovery directory."""
    del lanes  # they are ended after the test
    return Stream(tmp_path, model_api)


def valid(count: int, start: int = 0, partitions: int = 1) -> list[Message]:
    """Messages with a transaction each."""
    return [
        message(
            value=transaction_json(id=number),
            partition=number % partitions,
            offset=number // partitions,
        )
        for number in range(start, start + count)
    ]


def broken(count: int, start: int) -> list[Message]:
    """Messages that are failures at once, whatever the model does."""
    return [message(value=b"{", offset=offset) for offset in range(start, start + count)]


def test_a_stream_that_ended_goes_on_behind_the_end(stream: Stream) -> None:
    """Nothing comes twice and nothing is left out."""
    items = [*valid(20), TestingSource.EOF(), *valid(20, start=20)]
    stream.run(TestingSource(items, batch_size=5))
    assert stream.positions() == [(0, offset) for offset in range(20)]
    stream.run(TestingSource(items, batch_size=5))
    assert stream.positions() == [(0, offset) for offset in range(20, 40)]


def test_an_end_waits_for_what_is_in_flight(stream: Stream) -> None:
    """The source is at its end long before a slow model has answered."""
    stream.model_api.control(name="slow", delay_ms=300)
    stream.run(TestingSource(valid(50), batch_size=10))
    assert stream.positions() == [(0, offset) for offset in range(50)]


def test_what_was_in_flight_at_an_abort_is_sent_again(stream: Stream) -> None:
    """It is in the snapshot: the source need not read it again, and does not."""
    in_flight = valid(6)
    stream.model_api.control(name="hang")
    abort = TestingSource.ABORT()
    stream.run(TestingSource([*in_flight, *broken(30, start=6), abort, *valid(4, start=36)]))
    assert stream.stored == []
    stream.model_api.reset()
    # In the place of what was in flight stands what would be seen if it were read again.
    impostors = broken(6, start=0)
    stream.run(TestingSource([*impostors, *broken(30, start=6), abort, *valid(4, start=36)]))
    assert stream.positions() == [(0, offset) for offset in (*range(6), *range(36, 40))]
    assert all(item.message.offset >= 6 for _, item in stream.failed)


def test_nothing_is_lost_by_an_abort_under_load(stream: Stream) -> None:
    """Every message comes out of the first run or the second; what was not durable, of both."""
    stream.model_api.control(name="slow", delay_ms=50)
    items = [*valid(300), TestingSource.ABORT(), *valid(300, start=300)]
    stream.run(TestingSource(items, batch_size=10))
    before = set(stream.positions())
    stream.run(TestingSource(items, batch_size=10))
    after = Counter(stream.positions())
    assert len(before) < 300
    assert before | after.keys() == {(0, offset) for offset in range(600)}
    assert max(after.values()) == 1


def test_a_stop_leaves_what_is_in_flight_to_the_next_run(stream: Stream) -> None:
    """It is neither stored nor lost when the time for a stop is over."""
    stream.model_api.control(name="hang")
    stream.run_and_interrupt(valid(40, partitions=4), workers=1)
    assert stream.positions() == []
    stream.model_api.reset()
    stream.run(GivenSource(valid(40, partitions=4)))
    assert stream.positions() == [(part, offset) for part in range(4) for offset in range(10)]


def test_the_number_of_workers_may_change_between_runs(stream: Stream) -> None:
    """What one worker had in flight is done by three, then by two, each message once."""
    stream.model_api.control(name="hang")
    for workers, count in ((1, 40), (3, 80)):
        stream.run_and_interrupt(valid(count, partitions=4), workers=workers)
        assert stream.positions() == []
    stream.model_api.reset()
    stream.run(GivenSource(valid(100, partitions=4)), workers=2)
    assert stream.positions() == [(part, offset) for part in range(4) for offset in range(25)]
    stream.run(GivenSource(valid(104, partitions=4)), workers=3)
    assert stream.positions() == [(part, 25) for part in range(4)]


def test_the_state_of_a_former_number_of_workers_goes_when_it_is_done(
    stream: Stream, lanes: Lanes
) -> None:
    """Or every change would leave rows in the recovery directory for good."""
    of_three = {lane_of(worker, 3) for worker in range(3)}
    of_two = {lane_of(worker, 2) for worker in range(2)}
    assert of_three - of_two, "no lane to be discarded"

    stream.model_api.control(name="hang")
    stream.run_and_interrupt(valid(40, partitions=4), workers=3)
    stream.model_api.reset()
    stream.run(GivenSource(valid(48, partitions=4)), workers=2)
    assert lanes.resumed & (of_three - of_two), "nothing of three workers was resumed"
    # A lane goes with the epoch after the one in which it was done; a short run may have none.
    for count in range(52, 80, 4):
        lanes.resumed.clear()
        stream.run(GivenSource(valid(count, partitions=4)), workers=2)
        assert lanes.resumed
        if lanes.resumed <= of_two:
            return
    pytest.fail(f"still resumed: {lanes.resumed - of_two}")


def _states_of_score(recovery: Path) -> list[tuple[Path, str, bytes]]:
    """States of the scoring step: the file that each is in, key and state."""
    query = "SELECT state_key, ser_change FROM snaps WHERE step_id = 'fraud.score.api'"
    states = []
    for part in recovery.glob("part-*.sqlite3"):
        with closing(sqlite3.connect(part)) as database:
            states += [(part, *row) for row in database.execute(query) if row[1] is not None]
    return states


def _next_epoch(recovery: Path) -> int:
    """Epoch with which the next run begins."""
    fronts: list[tuple[int, int]] = []
    for part in recovery.glob("part-*.sqlite3"):
        with closing(sqlite3.connect(part)) as database:
            fronts += database.execute("SELECT ex_num, worker_frontier FROM fronts").fetchall()
    return max(fronts)[1]


def test_what_a_killed_run_left_in_the_next_epoch_is_written_over(stream: Stream) -> None:
    """Its states of an epoch that did not count would else be taken for those of this run."""
    items: list[Any] = [*valid(6), *broken(30, start=6)]
    stream.model_api.control(name="hang")
    stream.run(TestingSource([*items, TestingSource.ABORT()]))
    [(part, key, in_hand)] = _states_of_score(stream.recovery)
    stream.model_api.reset()
    stream.run(TestingSource(items))
    assert len(stream.positions()) == 6
    leave_state(part, key, _next_epoch(stream.recovery), in_hand)

    items += [*broken(30, start=36), TestingSource.ABORT()]
    stream.run(TestingSource(items))
    stream.run(TestingSource(items))
    assert stream.positions() == []
