"""The circuit breaker, state by state."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from operators.backoff import Backoff
from operators.model.breaker import FAILURES, Breaker
from operators.model.errors import UnavailableError

Work = Callable[[Breaker], Awaitable[None]]

SHORT = Backoff(first=0.01, longest=0.01)
LONG = Backoff(first=3_600, longest=3_600, least=1)


@dataclass(frozen=True, kw_only=True)
class Pauses(Backoff):
    """Those that a test wants, in turn; the last one from then on."""

    seconds: tuple[float, ...]
    first: float = 0
    longest: float = 0

    def pause(self, attempt: int) -> float:
        """Return the one of this attempt."""
        return self.seconds[min(attempt, len(self.seconds)) - 1]


async def _send(subject: Breaker, error: Exception | None = None, *, wait: bool = True) -> None:
    async with subject.request(wait=wait):
        if error is not None:
            raise error


async def _fail(subject: Breaker, *, after: float = 0.0, wait: bool = True) -> None:
    with pytest.raises(UnavailableError):
        await _send(subject, UnavailableError("status 503", after, kind="status"), wait=wait)


async def _be_refused(subject: Breaker) -> None:
    with pytest.raises(ValueError, match="refused"):
        await _send(subject, ValueError("refused"))


async def _trip(subject: Breaker) -> None:
    for _ in range(FAILURES):
        await _fail(subject)
    assert _state(subject) == "open"


def _state(subject: Breaker) -> str:
    return subject.state


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - a timer of the subject's own
        await asyncio.sleep(0.001)


async def _wait_in_vain(subject: Breaker) -> None:
    """Send a request that does not go, not even after the short pauses of these tests."""
    early = asyncio.create_task(_send(subject))
    await asyncio.sleep(5 * SHORT.longest)
    assert not early.done()
    early.cancel()


async def _turns() -> None:
    """Let everything run that waits for no timer."""
    for _ in range(10):
        await asyncio.sleep(0)


def _run(work: Work, backoff: Backoff = SHORT) -> None:
    async def run() -> None:
        subject = Breaker("model", on_open=lambda: None, backoff=backoff)
        try:
            async with asyncio.timeout(60):
                await work(subject)
        finally:
            subject.close()

    asyncio.run(run())


def _with_pauses(backoff: Backoff) -> Callable[[Work], Callable[[], None]]:
    """Run a test with a breaker of its own."""

    def decorate(work: Work) -> Callable[[], None]:
        def test() -> None:
            _run(work, backoff)

        test.__doc__ = work.__doc__
        return test

    return decorate


@_with_pauses(SHORT)
async def test_it_opens_after_failures_in_a_row(subject: Breaker) -> None:
    """A success between failures ends a row of them."""
    for _ in range(2):
        for _ in range(FAILURES - 1):
            await _fail(subject)
            assert _state(subject) == "closed"
        await _send(subject)
    await _trip(subject)


@_with_pauses(SHORT)
async def test_a_refusal_ends_no_row_of_failures(subject: Breaker) -> None:
    """Another exception than the service's own is no failure either."""
    for _ in range(FAILURES - 1):
        await _fail(subject)
    await _be_refused(subject)
    assert _state(subject) == "closed"
    await _fail(subject)
    assert _state(subject) == "open"


@_with_pauses(SHORT)
async def test_a_probe_that_is_refused_shows_that_the_service_is_back(subject: Breaker) -> None:
    """An answer, whatever it says, closes an open breaker."""
    await _trip(subject)
    await _be_refused(subject)
    assert _state(subject) == "closed"


@_with_pauses(LONG)
async def test_a_late_success_closes_it(subject: Breaker) -> None:
    """A request that was sent before it opened, and succeeds, shows that the service is back."""
    async with subject.request():
        await _trip(subject)
    assert _state(subject) == "closed"


@pytest.mark.parametrize("over", [False, True], ids=["during the pause", "after it"])
def test_a_late_success_leaves_nothing_of_the_pause(over: bool) -> None:  # noqa: FBT001 - pytest's
    """When it opens again no request goes before that pause is over."""

    async def work(subject: Breaker) -> None:
        async with subject.request():
            await _trip(subject)
            if over:
                await _until(lambda: subject._due)  # noqa: SLF001 - unseen from outside
        subject._backoff = LONG  # noqa: SLF001 - the pause of the first outage is a short one
        await _trip(subject)
        await _wait_in_vain(subject)

    _run(work)


@_with_pauses(SHORT)
async def test_after_a_pause_without_requests_the_next_one_is_the_probe(subject: Breaker) -> None:
    """It goes at once, and it alone."""
    await _trip(subject)
    await _until(lambda: subject._due)  # noqa: SLF001 - unseen from outside
    async with subject.request():
        assert _state(subject) == "half-open"
        second = asyncio.create_task(_send(subject))
        await _turns()
        assert not second.done()
    await second
    assert _state(subject) == "closed"


@_with_pauses(SHORT)
async def test_one_request_goes_when_the_pause_is_over(subject: Breaker) -> None:
    """While it is open requests wait; then one goes, and the others wait for its result."""
    await _trip(subject)
    inside = 0
    release = asyncio.Event()

    async def request() -> None:
        nonlocal inside
        async with subject.request():
            inside += 1
            await release.wait()

    tasks = [asyncio.create_task(request()) for _ in range(5)]
    await _until(lambda: inside > 0)
    await asyncio.sleep(5 * SHORT.longest)
    assert (inside, _state(subject)) == (1, "half-open")
    release.set()
    await asyncio.gather(*tasks)
    assert (inside, _state(subject)) == (5, "closed")


@_with_pauses(SHORT)
async def test_it_opens_again_when_the_probe_fails(subject: Breaker) -> None:
    """A failed probe is followed by another pause, and another request is the next probe."""
    await _trip(subject)
    order: list[str] = []

    async def request(name: str) -> None:
        for _ in range(2):
            with suppress(UnavailableError):
                async with subject.request():
                    order.append(name)
                    if len(order) < 3:
                        raise UnavailableError(name, kind="status")
                    return

    await asyncio.gather(request("a"), request("b"))
    assert order[:3] == ["a", "b", "a"]


def _pauses(lines: Sequence[Mapping[str, Any]]) -> list[float]:
    return [line["pause"] for line in lines if line["event"] == "breaker.open"]


def test_each_pause_of_an_outage_is_another() -> None:
    """After it, a whole row of failures opens it again, and the first pause is a first one."""

    async def work(subject: Breaker) -> None:
        await _trip(subject)
        for _ in range(2):
            await _fail(subject)
        await _be_refused(subject)
        await _trip(subject)

    with capture_logs() as lines:
        _run(work, Pauses(seconds=(0.01, 0.02, 0.03)))
    assert _pauses(lines) == [0.01, 0.02, 0.03, 0.01]


@pytest.mark.parametrize(("after", "expected"), [(0.03, 0.03), (0.001, 0.02)])
def test_the_service_may_ask_for_a_longer_pause(after: float, expected: float) -> None:
    """A pause is at least as long as the failure that begins it asks for."""

    async def work(subject: Breaker) -> None:
        for _ in range(FAILURES - 1):
            await _fail(subject)
        await _fail(subject, after=after)

    with capture_logs() as lines:
        _run(work, Pauses(seconds=(0.02,)))
    assert _pauses(lines) == [expected]


@_with_pauses(SHORT)
async def test_the_service_is_left_alone_for_as_long_as_it_asks(subject: Breaker) -> None:
    """Whatever the pauses of its own."""
    for _ in range(FAILURES - 1):
        await _fail(subject)
    await _fail(subject, after=3_600)
    await _wait_in_vain(subject)


@_with_pauses(SHORT)
async def test_after_an_outage_requests_come_back_by_and_by(subject: Breaker) -> None:
    """Each success lets two go: neither the whole backlog at once, nor one by one."""
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
        await _until(lambda expected=expected: len(inside) >= expected)  # type: ignore[misc]
        await _turns()
        assert len(inside) == expected
        inside[answered].set()
    await asyncio.gather(*tasks)


@_with_pauses(SHORT)
async def test_a_failure_after_an_outage_leaves_nobody_waiting(subject: Breaker) -> None:
    """Who fails as the service comes back hands the turn on; else the rest would wait for ever."""
    await _trip(subject)
    probe = asyncio.create_task(_send(subject))
    failing = [asyncio.create_task(_fail(subject)) for _ in range(2)]
    last = asyncio.create_task(_send(subject))
    await asyncio.gather(probe, *failing, last)
    assert _state(subject) == "closed"


@_with_pauses(SHORT)
async def test_a_cancelled_probe_hands_its_turn_on(subject: Breaker) -> None:
    """If the probe is cancelled, the next request is the probe."""
    await _trip(subject)

    async def request() -> None:
        async with subject.request():
            await asyncio.Event().wait()

    async def next_request() -> None:
        async with subject.request():
            assert _state(subject) == "half-open"

    probe = asyncio.create_task(request())
    other = asyncio.create_task(next_request())
    await _until(lambda: _state(subject) == "half-open")
    probe.cancel()
    await other
    assert _state(subject) == "closed"


@_with_pauses(SHORT)
async def test_who_is_cancelled_while_waiting_is_passed_over(subject: Breaker) -> None:
    """The probe is the first that still waits."""
    await _trip(subject)
    gone, other = [asyncio.create_task(_send(subject)) for _ in range(2)]
    await asyncio.sleep(0)
    gone.cancel()
    await other
    assert gone.cancelled()


@_with_pauses(SHORT)
async def test_who_is_cancelled_as_the_service_comes_back_hands_the_turn_on(
    subject: Breaker,
) -> None:
    """Two are let go by the probe's success; if they are cancelled, the rest must not wait."""
    await _trip(subject)

    async def probe() -> None:
        await _send(subject)
        for task in let_go:
            task.cancel()

    first = asyncio.create_task(probe())
    await asyncio.sleep(0)
    let_go = [asyncio.create_task(_send(subject)) for _ in range(2)]
    last = asyncio.create_task(_send(subject))
    await asyncio.gather(first, last)
    assert all(task.cancelled() for task in let_go)


@_with_pauses(LONG)
async def test_who_does_not_want_to_wait_is_only_counted(subject: Breaker) -> None:
    """Without waiting, requests go while it is open, and a success among them closes it."""
    for _ in range(2 * FAILURES):
        await _fail(subject, wait=False)
    assert _state(subject) == "open"
    await _send(subject, wait=False)
    assert _state(subject) == "closed"


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
        await _send(subject)
        assert _metric("open", "half-open") == 0
        await _trip(subject)

    before = _metric("closed")
    _run(work)
    assert _metric("open", "half-open") == 0
    assert _metric("closed") == before


@_with_pauses(SHORT)
async def test_an_end_is_the_end(subject: Breaker) -> None:
    """No request goes after it, and it is counted once, however often it is asked for."""
    before = _metric("closed")
    await _trip(subject)
    waiting = asyncio.create_task(_send(subject))
    await asyncio.sleep(0)
    subject.close()
    subject.close()
    await asyncio.sleep(5 * SHORT.longest)
    assert not waiting.done()
    assert (_metric("closed"), _metric("half-open")) == (before - 1, 0)
    waiting.cancel()


def test_who_opens_is_told() -> None:
    """`on_open` is called each time that it opens."""
    opened = 0

    def count() -> None:
        nonlocal opened
        opened += 1

    async def run() -> None:
        subject = Breaker("model", on_open=count, backoff=SHORT, failures=2)
        for expected in (0, 1, 2):
            await _fail(subject)
            assert opened == expected
        subject.close()

    asyncio.run(run())
