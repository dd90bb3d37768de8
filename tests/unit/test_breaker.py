"""The circuit breaker, state by state."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from prometheus_client import REGISTRY

from operators import breaker
from operators.breaker import Breaker, ServiceError


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
            await _succeed(subject)
        assert _state(subject) == "closed"

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
    """A success lets two go, not the whole backlog at once."""

    async def work(subject: Breaker) -> None:
        await _trip(subject)
        inside: list[asyncio.Event] = []

        async def request() -> None:
            async with subject.request():
                release = asyncio.Event()
                inside.append(release)
                await release.wait()

        tasks = [asyncio.create_task(request()) for _ in range(20)]
        expected = 1
        while not all(task.done() for task in tasks):
            await asyncio.wait(tasks, timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
            assert len(inside) <= expected
            going = [release for release in inside if not release.is_set()]
            going[0].set()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            expected += 2
        assert len(inside) == 20

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


def test_the_metric_says_that_it_is_open() -> None:
    """One while the service is down, none before and after, nor when its worker has ended."""

    def metric() -> float:
        return sum(
            REGISTRY.get_sample_value("fraud_model_breakers", {"state": state}) or 0
            for state in ("open", "half-open")
        )

    async def work(subject: Breaker) -> None:
        assert metric() == 0
        await _trip(subject)
        assert metric() == 1
        await _succeed(subject)
        assert metric() == 0
        await _trip(subject)

    _run(work)
    assert metric() == 0


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

        probe = asyncio.create_task(request())
        other = asyncio.create_task(_succeed(subject))
        while _state(subject) != "half-open":  # noqa: ASYNC110 - a timer of the subject's own
            await asyncio.sleep(0.001)
        probe.cancel()
        await other
        assert _state(subject) == "closed"

    _run(work)


def test_who_does_not_want_to_wait_is_only_counted() -> None:
    """Without waiting, requests go while it is open, and a success among them closes it."""

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
