"""The asyncio loop of one Bytewax worker, and what else is one worker's own.

A worker is a thread of its own, and Bytewax calls the source, the scoring step and the sinks of a
worker on that thread, one after the other. So whatever they share needs no lock. It is kept by the
thread's identifier: until a worker has an `EventLoop`, each callback gets a fresh Python thread
state, and `threading.local` does not survive from one to the next.

Network work runs on one asyncio loop a worker, which the worker's own thread pumps from its
callbacks. No second thread competes for the interpreter, and a callback that has to wait runs the
loop meanwhile, so that everything else in flight goes on.
"""

import asyncio
import ctypes
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, Generic, TypeVar
from weakref import finalize

from telemetry import beat

__all__ = ["EventLoop", "WorkerLocal"]

X = TypeVar("X")
TURNS: Final = 4
"""Of the asyncio loop in one pump: from the start of a request to its way through the socket, and
from an answer there to the end of the request, it takes about as many."""
LAST_TURN: Final = 0.5  # seconds for work that is left at the end to end by itself, or cancelled
IDLE_PUMP: Final = 0.05  # seconds between looks at connections while no work is going on


class WorkerLocal(Generic[X]):
    """One X for each worker thread, made when that thread first asks for it."""

    def __init__(self, make: Callable[[], X]) -> None:
        self._make = make
        self._made: dict[int, X] = {}

    def __call__(self) -> X:
        """The calling worker's own."""
        ident = threading.get_ident()
        if ident not in self._made:
            self._made[ident] = self._make()
        return self._made[ident]


def _tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # Work that a crash left behind is not news: the crash is, and has been told.
    if "exception" in context:
        loop.default_exception_handler(context)


def _close(loop: asyncio.AbstractEventLoop) -> None:
    """Close a loop; what a stop or a crash left behind would else be collected without one."""
    for give_up in (False, True):
        left = asyncio.all_tasks(loop)
        if left and give_up:
            for task in left:
                task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=LAST_TURN))
    loop.close()


def _keep_thread_state() -> None:
    """Let the calling thread have the same Python thread state from now on.

    It is Rust's thread, which asks for one before each callback and gives it up after that. Python
    then makes it and drops it every time, with a stack that is mapped and unmapped: 2,500 times a
    second, 44 µs of processor time a row instead of 37, with three processes on two cores. A
    request that is never given up keeps it. See
    https://docs.python.org/3/c-api/init.html#c.PyGILState_Ensure.
    """
    ctypes.pythonapi.PyGILState_Ensure()


class EventLoop:
    """An asyncio loop that runs only while its thread lets it."""

    def __init__(self) -> None:
        _keep_thread_state()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_tell)
        self._tasks = 0
        self._failure: BaseException | None = None
        self._pumped = 0.0
        self._turns = 0
        self._resting = False
        finalize(self, _close, self._loop)

    @property
    def is_busy(self) -> bool:
        """Whether work is going on that wants to be pumped."""
        return self._tasks > 0

    def spawn(self, work: Coroutine[Any, Any, X]) -> asyncio.Task[X]:
        """Start work; it goes on whenever the loop runs."""
        task = self._loop.create_task(work)
        self._tasks += 1
        task.add_done_callback(self._ended)
        return task

    def start(self, work: Coroutine[Any, Any, X]) -> asyncio.Task[X]:
        """Start work that nobody waits for; what it raises, the next `pump` raises."""
        task = self.spawn(work)
        task.add_done_callback(self._note_failure)
        return task

    def pump(self) -> None:
        """Run what is ready, without waiting: 10 to 20 µs when nothing is.

        While no work is going on there are only connections to look at, which may have been closed;
        that is done now and then.

        :raises Exception: Out of work that nobody waits for.

        """
        beat()
        self._raise_failure()
        now = time.monotonic()
        if not self._tasks and now - self._pumped < IDLE_PUMP:
            return
        self._pumped = now
        self._turns = TURNS
        self._loop.call_soon(self._turn)
        self._loop.run_forever()

    def rest(self, seconds: float) -> None:
        """Run whatever comes up, until a task is done or the time is over.

        For a worker that has nothing else to do: an answer is then taken as it comes, where to pump
        now and then would let each round trip of a database transaction wait for the next time.

        :arg seconds: At most.

        """
        beat()
        timer = self._loop.call_later(seconds, self._loop.stop)
        self._resting = True
        self._loop.run_forever()
        self._resting = False
        timer.cancel()

    def run(self, work: Coroutine[Any, Any, X]) -> X:
        """Run work to its end, and everything else meanwhile."""
        return self._loop.run_until_complete(work)

    def wait_any(self, tasks: Iterable[asyncio.Task[Any]], seconds: float) -> None:
        """Run until one of the tasks is done or the time is over."""
        beat()
        waiting = asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        self._loop.run_until_complete(waiting)

    def run_until(self, is_reached: Callable[[], bool], seconds: float = 0.05) -> None:
        """Run until a condition is met.

        :arg is_reached: Looked at whenever a task is done, and this often:

        :arg seconds: Between two looks at most.

        :raises Exception: Out of work that nobody waits for.

        """
        while not is_reached():
            self.pump()
            if not is_reached():
                self.rest(seconds)
        self.pump()  # a task that has just failed notes it in a later turn of the loop,
        self._raise_failure()  # and that may be why the condition is met

    def _raise_failure(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _turn(self) -> None:
        self._turns -= 1
        if self._turns:
            self._loop.call_soon(self._turn)
        else:
            self._loop.stop()

    def _ended(self, _task: asyncio.Task[Any]) -> None:
        self._tasks -= 1
        if self._resting:
            self._loop.stop()

    def _note_failure(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled():
            failure = task.exception()  # looked at in any case, or it would be logged
            self._failure = self._failure or failure
