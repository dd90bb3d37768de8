"""The source as Bytewax calls it: its partitions, how long they sleep, how they end."""

import asyncio
import threading

import pytest
from prometheus_client import REGISTRY

from operators.kafka.metadata import NOTHING_KNOWN
from operators.source import BUSY, SOON
from tests.kit.reading import Reading, Run, offsets

FOREVER = 60.0  # seconds


def test_every_partition_of_the_topic_is_an_input_partition(reading: Reading) -> None:
    """The keys are Bytewax's own, in the order of the partitions' numbers."""
    topic = reading.topics.transactions
    with reading.run() as run:
        assert run.source.list_parts() == [f"{number}-{topic}" for number in range(4)]
        assert run.progress.partitions == 4


def test_the_first_partition_reads_for_all_of_its_worker(reading: Reading) -> None:
    """With one consumer; the others are only asked now and then whether the stream ends."""
    for partition in range(3):
        reading.send(b"x", partition=partition)
    with reading.run(dict.fromkeys(range(3))) as run:
        first, *others = run.parts.values()
        assert sorted(each.partition for each in run.read(3)) == [0, 1, 2]
        assert first.next_awake() is None
        for each in others:
            assert list(each.next_batch()) == []
            assert each.next_awake() is not None
        run.finish(*run.found)
        assert [run.snapshot(number)["offset"] for number in range(3)] == [1, 1, 1]


def test_a_stop_ends_every_partition(reading: Reading) -> None:
    """Even if messages are waiting: they are for the next run."""
    with reading.run({0: None, 1: None}) as run:
        run.turn()
        reading.send(b"a")
        run.stop.request()
        with pytest.raises(StopIteration):
            run.turn()
        with pytest.raises(StopIteration):
            run.parts[1].next_batch()
        assert run.snapshot()["offset"] == 0


def test_a_stop_before_anything_was_read_takes_nothing_over(reading: Reading) -> None:
    """The snapshot says what was known before: here nothing."""
    with reading.run() as run:
        run.stop.request()
        with pytest.raises(StopIteration):
            run.turn()
        assert run.snapshot() == NOTHING_KNOWN
    with reading.run(NOTHING_KNOWN) as run:
        reading.send(b"a")
        assert offsets(run.read(1)) == [0]


def test_an_idle_partition_is_asked_again_soon_and_not_at_once(reading: Reading) -> None:
    """A partition that has messages is not to wait, one that has none is not to spin."""
    with reading.run() as run:
        run.until(lambda: run.pause() is not None, what="a pause")
        reading.send(b"a")
        run.read(1)
        assert run.part.next_awake() is None


@pytest.fixture
def sleepy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a worker without work sleep at once, and until there is a message."""
    monkeypatch.setattr("operators.engine.idle.IdleWait.poll_timeout", lambda _: FOREVER)


def turns_until(run: Run, count: int) -> int:
    """How many calls it takes to read so many messages."""
    turns = 0
    while len(run.found) < count:
        run.turn()
        turns += 1
    return turns


@pytest.mark.usefixtures("sleepy")
def test_a_worker_without_work_waits_for_a_message_in_the_source(reading: Reading) -> None:
    """And wakes up when it comes, of whichever partition: nobody else lets it sleep."""
    with reading.run(dict.fromkeys(range(4))) as run:
        sending = threading.Timer(0.2, reading.send, [b"a"], {"partition": 2})
        sending.start()
        assert turns_until(run, 1) == 1
        sending.join()
        run.finish(*run.found)


@pytest.mark.usefixtures("sleepy")
def test_a_worker_with_work_in_hand_does_not_wait_in_the_source(reading: Reading) -> None:
    """Answers and writes go on only while it looks after them; so do messages in hand."""
    with reading.run() as run:
        working = run.worker.loop.spawn(asyncio.sleep(FOREVER))
        assert run.turn() == []
        pause = run.pause()
        assert pause is not None
        assert pause <= BUSY
        working.cancel()
        run.worker.loop.pump()
        reading.send(b"a")
        turns_until(run, 1)
        assert run.turn() == []  # it is not finished
        run.finish(*run.found)


def test_a_partition_that_is_quiet_is_waited_for_longer_and_longer(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not at all once there was a message."""
    waits: list[float] = []
    with reading.run() as run:
        poll_timeout = run.worker.idle.poll_timeout

        def noted() -> float:
            waits.append(poll_timeout())
            return waits[-1]

        monkeypatch.setattr(run.worker.idle, "poll_timeout", noted)
        monkeypatch.setattr(run.worker.pacer, "left", lambda: FOREVER)
        run.until(lambda: waits[-1] > 0.06, what="a long wait")
        reading.send(b"a")
        run.finish(*run.read(1))
        run.turn()
        assert waits[-1] == 0


def test_a_worker_with_nothing_to_do_looks_often(reading: Reading) -> None:
    """Its epoch ends when it looks, and others wait for that."""
    with reading.run() as run:
        run.until(lambda: run.pause() is not None)
        pause = run.pause()
        assert pause is not None
        assert pause <= SOON


def test_a_snapshot_does_not_wait(reading: Reading) -> None:
    """Neither for what is in hand nor for a broker."""
    with reading.run() as run:
        reading.send(b"a")
        run.read(1)
        reading.broker.pause()
        assert run.snapshot()["offset"] == 0
        reading.broker.resume()


def test_epochs_are_counted(reading: Reading) -> None:
    """Of each partition, with the first call after the snapshot of all: then it has ended."""

    def epochs() -> float:
        return REGISTRY.get_sample_value("fraud_epoch_duration_seconds_count") or 0

    with reading.run({0: None, 1: None}) as run:
        run.turn()
        assert run.progress.assigned == 2
        before = epochs()
        run.snapshot(0)
        run.snapshot(1)
        assert epochs() == before
        run.turn()
        assert epochs() == before + 2
