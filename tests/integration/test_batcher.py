"""The scoring of one worker, callback by callback as Bytewax makes them."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from threading import Timer
from typing import Any

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from lab.servers import ModelApi, wait_until
from operators.engine.epochs import EpochPacer
from operators.engine.loop import TURNS, EventLoop
from operators.engine.shutdown import Stop
from operators.errors import BugError, ScoringError
from operators.model.batcher import AsyncBatcher, Outcomes
from operators.model.limiter import FIRST, PARTIAL_REQUESTS
from operators.model.scorer import Outcome, Scorer
from operators.records import Failure, Received
from tests.kit import factories
from tests.kit.serving import QUICK

NEVER = 3_600.0
LONG = timedelta(seconds=30)


class Worker:
    """A batcher and what it shares with the rest of its worker."""

    def __init__(self, model_api: ModelApi, *, alone: bool = True, **overrides: Any) -> None:
        given = {"ml_api_url": model_api.url, "scoring_adaptive": False} | overrides
        settings = factories.settings(**given)
        self.loop, self.pacer = EventLoop(), EpochPacer()
        self.stop = Stop(settings.stop_timeout)
        self.scorer = Scorer(settings, **QUICK)
        self.batcher = AsyncBatcher(
            scorer=self.scorer,
            loop=self.loop,
            pacer=None if alone else self.pacer,
            batch_size=settings.batch_size,
            stop=self.stop,
        )
        self.lists: list[Outcomes] = []

    def take(self, *numbers: int) -> None:
        """Take transactions in, as one list of Bytewax's."""
        items: list[Received] = []
        for number in numbers:
            items += factories.batch(1, start=number, poison=[13])
        self._note(self.batcher.on_batch([items]))

    def give_until_it_fails(self, item: Received) -> None:
        """Take one in, and be woken up for ever."""
        self._note(self.batcher.on_batch([[item]]))
        self.until(lambda: False)

    def turn(self) -> None:
        """Be woken up."""
        self._note(self.batcher.on_notify())

    def until(self, condition: Callable[[], object]) -> None:
        """Be woken up until something is so."""

        def is_so() -> object:
            self.turn()
            return condition()

        wait_until(is_so, LONG)

    def finish(self) -> None:
        """Come to the end."""
        self._note(self.batcher.on_eof())

    @property
    def outcomes(self) -> list[Outcome]:
        """All that came out."""
        return [outcome for outcomes in self.lists for outcome in outcomes]

    def offsets(self) -> list[int]:
        """Of what came out."""
        return sorted(outcome.message.offset for outcome in self.outcomes)

    def end(self) -> None:
        """Leave nothing behind."""
        self.loop.run(self._end())

    def _note(self, result: tuple[list[Outcomes], bool]) -> None:
        lists, is_over = result
        self.lists += lists
        assert not is_over

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


def test_it_sleeps_while_nothing_is_going_on(make: Make) -> None:
    """An idle worker costs nothing."""
    worker = make()
    assert worker.batcher.notify_at() is None
    worker.take(1)
    worker.until(lambda: worker.offsets() == [1])
    worker.turn()
    assert worker.batcher.notify_at() is None


def test_it_is_awake_while_something_is_in_flight(make: Make, model_api: ModelApi) -> None:
    """Soon, and not in the past, where Bytewax would spin."""
    model_api.control(name="hang")
    worker = make()
    before = datetime.now(UTC)
    worker.take(1)
    at = worker.batcher.notify_at()
    assert at is not None
    assert at > before


def test_it_is_awake_while_sinks_have_work(make: Make) -> None:
    """They write on the same loop, which nothing else may run meanwhile."""
    worker = make()
    worker.take(1)
    worker.until(lambda: worker.offsets() == [1])
    worker.turn()
    assert worker.batcher.notify_at() is None
    worker.loop.spawn(asyncio.sleep(NEVER))
    assert worker.batcher.notify_at() is not None


def test_a_key_of_a_former_number_of_workers_sleeps(make: Make) -> None:
    """Bytewax builds its state again, though nothing comes for it: two would pump the loop."""
    worker = make()
    worker.loop.spawn(asyncio.sleep(NEVER))
    assert worker.batcher.notify_at() is None


def test_it_is_awake_after_it_gave_something(make: Make) -> None:
    """Sinks begin to write it only after that."""
    worker = make()
    worker.take(1)
    worker.until(lambda: worker.outcomes)
    worker.loop.run_until(lambda: not worker.loop.is_busy)
    assert worker.batcher.notify_at() is not None


def test_what_is_given_is_of_one_kind_and_never_empty(make: Make, model_api: ModelApi) -> None:
    """A list of what was scored, and one of what was refused."""
    model_api.control(name="poison", code=422)
    worker = make()
    worker.take(*range(30))
    worker.until(lambda: len(worker.outcomes) == 30)
    kinds = [{type(outcome) for outcome in outcomes} for outcomes in worker.lists]
    assert {len(kind) for kind in kinds} == {1}
    [failure] = [outcome for outcome in worker.outcomes if isinstance(outcome, Failure)]
    assert failure.message.offset == 13


def test_nothing_is_saved(make: Make, model_api: ModelApi) -> None:
    """What is in flight will be read again, and the snapshot does not wait for it."""
    model_api.control(name="hang")
    worker = make(scoring_concurrency=1, batch_size=3)
    worker.take(*range(10))
    assert worker.batcher.snapshot() is None  # type: ignore[func-returns-value]
    assert worker.outcomes == []


def test_nothing_blocks_however_much_comes(make: Make, model_api: ModelApi) -> None:
    """The source bounds what is in hand, this step does not."""
    model_api.control(name="hang")
    worker = make(scoring_concurrency=1, batch_size=2)
    worker.take(*range(50))
    worker.take(*range(50, 100))
    model_api.reset()
    worker.until(lambda: worker.offsets() == list(range(100)))


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
    """With SCORING_ADAPTIVE it begins low; the rest waits."""
    model_api.control(name="hang")
    worker = make(scoring_adaptive=True, batch_size=2)
    worker.take(0, 1)
    worker.take(2, 3)
    worker.take(4)
    worker.until(lambda: model_api.state()["requests"] == FIRST)
    assert model_api.state()["elements"] == 2 * FIRST == 4


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


def test_an_end_leaves_what_takes_too_long(make: Make, model_api: ModelApi) -> None:
    """To the next run, and nothing goes on."""
    model_api.control(name="hang")
    worker = make(stop_timeout=0.5, ml_api_timeout=60, batch_size=2)
    worker.take(0, 1, 2)
    worker.stop.request()
    worker.finish()
    assert worker.outcomes == []
    worker.loop.pump()
    assert not worker.loop.is_busy


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
    """Nothing can come of it, however much time there is."""
    model_api.control(name="outage")
    worker = make(stop_timeout=NEVER)
    worker.take(0)
    worker.until(lambda: worker.scorer.paused)
    worker.stop.request()
    worker.finish()
    assert worker.outcomes == []


def test_a_source_that_ends_waits_for_a_model_that_is_down(make: Make, model_api: ModelApi) -> None:
    """Nobody asked to stop: there is time."""
    model_api.control(name="outage")
    worker = make()
    worker.take(0)
    worker.until(lambda: worker.scorer.paused)
    Timer(0.3, model_api.reset).start()
    worker.finish()
    assert worker.offsets() == [0]


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
    assert not worker.loop.is_busy


def test_a_bug_in_scoring_is_told_with_the_batch(make: Make) -> None:
    """Where it begins, and no value of it."""
    worker = make()
    item = factories.received(of=factories.message(offset=7), amount="no number")
    with pytest.raises(BugError, match=r"offset 7: scoring 1 .* with ValueError") as told:
        worker.give_until_it_fails(item)
    assert "no number" not in str(told.value)


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


def test_a_snapshot_says_that_all_workers_have_closed_the_epoch(make: Make) -> None:
    """Who had to wait for others closes its next epoch later; who is alone has not waited."""
    for alone in (False, True):
        worker = make(alone=alone)
        worker.pacer.closed()
        worker.batcher.snapshot()
        assert (worker.pacer._waited > 0) is not alone  # noqa: SLF001 - what it is told
