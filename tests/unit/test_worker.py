"""What a worker's callbacks share, and the loop that runs only while they let it.

Nothing here waits for time to pass: where a test would hang, the loop has waited when it must not.
"""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, cluster_main

from operators.engine.loop import TURNS, EventLoop, WorkerLocal

NEVER = 3_600.0


def test_a_thread_gets_its_own_and_always_the_same() -> None:
    """Made when first asked for, once."""
    made: list[object] = []

    def make() -> object:
        made.append(object())
        return made[-1]

    mine = WorkerLocal(make)
    barrier = threading.Barrier(3)

    def ask() -> tuple[object, object]:
        first = mine()
        barrier.wait()  # all three threads exist at once, so none has another's identifier
        return first, mine()

    assert not made
    with ThreadPoolExecutor(3) as pool:
        answers = [future.result() for future in [pool.submit(ask) for _ in range(3)]]

    assert all(first is second for first, second in answers)
    assert len({id(first) for first, _ in answers}) == len(made) == 3


@pytest.mark.parametrize("workers", [1, 3])
def test_all_callbacks_of_a_worker_get_the_same(workers: int) -> None:
    """In the engine, where `threading.local` would forget between two callbacks."""
    found: list[Any] = []
    mine = WorkerLocal(object)
    flow = Dataflow("test")
    items = op.input("items", flow, TestingSource([(str(n), n) for n in range(40)], batch_size=1))
    spread = op.redistribute("spread", items)
    first = op.map("first", spread, lambda _item: (threading.get_ident(), mine()))
    both = op.map("both", first, lambda item: (*item, mine()))
    op.output("out", both, TestingSink(found))

    cluster_main(flow, [], 0, worker_count_per_proc=workers)  # type: ignore[no-untyped-call]

    assert len(found) == 40
    assert all(first is second for _, first, second in found)
    threads = {thread for thread, _, _ in found}
    assert len({id(item) for _, item, _ in found}) == len(threads) == workers


def test_a_worker_with_a_loop_keeps_its_thread_state() -> None:
    """What is local to its thread survives from one callback to the next."""
    found: list[int] = []
    loops, local = WorkerLocal(EventLoop), threading.local()

    def count(_item: object) -> int:
        loops()
        local.calls = getattr(local, "calls", 0) + 1
        return int(local.calls)

    flow = Dataflow("test")
    items = op.input("items", flow, TestingSource(range(5), batch_size=1))
    op.output("out", op.map("count", items, count), TestingSink(found))

    cluster_main(flow, [], 0, worker_count_per_proc=2)  # type: ignore[no-untyped-call]

    assert found == [1, 2, 3, 4, 5]


@pytest.fixture
def loop() -> EventLoop:
    """A loop of the test's own thread."""
    return EventLoop()


def _end(loop: EventLoop, *tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    loop.pump()


def test_work_waits_for_the_loop_to_be_run(loop: EventLoop) -> None:
    """Started is not running: the thread decides when."""
    done: list[int] = []

    async def work() -> None:
        done.append(1)

    loop.spawn(work())
    assert not done

    loop.pump()
    assert done


def test_pumping_runs_what_is_ready_and_does_not_wait(loop: EventLoop) -> None:
    """A few steps of everything that can go on; nothing of what cannot."""
    steps: list[int | str] = []
    signal = asyncio.Event()

    async def ready() -> None:
        for step in range(TURNS + 1):
            steps.append(step)
            await asyncio.sleep(0)

    async def waiting() -> None:
        await signal.wait()
        steps.append("signalled")

    async def sleeping() -> None:
        await asyncio.sleep(NEVER)

    tasks = [loop.spawn(ready()), loop.spawn(waiting()), loop.spawn(sleeping())]

    loop.pump()
    assert steps == [*range(TURNS)]
    loop.pump()
    assert steps == [*range(TURNS + 1)]
    loop.pump()
    assert steps == [*range(TURNS + 1)]

    signal.set()
    loop.pump()
    assert steps == [*range(TURNS + 1), "signalled"]
    assert not tasks[2].done()
    _end(loop, *tasks)


def test_pumping_without_work_returns(loop: EventLoop) -> None:
    """Sources pump at every call, mostly for nothing."""
    loop.pump()
    loop.pump()


def test_running_work_to_its_end_lets_everything_else_go_on(loop: EventLoop) -> None:
    """A callback that has to wait does not hold up the requests in flight."""
    signal = asyncio.Event()

    async def other() -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        signal.set()

    async def work() -> str:
        await signal.wait()
        return "result"

    task = loop.spawn(other())

    assert loop.run(work()) == "result"
    assert task.done()


def test_waiting_ends_with_the_first_of_the_tasks(loop: EventLoop) -> None:
    """Others go on meanwhile and are left as they are."""
    steps: list[int] = []

    async def short() -> str:
        for step in range(10):
            steps.append(step)
            await asyncio.sleep(0)
        return "done"

    first, second = loop.spawn(short()), loop.spawn(asyncio.sleep(NEVER))

    loop.wait_any([second, first], NEVER)

    assert first.result() == "done"
    assert not second.done()
    assert steps == list(range(10))
    _end(loop, second)


def test_waiting_ends_when_the_time_is_over(loop: EventLoop) -> None:
    """Without an error, and without harm to the tasks: they are waited for again."""
    task = loop.spawn(asyncio.sleep(NEVER))

    loop.wait_any([task], 0.001)

    assert not task.done()
    _end(loop, task)


def test_a_failure_is_the_tasks_own(loop: EventLoop) -> None:
    """Pumping and waiting raise nothing; whoever asks for the result gets it."""

    async def fail() -> None:
        msg = "broken"
        raise ValueError(msg)

    pumped, waited = loop.spawn(fail()), loop.spawn(fail())
    loop.pump()
    loop.wait_any([waited], NEVER)

    for task in (pumped, waited):
        with pytest.raises(ValueError, match="broken"):
            task.result()


def test_a_failure_of_work_that_nobody_waits_for_ends_the_stream(loop: EventLoop) -> None:
    """The next pump raises it, once; other work is left as it is."""

    async def fail() -> None:
        msg = "broken"
        raise ValueError(msg)

    other = loop.start(asyncio.sleep(NEVER))
    loop.start(fail())

    loop.pump()
    with pytest.raises(ValueError, match="broken"):
        loop.pump()
    loop.pump()

    assert not other.done()
    _end(loop, other)
    loop.pump()  # what is cancelled has not failed


def test_of_several_failures_the_first_is_raised(loop: EventLoop) -> None:
    """The others mostly follow from it."""

    async def fail(reason: str) -> None:
        raise ValueError(reason)

    loop.start(fail("first"))
    loop.start(fail("second"))

    with pytest.raises(ValueError, match="first"):
        loop.run_until(lambda: False)
    loop.pump()


def test_running_until_a_condition_lets_work_meet_it(loop: EventLoop) -> None:
    """Whatever the work has to wait for; a condition that is met already waits for nothing."""
    done: list[int] = []

    async def work() -> None:
        await asyncio.sleep(0.001)
        done.append(1)

    loop.run_until(lambda: True)
    loop.start(work())
    assert not done

    loop.run_until(lambda: bool(done), NEVER)

    assert done == [1]


def test_running_until_a_condition_looks_at_it_again_without_work(loop: EventLoop) -> None:
    """It may be met by what happens elsewhere."""
    looks = iter([False] * 4)

    loop.run_until(lambda: next(looks, True), 0.001)

    assert next(looks, None) is None


def test_a_loop_is_busy_while_there_is_work(loop: EventLoop) -> None:
    """Until the last task has ended, whichever way: by its end, an error or cancellation."""

    async def fail() -> None:
        msg = "broken"
        raise ValueError(msg)

    def seen() -> bool:
        loop.pump()
        loop.pump()  # asyncio tells of a task's end one step later
        return loop.is_busy

    assert not seen()
    ended, failed = loop.spawn(asyncio.sleep(0)), loop.spawn(fail())
    assert loop.is_busy
    running = loop.spawn(asyncio.sleep(NEVER))
    loop.wait_any([ended], NEVER)
    assert seen()
    assert isinstance(failed.exception(), ValueError)

    running.cancel()
    assert not seen()
