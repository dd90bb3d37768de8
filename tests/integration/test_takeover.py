"""Takeover and release of partitions: locks, fences, and what is looked up in between."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from lab.servers import KafkaServer
from operators.engine.loop import EventLoop
from operators.errors import DeliveryError, StoreError
from operators.postgres.connection import break_off
from operators.postgres.session import Session
from operators.records import partition_key
from tests.kit import factories
from tests.kit.kafka import Topics
from tests.kit.letters import Writing
from tests.kit.reading import Reading, offsets


@pytest.fixture
def reading(broker: KafkaServer, topics: Topics, database_url: str) -> Reading:
    """Sources of the test's own topic, with a database."""
    return Reading(broker, topics, database_url=database_url)


@contextmanager
def holder(reading: Reading, partition: int) -> Iterator[Session]:
    """Another process that has a partition's lock."""
    loop = EventLoop()
    session = Session(reading.settings())
    loop.run(session.claim([partition_key(reading.topics.transactions, partition)]))
    try:
        yield session
    finally:
        session.close()


def test_every_lock_is_held_before_anything_is_read(reading: Reading) -> None:
    """Of all partitions of the worker: a second process ends before it does anything."""
    reading.send(b"a")
    with reading.run({0: None, 1: None}, stores_rows=True) as run:
        run.read(1)
        for partition in (0, 1):
            with reading.run({partition: None}, stores_rows=True) as second:
                second.worker.session._lock_wait = 0.0  # noqa: SLF001 - or it would wait for long
                with pytest.raises(StoreError, match=f"{partition}-.* is being written by"):
                    second.turn()
            assert second.found == []


def test_a_lock_is_waited_for(reading: Reading) -> None:
    """A predecessor's session may take a moment to end."""
    reading.send(b"a")
    with reading.run({2: None, 0: None}, stores_rows=True) as run, holder(reading, 2) as other:
        ending = threading.Timer(0.5, other.close)
        ending.start()
        assert offsets(run.read(1)) == [0]
        ending.join()


def test_a_stop_ends_the_waiting_for_a_lock(reading: Reading) -> None:
    """Nothing was taken over, so that there is nothing to finish."""
    with holder(reading, 0), reading.run(stores_rows=True) as run:
        run.stop.request()
        with pytest.raises(StopIteration):
            run.turn()
    with holder(reading, 0), reading.run(stores_rows=True) as run:
        stopping = threading.Timer(0.5, run.stop.request)
        stopping.start()
        assert run.turn() == []
        stopping.join()
        with pytest.raises(StopIteration):
            run.turn()


def test_a_lock_that_is_lost_is_noticed_while_nothing_is_written(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has it: this one ends."""
    monkeypatch.setattr("operators.workers.LEASE", 0.0)
    monkeypatch.setattr("operators.takeover.LOOK_EVERY", 0.0)
    with reading.run(stores_rows=True) as run:
        run.turn()
        run.worker.session._lock_wait = 0.0  # noqa: SLF001 - or it would wait for long
        connection = run.worker.session._connection  # noqa: SLF001 - which breaks
        assert connection is not None
        break_off(connection)
        with holder(reading, 0), pytest.raises(StoreError, match="is being written by"):
            run.until(lambda: False)


def test_whoever_had_the_partition_writes_no_dead_letter_any_more(
    reading: Reading, broker: KafkaServer, topics: Topics
) -> None:
    """It is fenced before the resume point is known."""
    writing = Writing(broker, topics)
    [first, second] = writing.failures(1, 2, partition=0)
    writing.write(first)
    writing.writer.put([second])
    with reading.run(sends_failures=True) as run:
        run.turn()
        with pytest.raises(DeliveryError, match="another process has taken"):
            writing.flush()
        assert run.worker.dead_letters.has(first.message)
        assert not run.worker.dead_letters.has(second.message)


def test_what_is_before_the_end_at_the_takeover_is_looked_up(reading: Reading) -> None:
    """A predecessor may have handled it; what comes later is nobody else's."""
    reading.send(b"a", b"b", b"c")
    with reading.run() as run:
        run.read(1)
        reading.send(b"d")
        run.until(lambda: len(run.found) == 4)
        fetch = run.found[0].fetch
        assert fetch is not None
        assert fetch.tracker.horizon == 3


def test_a_release_writes_the_failures_that_wait_and_commits(reading: Reading) -> None:
    """They do not have to wait for others any more, and a stop leaves time for them."""
    reading.send(b"{")
    with reading.run(sends_failures=True, stop_limit=timedelta(minutes=1)) as run:
        [message] = run.read(1)
        run.worker.dead_letters.put([factories.failure(of=message)])
        run.release()
        assert run.snapshot()["offset"] == 1
        assert run.snapshot()["letters"] is not None
    assert reading.committed() == 1
