"""The scoring step of one worker, callback by callback as Bytewax makes them."""

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from threading import Timer
from typing import Any

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from lab.servers import ModelApi
from operators.engine.loop import TURNS, Loop
from operators.engine.positions import Unfinished
from operators.engine.shutdown import Stop
from operators.errors import ScoringError
from operators.model import breaker, scorer
from operators.model.limiter import FIRST, PARTIAL_REQUESTS
from operators.model.scorer import Outcome, Scorer
from operators.records import Failure, Message, Received
from operators.score import _Lane
from tests import factories

NEVER = 3_600.0
KEY = "0"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries and probes come at once, or these tests would wait."""
    monkeypatch.setattr(scorer, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(breaker, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(breaker, "LONGEST_PAUSE", 0.05)


class Worker:
    """A lane and what it shares with the rest of its worker."""

    def __init__(
        self,
        model_api: ModelApi,
        *,
        state: dict[str, Any] | None = None,
        alone: bool = True,
        **overrides: Any,
    ) -> None:
        given = {"ml_api_url": model_api.url, "scoring_adaptive": False} | overrides
        settings = factories.settings(**given)
        self.loop, self.unfinished = Loop(), Unfinished()
        self.stop = Stop(settings.stop_timeout)
        self.scorer = Scorer(settings)
        self.lane = _Lane(
            state,
            key=KEY,
            alone=alone,
            scorer=self.scorer,
            loop=self.loop,
            settings=settings,
            read_back=None,
            unfinished=self.unfinished,
            stop=self.stop,
        )
        self.outcomes: list[Outcome] = []
        self.discarded = False

    def take(self, *numbers: int, partition: int = 0) -> None:
        """Take transactions in, as one batch of Bytewax's."""
        items = [
            Received(message._replace(partition=partition), transaction)
            for number in numbers
            for message, transaction in factories.batch(1, start=number)
        ]
        self._note(self.lane.on_batch(items))

    def turn(self) -> None:
        """Be woken up."""
        self._note(self.lane.on_notify())

    def until(self, condition: Callable[[], bool]) -> None:
        """Be woken up until something is so."""
        end = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end
            self.turn()

    def finish(self) -> float:
        """Come to the end; how long it took."""
        started = time.monotonic()
        self._note(self.lane.on_eof())
        return time.monotonic() - started

    def held(self) -> list[int]:
        """Offsets in a snapshot that is taken now."""
        return [Message(*fields).offset for fields in self.lane.snapshot()["messages"]]

    def offsets(self) -> list[int]:
        """Of what came out."""
        return sorted(outcome.message.offset for outcome in self.outcomes)

    def end(self) -> None:
        """Leave nothing behind."""
        self.loop.run(self._end())

    def _note(self, result: tuple[list[Outcome], bool]) -> None:
        outcomes, discard = result
        self.outcomes += outcomes
        self.discarded = self.discarded or discard

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.scorer.close()


@pytest.fixture
def make(model_api: ModelApi) -> Iterator[Callable[..., Worker]]:
    """Make a worker; it is ended after the test."""
    made: list[Worker] = []

    def worker(**given: Any) -> Worker:
        made.append(Worker(model_api, **given))
        return made[-1]

    yield worker
    for each in made:
        each.end()


Make = Callable[..., Worker]


def _state(*messages: Message, lane: str = KEY) -> dict[str, Any]:
    return {"version": 1, "lane": lane, "taken": 0, "messages": [tuple(it) for it in messages]}


def test_a_new_lane_is_awake_until_it_was_saved(make: Make) -> None:
    """Then it sleeps: an idle worker costs nothing."""
    worker = make()
    assert worker.lane.notify_at() is not None
    worker.turn()
    assert worker.lane.notify_at() is not None
    assert worker.held() == []
    assert worker.lane.notify_at() is None


def test_a_lane_is_awake_while_something_is_in_hand(make: Make, model_api: ModelApi) -> None:
    """Soon, and not in the past, where Bytewax would spin."""
    worker = make()
    worker.held()
    model_api.control(name="hang")
    worker.take(1)
    worker.held()
    at = worker.lane.notify_at()
    assert at is not None
    assert datetime.now(UTC) < at < datetime.now(UTC) + timedelta(seconds=1)


def test_a_lane_is_awake_while_sinks_have_work(make: Make) -> None:
    """They write on the same loop, which nothing else may run meanwhile."""
    worker = make()
    worker.held()
    assert worker.lane.notify_at() is None
    worker.loop.spawn(asyncio.sleep(NEVER))
    assert worker.lane.notify_at() is not None


def test_a_lane_is_awake_after_it_gave_something(make: Make) -> None:
    """Sinks begin to write it only after that."""
    worker = make()
    worker.held()
    worker.take(1)
    worker.until(lambda: bool(worker.outcomes))
    assert not worker.loop.busy
    assert worker.lane.notify_at() is not None
    worker.turn()
    assert worker.lane.notify_at() is None


def test_a_snapshot_has_what_is_in_flight_and_what_waits(make: Make, model_api: ModelApi) -> None:
    """And tells sources the lowest offset of each partition that is not done."""
    model_api.control(name="hang")
    worker = make(scoring_concurrency=1, batch_size=3)
    worker.take(7, 5, 6)
    worker.take(9)
    worker.take(4, partition=1)
    before = time.time()
    assert sorted(worker.held()) == [4, 5, 6, 7, 9]
    assert worker.unfinished.below("0-transactions", 100) == 5
    assert worker.unfinished.below("1-transactions", 100) == 4
    assert worker.unfinished.below("2-transactions", 100) == 100
    assert worker.lane.snapshot()["taken"] >= int(before * 1000)


def test_what_is_done_is_no_longer_in_the_snapshot(make: Make) -> None:
    """Then its position may be committed."""
    worker = make()
    worker.take(5)
    assert worker.held() == [5]
    worker.until(lambda: worker.offsets() == [5])
    assert worker.held() == []
    assert worker.unfinished.below("0-transactions", 100) == 100


def test_a_request_is_on_its_way_at_once(make: Make, model_api: ModelApi) -> None:
    """Not only when the loop is run the next time."""
    model_api.control(name="hang")
    before = REGISTRY.get_sample_value("fraud_model_requests_in_flight") or 0
    worker = make()
    worker.take(1)
    assert REGISTRY.get_sample_value("fraud_model_requests_in_flight") == before + 1
    worker.end()


def test_a_few_requests_keep_the_model_busy(make: Make, model_api: ModelApi) -> None:
    """Single transactions go at once; with so many in flight the next ones wait for each other."""
    model_api.control(name="hang")
    worker = make(batch_size=3)
    for number in range(PARTIAL_REQUESTS + 2):
        worker.take(number)
    worker.until(lambda: model_api.state()["requests"] >= PARTIAL_REQUESTS)
    worker.take(100)  # now a whole batch is waiting, which goes in any case
    worker.until(lambda: model_api.state()["requests"] > PARTIAL_REQUESTS)
    assert model_api.state()["elements"] == PARTIAL_REQUESTS + 3


def test_no_more_is_sent_than_the_limit_says(make: Make, model_api: ModelApi) -> None:
    """With SCORING_ADAPTIVE it begins low; the rest waits, and is in the snapshot."""
    model_api.control(name="hang")
    worker = make(scoring_adaptive=True, batch_size=2)
    worker.take(0, 1)
    worker.take(2, 3)
    worker.take(4)
    worker.until(lambda: model_api.state()["requests"] == FIRST)
    assert model_api.state()["elements"] == 2 * FIRST == 4
    assert worker.held() == [0, 1, 2, 3, 4]


def test_what_is_taken_in_is_bounded(make: Make, model_api: ModelApi) -> None:
    """With all slots taken and a whole batch waiting, `on_batch` waits for an answer."""
    model_api.control(name="hang")
    worker = make(scoring_concurrency=1, batch_size=2)
    worker.take(0, 1)
    worker.take(2)
    started = time.monotonic()
    timer = Timer(0.3, model_api.reset)
    timer.start()
    worker.take(3)
    assert time.monotonic() - started >= 0.3
    timer.join()


def test_a_stop_ends_the_waiting(make: Make, model_api: ModelApi) -> None:
    """Or the source would not be asked again, which is what ends."""
    model_api.control(name="hang")
    worker = make(scoring_concurrency=1, batch_size=2, ml_api_timeout=60)
    worker.take(0, 1)
    timer = Timer(0.3, worker.stop.request)
    timer.start()
    worker.take(2, 3)
    timer.join()
    assert worker.held() == [0, 1, 2, 3]


def test_an_end_finishes_what_is_in_hand(make: Make, model_api: ModelApi) -> None:
    """What is in flight and what waits, also when asked to stop, as long as there is time."""
    model_api.control(name="slow", delay_ms=200)
    worker = make(scoring_concurrency=1, batch_size=2, stop_timeout=60)
    worker.take(0, 1)
    worker.take(2)
    worker.stop.request()
    worker.finish()
    assert worker.offsets() == [0, 1, 2]


def test_an_end_closes_what_is_open(make: Make) -> None:
    """Connections, and the breaker, which is no worker's any more in the metrics."""

    def breakers() -> float:
        return REGISTRY.get_sample_value("fraud_model_breakers", {"state": "closed"}) or 0

    before = breakers()
    worker = make()
    worker.take(0)
    assert breakers() == before + 1
    worker.finish()
    assert breakers() == before


def test_an_end_takes_half_of_the_time_for_a_stop(make: Make, model_api: ModelApi) -> None:
    """The other half is for the sinks. What is left is in the snapshot, and nothing goes on."""
    model_api.control(name="hang")
    worker = make(stop_timeout=4, ml_api_timeout=60)
    worker.take(0)
    worker.stop.request()
    with capture_logs() as lines:
        assert 2 <= worker.finish() < 3.5
    assert [line["unfinished"] for line in lines if line["event"] == "score.interrupted"] == [1]
    assert worker.held() == [0]
    worker.loop.pump()
    assert not worker.loop.busy


def test_an_end_sends_at_once_what_waits(make: Make, model_api: ModelApi) -> None:
    """It has not got the time to wait for a full batch."""
    model_api.control(name="hang")
    worker = make(stop_timeout=2, ml_api_timeout=60)
    for number in range(PARTIAL_REQUESTS + 1):
        worker.take(number)
    worker.stop.request()
    worker.finish()
    assert model_api.state()["requests"] == PARTIAL_REQUESTS + 1


def test_an_end_does_not_wait_for_a_model_that_is_down(make: Make, model_api: ModelApi) -> None:
    """Nothing can come of it: what is in hand is in the snapshot."""
    model_api.control(name="outage")
    worker = make(stop_timeout=600)
    worker.take(0)
    worker.until(lambda: worker.scorer.paused)
    worker.stop.request()
    assert worker.finish() < 60
    assert worker.held() == [0]


def test_a_source_that_ends_waits_for_a_model_that_is_down(make: Make, model_api: ModelApi) -> None:
    """Nobody asked to stop: there is time."""
    model_api.control(name="outage")
    worker = make()
    worker.take(0)
    worker.until(lambda: worker.scorer.paused)
    Timer(0.3, model_api.reset).start()
    worker.finish()
    assert worker.offsets() == [0]


def test_a_restored_message_that_no_longer_passes_is_a_failure(make: Make) -> None:
    """The rules may be stricter than when it was read."""
    good, bad = factories.message(offset=1), factories.message(offset=2, value=b"{")
    worker = make(state=_state(good, bad))
    worker.until(lambda: worker.offsets() == [1, 2])
    [failure] = [outcome for outcome in worker.outcomes if isinstance(outcome, Failure)]
    assert (failure.message.offset, failure.stage) == (2, "decode")


def test_a_lane_of_others_ends_when_what_it_held_is_durable(
    make: Make, model_api: ModelApi
) -> None:
    """Not before a snapshot without it, or a crash would lose it."""
    model_api.control(name="hang")
    worker = make(state=_state(factories.message(offset=1), lane="another"))
    worker.turn()
    assert worker.held() == [1]
    worker.turn()
    model_api.reset()
    worker.until(lambda: worker.offsets() == [1])
    worker.turn()
    assert not worker.discarded
    assert worker.lane.notify_at() is not None
    assert worker.held() == []
    assert worker.lane.notify_at() is not None
    worker.turn()
    assert worker.discarded


def test_its_own_lane_stays(make: Make) -> None:
    """A row that was discarded would stay in the recovery directory for good."""
    worker = make(state=_state(factories.message(offset=1)))
    worker.until(lambda: worker.offsets() == [1])
    worker.held()
    worker.turn()
    assert not worker.discarded


def test_an_answer_that_stops_the_stream_ends_all_requests(make: Make, model_api: ModelApi) -> None:
    """It is in the log, which in a cluster is all that is seen, and nothing goes on."""
    worker = make(batch_size=1, ml_api_timeout=60)
    model_api.control(name="hang", requests=1)
    worker.take(0)
    worker.until(lambda: model_api.state()["requests"] == 1)
    model_api.control(name="status", code=403)

    def fail() -> None:
        worker.take(1)
        worker.until(lambda: False)

    with capture_logs() as lines, pytest.raises(ScoringError, match="ML_API_TOKEN"):
        fail()
    assert "score.stopped" in [line["event"] for line in lines]
    worker.loop.pump()
    assert not worker.loop.busy


def test_a_worker_without_anything_to_read_waits_for_answers(make: Make) -> None:
    """Else each step of a database transaction would wait for the next time it is woken up."""
    worker = make()

    async def steps() -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    task = worker.loop.spawn(steps())
    worker.turn()
    assert task.done()


def test_a_worker_that_reads_does_not_wait_for_answers(make: Make, model_api: ModelApi) -> None:
    """There is more to read, which would wait too."""
    model_api.control(name="hang")
    worker = make()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    worker.loop.spawn(count())
    worker.take(1)
    before = turns
    worker.turn()
    assert turns - before <= 2 * TURNS


@pytest.mark.parametrize("alone", [False, True])
def test_a_snapshot_says_that_all_workers_have_closed_the_epoch(
    make: Make,
    alone: bool,  # noqa: FBT001 - pytest's
) -> None:
    """Who had to wait for others closes its next epoch later; who is alone has not waited."""
    worker = make(alone=alone)
    worker.loop.pace.closed("0-transactions")
    worker.held()
    assert (worker.loop.pace._waited > 0) is not alone  # noqa: SLF001 - what it is told
