"""The circuit breaker, state by state."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from operators.model import breaker
from operators.model.breaker import Breaker, ServiceError


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(breaker, "LONGEST_PAUSE", 0.02)


def _breaker() -> Breaker:
    return Breaker("model", on_open=lambda: None)


async def _send(subject: Breaker, error: Exception | None = None) -> None:
    async with subject.request():
        if error is not None:
            raise error


async def _fail(subject: Breaker, *, after: float = 0.0) -> None:
    with pytest.raises(ServiceError):
        await _send(subject, ServiceError("status 503", after))


async def _send_on(*, fails: bool) -> None:
    if fails:
        msg = "status 503"
        raise ServiceError(msg)


def _state(subject: Breaker) -> str:
    return subject.state


async def _succeed(subject: Breaker) -> None:
    await _send(subject)


async def _trip(subject: Breaker) -> None:
    for _ in range(breaker.FAILURES):
        await _fail(subject)
    assert _state(subject) == "open"


def _run(work: Callable[[Breaker], Awaitable[None]]) -> None:
    async def run() -> None:
        subject = _breaker()
        try:
            async with asyncio.timeout(5):
                await work(subject)
        finally:
            subject.close()

    asyncio.run(run())


def test_it_opens_after_failures_in_a_row() -> None:
    """It is closed until the last failure of a row, and open from then on."""

    async def work(subject: Breaker) -> None:
        for _ in range(breaker.FAILURES - 1):
            await _fail(subject)
        assert _state(subject) == "closed"
        await _fail(subject)
        assert _state(subject) == "open"

    _run(work)


def test_a_success_ends_a_row() -> None:
    """Failures with a success between them are no row."""

    async def work(subject: Breaker) -> None:
        for _ in range(3):
            for _ in range(breaker.FAILURES - 1):
                await _fail(subject)
                assert _state(subject) == "closed"
            await _succeed(subject)

    _run(work)


def test_an_answer_that_refuses_is_neither() -> None:
    """Another exception than the service's own is no failure, and ends no row of failures."""

    async def work(subject: Breaker) -> None:
        for _ in range(breaker.FAILURES - 1):
            await _fail(subject)
        with pytest.raises(ValueError, match="refused"):
            await _send(subject, ValueError("refused"))
        assert _state(subject) == "closed"
        await _fail(subject)
        assert _state(subject) == "open"

    _run(work)


def test_a_probe_that_is_refused_shows_that_the_service_is_back() -> None:
    """An answer, whatever it says, closes an open breaker."""

    async def work(subject: Breaker) -> None:
        await _trip(subject)
        with pytest.raises(ValueError, match="refused"):
            await _send(subject, ValueError("refused"))
        assert _state(subject) == "closed"

    _run(work)


async def _until_the_pause_is_over(subject: Breaker) -> None:
    while not subject._due:  # noqa: ASYNC110, SLF001 - a timer of the subject's own, unseen
        await asyncio.sleep(0.001)


def test_after_a_pause_without_requests_the_next_one_is_the_probe() -> None:
    """It goes at once, and it alone."""

    async def work(subject: Breaker) -> None:
        await _trip(subject)
        await _until_the_pause_is_over(subject)
        async with subject.request():
            assert _state(subject) == "half-open"
            second = asyncio.create_task(_succeed(subject))
            await asyncio.wait([second], timeout=0.05)
            assert not second.done()
        await second
        assert _state(subject) == "closed"

    _run(work)


@pytest.mark.parametrize("over", [False, True], ids=["during the pause", "after it"])
def test_a_late_success_leaves_nothing_of_the_pause(
    monkeypatch: pytest.MonkeyPatch,
    over: bool,  # noqa: FBT001 - pytest's
) -> None:
    """When it opens again no request goes before that pause is over."""

    async def work(subject: Breaker) -> None:
        async with subject.request():
            await _trip(subject)
            if over:
                await _until_the_pause_is_over(subject)
        monkeypatch.setattr(breaker, "FIRST_PAUSE", 60.0)
        monkeypatch.setattr(breaker, "LONGEST_PAUSE", 60.0)
        await _trip(subject)
        early = asyncio.create_task(_succeed(subject))
        await asyncio.wait([early], timeout=0.1)  # longer than the first pause was
        assert not early.done()
        early.cancel()

    _run(work)


def test_an_outage_that_is_over_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """After it closes, a whole row of failures opens it again, and the first pause is short."""
    monkeypatch.setattr(breaker, "LONGEST_PAUSE", 60.0)

    async def work(subject: Breaker) -> None:
        await _trip(subject)
        await _fail(subject)
        with pytest.raises(ValueError, match="refused"):
            await _send(subject, ValueError("refused"))
        with capture_logs() as lines:
            await _trip(subject)
        assert [line["pause"] <= breaker.FIRST_PAUSE for line in lines] == [True]

    _run(work)


def test_pauses_grow_up_to_a_limit_and_no_two_workers_are_in_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each is twice as long as the one before, less up to half of it by chance."""
    monkeypatch.setattr(breaker, "LONGEST_PAUSE", 0.08)
    asked: list[tuple[float, float]] = []

    def most(low: float, high: float) -> float:
        asked.append((low, high))
        return high

    monkeypatch.setattr(random, "uniform", most)

    async def work(subject: Breaker) -> None:
        await _trip(subject)
        for _ in range(4):
            await _fail(subject)

    with capture_logs() as lines:
        _run(work)
    pauses = [line["pause"] for line in lines if line["event"] == "breaker.open"]
    assert pauses == [0.02, 0.04, 0.08, 0.08, 0.08]
    assert set(asked) == {(0.5, 1)}


def test_one_request_goes_when_the_pause_is_over() -> None:
    """While it is open requests wait; then one goes, and the others wait for its result."""

    async def work(subject: Breaker) -> None:
        await _trip(subject)
        inside = 0
        release = asyncio.Event()

        async def request() -> None:
            nonlocal inside
            async with subject.request():
                inside += 1
                await release.wait()

        tasks = [asyncio.create_task(request()) for _ in range(5)]
        await asyncio.wait(tasks, timeout=0.2)
        assert (inside, _state(subject)) == (1, "half-open")
        release.set()
        await asyncio.gather(*tasks)
        assert (inside, _state(subject)) == (5, "closed")

    _run(work)


def test_it_opens_again_when_the_probe_fails() -> None:
    """A failed probe is followed by another pause, and another request is the next probe."""

    async def work(subject: Breaker) -> None:
        await _trip(subject)
        order: list[str] = []

        async def request(name: str) -> None:
            for _ in range(2):
                with suppress(ServiceError):
                    async with subject.request():
                        order.append(name)
                        await _send_on(fails=len(order) < 3)
                        return

        await asyncio.gather(request("a"), request("b"))
        assert order[:3] == ["a", "b", "a"]

    _run(work)


def test_the_service_may_ask_for_a_longer_pause() -> None:
    """A pause is at least as long as the failure that begins it asks for."""

    async def work(subject: Breaker) -> None:
        for _ in range(breaker.FAILURES - 1):
            await _fail(subject)
        loop = asyncio.get_running_loop()
        started = loop.time()
        await _fail(subject, after=0.3)
        await _succeed(subject)
        assert loop.time() - started >= 0.3

    _run(work)


def test_after_an_outage_requests_come_back_by_and_by() -> None:
    """Each success lets two go: neither the whole backlog at once, nor one by one."""

    async def work(subject: Breaker) -> None:
        await _trip(subject)
        inside: list[asyncio.Event] = []

        async def request() -> None:
            async with subject.request():
                release = asyncio.Event()
                inside.append(release)
                await release.wait()

        tasks = [asyncio.create_task(request()) for _ in range(20)]
        for answered in range(20):
            expected = min(1 + 2 * answered, 20)
            while len(inside) < expected:  # noqa: ASYNC110 - whoever goes tells nobody
                await asyncio.sleep(0.001)
            assert len(inside) == expected
            inside[answered].set()
        await asyncio.gather(*tasks)

    _run(work)


def test_a_failure_after_an_outage_leaves_nobody_waiting() -> None:
    """Who fails as the service comes back hands the turn on; else the rest would wait for ever."""

    async def work(subject: Breaker) -> None:
        await _trip(subject)
        probe = asyncio.create_task(_succeed(subject))
        failing = [asyncio.create_task(_fail(subject)) for _ in range(2)]
        last = asyncio.create_task(_succeed(subject))
        await asyncio.gather(probe, *failing, last)
        assert _state(subject) == "closed"

    _run(work)


def _metric(*states: str) -> float:
    return sum(
        REGISTRY.get_sample_value("fraud_model_breakers", {"state": state}) or 0 for state in states
    )


def test_the_metric_says_that_it_is_open() -> None:
    """One while the service is down, none before and after, nor when its worker has ended."""

    async def work(subject: Breaker) -> None:
        assert _metric("open", "half-open") == 0
        await _trip(subject)
        assert _metric("open", "half-open") == 1
        await _succeed(subject)
        assert _metric("open", "half-open") == 0
        await _trip(subject)

    before = _metric("closed")
    _run(work)
    assert _metric("open", "half-open") == 0
    assert _metric("closed") == before


def test_an_end_is_the_end() -> None:
    """No request goes after it, and it is counted once, however often it is asked for."""

    async def work(subject: Breaker) -> None:
        before = _metric("closed")
        await _trip(subject)
        waiting = asyncio.create_task(_succeed(subject))
        await asyncio.sleep(0)
        subject.close()
        subject.close()
        await asyncio.wait([waiting], timeout=0.1)  # longer than the pause
        assert not waiting.done()
        assert (_metric("closed"), _metric("half-open")) == (before - 1, 0)
        waiting.cancel()

    _run(work)


def test_a_late_success_closes_it() -> None:
    """A request that was sent before it opened, and succeeds, shows that the service is back."""

    async def work(subject: Breaker) -> None:
        async with subject.request():
            await _trip(subject)
        assert _state(subject) == "closed"

    _run(work)


def test_a_cancelled_probe_hands_its_turn_on() -> None:
    """If the probe is cancelled, the next request is the probe."""

    async def work(subject: Breaker) -> None:
        await _trip(subject)

        async def request() -> None:
            async with subject.request():
                await asyncio.Event().wait()

        async def next_request() -> None:
            async with subject.request():
                assert _state(subject) == "half-open"

        probe = asyncio.create_task(request())
        other = asyncio.create_task(next_request())
        while _state(subject) != "half-open":  # noqa: ASYNC110 - a timer of the subject's own
            await asyncio.sleep(0.001)
        probe.cancel()
        await other
        assert _state(subject) == "closed"

    _run(work)


def test_who_is_cancelled_while_waiting_is_passed_over() -> None:
    """The probe is the first that still waits."""

    async def work(subject: Breaker) -> None:
        await _trip(subject)
        gone, other = [asyncio.create_task(_succeed(subject)) for _ in range(2)]
        await asyncio.sleep(0)
        gone.cancel()
        await other
        assert gone.cancelled()

    _run(work)


def test_who_is_cancelled_as_the_service_comes_back_hands_the_turn_on() -> None:
    """Two are let go by the probe's success; if they are cancelled, the rest must not wait."""

    async def work(subject: Breaker) -> None:
        await _trip(subject)

        async def probe() -> None:
            await _succeed(subject)
            for task in let_go:
                task.cancel()

        first = asyncio.create_task(probe())
        await asyncio.sleep(0)
        let_go = [asyncio.create_task(_succeed(subject)) for _ in range(2)]
        last = asyncio.create_task(_succeed(subject))
        await asyncio.gather(first, last)
        assert all(task.cancelled() for task in let_go)

    _run(work)


def test_who_does_not_want_to_wait_is_only_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without waiting, requests go while it is open, and a success among them closes it."""
    monkeypatch.setattr(breaker, "FIRST_PAUSE", 60.0)
    monkeypatch.setattr(breaker, "LONGEST_PAUSE", 60.0)

    async def work(subject: Breaker) -> None:
        for _ in range(2 * breaker.FAILURES):
            with suppress(ServiceError):
                async with subject.request(wait=False):
                    await _send_on(fails=True)
        assert _state(subject) == "open"
        async with subject.request(wait=False):
            pass
        assert _state(subject) == "closed"

    _run(work)


def test_who_opens_is_told() -> None:
    """`on_open` is called each time that it opens."""
    opened = 0

    def count() -> None:
        nonlocal opened
        opened += 1

    async def run() -> None:
        subject = Breaker("model", on_open=count)
        await _trip(subject)
        subject.close()

    asyncio.run(run())
    assert opened == 1
