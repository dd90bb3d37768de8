"""The adaptive limit of requests in flight."""

import random
import time

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


def test_it_grows_to_its_highest_while_latency_stays() -> None:
    """A server that carries all requests gets as many as are allowed."""
    limits = _serve(Limiter(MOST, adaptive=True), capacity=MOST, windows=30)
    assert limits[-1] == MOST
    assert limits == sorted(limits)


def test_it_settles_where_requests_begin_to_queue() -> None:
    """A server that carries four at a time gets a few times four, not sixty-four."""
    limits = _serve(Limiter(64, adaptive=True), capacity=4, windows=200)
    assert 4 <= min(limits[50:]) <= max(limits[50:]) <= 16


def test_a_server_that_staggers_is_spared() -> None:
    """When the server carries less than before, the limit comes down, a tenth a window."""
    subject = Limiter(MOST, adaptive=True)
    _serve(subject, capacity=MOST, windows=30)
    limits = _serve(subject, capacity=2, windows=20)
    assert limits[0] == int(MOST * 0.9)
    assert set(limits[-10:]) == {6, 7}  # where answers take three times as long as unhurried


def test_a_server_that_scales_up_is_used() -> None:
    """When the server carries more than before, the limit follows."""
    subject = Limiter(64, adaptive=True)
    before = _serve(subject, capacity=4, windows=60)[-1]
    after = _serve(subject, capacity=32, windows=100)[-1]
    assert after > 2 * before


def test_a_slow_tail_is_no_overload() -> None:
    """One request in a hundred that takes fifty times as long does not lower the limit."""
    subject = Limiter(MOST, adaptive=True)
    _serve(subject, capacity=MOST, windows=30)
    assert min(_serve(subject, capacity=MOST, windows=100, tail=0.01)) == MOST


def test_a_server_that_became_slower_for_good_is_not_starved() -> None:
    """When latency is higher whatever the limit, the limit comes back."""
    subject = Limiter(MOST, adaptive=True)
    _serve(subject, capacity=MOST, windows=30)
    for _ in range(2_000):
        subject.succeeded(0.2, in_flight=subject.limit, full=True)
    assert subject.limit == MOST


def test_a_refusal_halves_it_once_for_a_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals that come together count once; a later one counts again; one is the least."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    subject = Limiter(MOST, adaptive=True)
    _serve(subject, capacity=MOST, windows=30)
    for _ in range(5):
        subject.overloaded()
    assert subject.limit == MOST // 2
    for _ in range(10):
        now += 1
        subject.overloaded()
    assert subject.limit == 1


def test_it_begins_low_and_begins_anew_after_an_outage() -> None:
    """The first limit is low, so that first latencies are those of an unhurried server."""
    subject = Limiter(MOST, adaptive=True)
    assert subject.limit == FIRST
    _serve(subject, capacity=MOST, windows=30)
    subject.restart()
    assert subject.limit == FIRST


@pytest.mark.parametrize("most", [1, 2, 3])
def test_it_is_never_above_its_highest(most: int) -> None:
    """Neither as it begins, nor when it has grown, nor after an outage."""
    subject = Limiter(most, adaptive=True)
    limits = [subject.limit, *_serve(subject, capacity=most, windows=5)]
    subject.restart()
    assert max(*limits, subject.limit) == limits[-1] == most


def test_it_moves_once_for_a_window() -> None:
    """A window is as many answers as may be in flight, ten at least."""
    subject = Limiter(MOST, adaptive=True)
    for limit in range(FIRST, MOST):
        for _ in range(max(WINDOW, limit)):
            assert subject.limit == limit
            subject.succeeded(0.02, in_flight=subject.limit, full=True)
    assert subject.limit == MOST


@pytest.mark.parametrize("event", ["overloaded", "restart"])
def test_a_window_begins_anew_with_the_limit(event: str) -> None:
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
    assert subject.limit == limit + 1


def test_it_does_not_grow_where_it_is_not_needed() -> None:
    """A limit that is not reached stays as it is."""
    subject = Limiter(MOST, adaptive=True)
    for _ in range(500):
        subject.succeeded(0.02, in_flight=1, full=True)
    assert subject.limit == FIRST


def test_small_batches_let_it_grow_a_little() -> None:
    """At a low rate too, transactions wait for no request that could be in flight."""
    subject = Limiter(MOST, adaptive=True)
    for _ in range(500):
        subject.succeeded(0.02, in_flight=subject.limit, full=False)
    assert subject.limit == PARTIAL_REQUESTS


def test_small_batches_that_do_not_meet_the_limit_leave_it() -> None:
    """None of them has waited."""
    subject = Limiter(MOST, adaptive=True)
    for _ in range(500):
        subject.succeeded(0.02, in_flight=subject.limit - 1, full=False)
    assert subject.limit == FIRST


@pytest.mark.parametrize("seconds", [0.0001, 10.0])
def test_the_latency_of_small_batches_is_no_signal(seconds: float) -> None:
    """Neither are they compared, nor is anything compared with them."""
    subject = Limiter(MOST, adaptive=True)
    for _ in range(500):
        subject.succeeded(seconds, in_flight=subject.limit, full=False)
    assert _serve(subject, capacity=MOST, windows=30)[-1] == MOST
    for _ in range(500):
        subject.succeeded(seconds, in_flight=subject.limit, full=False)
    assert subject.limit == MOST


@pytest.mark.parametrize("share", [2, 3, 10])
def test_small_batches_in_between_hide_no_overload(share: int) -> None:
    """Halves of a batch with a culprit are small, and may be most of what is sent."""
    subject = Limiter(64, adaptive=True)
    limits = []
    for number in range(10_000):
        seconds = 0.02 * max(1.0, subject.limit / 4)
        subject.succeeded(seconds, in_flight=subject.limit, full=number % share == 0)
        limits.append(subject.limit)
    assert max(limits[5_000:]) <= 16


def test_a_fixed_number_stays() -> None:
    """With SCORING_ADAPTIVE=false the limit is the highest, whatever happens."""
    subject = Limiter(MOST, adaptive=False)
    assert _serve(subject, capacity=MOST, windows=5) == [MOST] * 5
    assert _serve(subject, capacity=1, windows=50) == [MOST] * 50
    subject.overloaded()
    assert subject.limit == MOST
    subject.restart()
    assert subject.limit == MOST
