"""The adaptive limit of requests in flight."""

import random

import pytest

from operators.model.limiter import FIRST, PARTIAL_REQUESTS, WINDOW, Limiter

MOST = 16


def _serve(subject: Limiter, *, capacity: int, windows: int, tail: float = 0.0) -> list[int]:
    """Full load against a server that answers `capacity` requests at a time in 20 ms.

    :returns: The limit after each window.

    """
    rng = random.Random(1)  # noqa: S311 - a seeded tail
    limits = []
    for _ in range(windows):
        for _ in range(max(WINDOW, subject.limit)):
            seconds = 0.02 * max(1.0, subject.limit / capacity)
            slow = rng.random() < tail
            subject.succeeded(seconds * (50 if slow else 1), in_flight=subject.limit, full=True)
        limits.append(subject.limit)
    return limits


def _grown() -> Limiter:
    subject = Limiter(MOST, adaptive=True)
    _serve(subject, capacity=MOST, windows=10)
    assert subject.limit == MOST
    return subject


def _small(subject: Limiter, number: int = 500, *, seconds: float = 0.02, below: int = 0) -> int:
    """Answer small batches that meet the limit, or stay below it."""
    for _ in range(number):
        subject.succeeded(seconds, in_flight=subject.limit - below, full=False)
    return subject.limit


def test_it_doubles_while_there_is_no_sign_of_a_limit() -> None:
    """A server that carries all requests gets as many as are allowed, within a few windows."""
    limits = _serve(Limiter(100, adaptive=True), capacity=100, windows=8)
    assert limits == [4, 8, 16, 32, 64, 100, 100, 100]


def test_a_latency_that_is_too_high_takes_the_last_doubling_back() -> None:
    """From then on it grows by one."""
    # At 16 an answer takes more than three times as long as at 2.
    limits = _serve(Limiter(64, adaptive=True), capacity=5, windows=7)
    assert limits == [4, 8, 16, 8, 9, 10, 11]


def test_a_refusal_ends_the_doubling() -> None:
    """From then on it grows by one."""
    subject = Limiter(64, adaptive=True)
    _serve(subject, capacity=64, windows=3)
    subject.overloaded()
    assert _serve(subject, capacity=64, windows=3) == [9, 10, 11]


def test_it_settles_where_requests_begin_to_queue() -> None:
    """A server that carries four at a time gets a few times four, not sixty-four."""
    limits = _serve(Limiter(64, adaptive=True), capacity=4, windows=200)
    assert 4 <= min(limits[50:]) <= max(limits) <= 16


def test_a_server_that_staggers_is_spared() -> None:
    """When the server carries less than before, the limit comes down, a tenth a window."""
    subject = Limiter(MOST, adaptive=True)
    _serve(subject, capacity=MOST, windows=2)
    subject.overloaded()  # the doubling is over
    _serve(subject, capacity=MOST, windows=30)
    limits = _serve(subject, capacity=2, windows=20)
    assert limits[0] == int(MOST * 0.9)
    assert set(limits[-10:]) == {6, 7}  # where answers take three times the baseline


def test_a_server_that_scales_up_is_used() -> None:
    """When the server carries more than before, the limit follows."""
    subject = Limiter(64, adaptive=True)
    before = _serve(subject, capacity=4, windows=60)[-1]
    after = _serve(subject, capacity=32, windows=100)[-1]
    assert after > 2 * before


def test_a_slow_tail_is_no_overload() -> None:
    """One request in a hundred that takes fifty times as long does not lower the limit."""
    assert min(_serve(_grown(), capacity=MOST, windows=100, tail=0.01)) == MOST


def test_a_server_that_became_slower_for_good_is_not_starved() -> None:
    """When latency is higher whatever the limit, the limit comes back."""
    subject = _grown()
    for _ in range(2_000):
        subject.succeeded(0.2, in_flight=subject.limit, full=True)
    assert subject.limit == MOST


def test_a_refusal_halves_it_once_for_a_round_trip() -> None:
    """Refusals that come together count once; a later one counts again; one is the least."""
    now = 100.0
    subject = Limiter(MOST, adaptive=True, clock=lambda: now)
    _serve(subject, capacity=MOST, windows=10)
    for _ in range(5):
        subject.overloaded()
    assert subject.limit == MOST // 2
    for _ in range(10):
        now += 1
        subject.overloaded()
    assert subject.limit == 1


def test_it_begins_again_after_an_outage() -> None:
    """Low, and by doubling, as at first."""
    subject = Limiter(MOST, adaptive=True)
    assert subject.limit == FIRST
    subject.overloaded()
    _serve(subject, capacity=MOST, windows=30)
    subject.restart()
    assert subject.limit == FIRST
    assert _serve(subject, capacity=MOST, windows=3) == [4, 8, 16]


@pytest.mark.parametrize("most", [1, 2, 3])
def test_it_is_never_above_its_highest(most: int) -> None:
    """Neither as it begins, nor when it has grown, nor after an outage."""
    subject = Limiter(most, adaptive=True)
    limits = [subject.limit, *_serve(subject, capacity=most, windows=5), _small(subject)]
    subject.restart()
    assert max(*limits, subject.limit) == limits[-1] == most


def test_it_moves_once_for_a_window() -> None:
    """A window is as many answers as may be in flight, ten at least."""
    subject = Limiter(MOST, adaptive=True)
    subject.overloaded()  # the doubling is over
    for limit in range(1, MOST):
        for _ in range(max(WINDOW, limit)):
            assert subject.limit == limit
            subject.succeeded(0.02, in_flight=subject.limit, full=True)
    assert subject.limit == MOST


@pytest.mark.parametrize("event", ["overloaded", "restart"])
def test_a_window_begins_again_with_the_limit(event: str) -> None:
    """Latencies under another limit say nothing of this one."""
    subject = Limiter(MOST, adaptive=True)
    for _ in range(WINDOW - 1):
        subject.succeeded(0.02, in_flight=subject.limit, full=True)
    getattr(subject, event)()
    limit = subject.limit
    for _ in range(WINDOW - 1):
        subject.succeeded(0.02, in_flight=subject.limit, full=True)
        assert subject.limit == limit
    subject.succeeded(0.02, in_flight=subject.limit, full=True)
    assert subject.limit > limit


def test_it_does_not_grow_where_it_is_not_needed() -> None:
    """A limit that is not reached stays as it is."""
    subject = Limiter(MOST, adaptive=True)
    for _ in range(500):
        subject.succeeded(0.02, in_flight=1, full=True)
    assert subject.limit == FIRST


@pytest.mark.parametrize("refusals", [0, 1])
def test_small_batches_let_it_grow_a_little(refusals: int) -> None:
    """At a low rate too, by doubling or by one, no transaction waits for a request to spare."""
    subject = Limiter(MOST, adaptive=True)
    for _ in range(refusals):
        subject.overloaded()
    assert _small(subject) == PARTIAL_REQUESTS


def test_small_batches_that_do_not_meet_the_limit_leave_it() -> None:
    """None of them has waited."""
    assert _small(Limiter(MOST, adaptive=True), below=1) == FIRST


@pytest.mark.parametrize("seconds", [0.0001, 10.0])
def test_the_latency_of_small_batches_is_no_signal(seconds: float) -> None:
    """Neither are they compared, nor is anything compared with them."""
    subject = Limiter(MOST, adaptive=True)
    _small(subject, seconds=seconds)
    assert _serve(subject, capacity=MOST, windows=30)[-1] == MOST
    assert _small(subject, seconds=seconds) == MOST


@pytest.mark.parametrize("share", [2, 10])
def test_small_batches_in_between_hide_no_overload(share: int) -> None:
    """Halves of a batch with a culprit are small, and may be most of what is sent."""
    subject = Limiter(64, adaptive=True)
    limits = []
    for number in range(10_000):
        seconds = 0.02 * max(1.0, subject.limit / 4)
        subject.succeeded(seconds, in_flight=subject.limit, full=number % share == 0)
        limits.append(subject.limit)
    assert max(limits) <= 16


def test_a_fixed_number_stays() -> None:
    """With SCORING_ADAPTIVE=false the limit is the highest, whatever happens."""
    subject = Limiter(MOST, adaptive=False)
    assert _serve(subject, capacity=1, windows=50) == [MOST] * 50
    subject.overloaded()
    subject.restart()
    assert subject.limit == MOST
