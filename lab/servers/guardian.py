"""Kill child processes when their parent has ended, however it ended.

A program that is killed cannot end its children. A helper does it: this file, started once
by {py:obj}`guard` as a process of its own. It reads from a pipe which processes to watch, and
the pipe's end tells it that the parent is gone: the kernel closes it even after SIGKILL.

Linux has a signal for this (`PR_SET_PDEATHSIG`), but it is sent when the *thread* that made the
child ends, reaches no grandchildren, and other systems do not have it.
"""

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable

import psutil

_lock = threading.Lock()
_helper: "subprocess.Popen[bytes] | None" = None


def freeze(pid: int) -> list[psutil.Process]:
    """Stop a process and its descendants with SIGSTOP.

    Parents first, so that none makes another child meanwhile.

    :arg pid: The eldest.

    :returns: All of them, the eldest first; empty if it is gone.

    """
    try:
        frozen = [psutil.Process(pid)]
        frozen[0].suspend()
    except psutil.NoSuchProcess:
        return []
    for process in frozen:  # grows meanwhile
        for child in _children(process):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.suspend()
                frozen.append(child)
    return frozen


def kill_tree(pid: int) -> list[psutil.Process]:
    """Kill a process, its descendants and its process group with SIGKILL.

    :arg pid: The eldest, leader of its process group.

    :returns: Those that were alive.

    """
    processes = freeze(pid)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    # Those whose own parent had ended are found by their group alone.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    return processes


def guard(pid: int) -> None:
    """Kill this child, with its descendants, when the present process has ended.

    :arg pid: Leader of its process group.

    """
    _tell(f"+{pid}\n")


def release(pid: int) -> None:
    """Guard this child no longer: it has ended, and its number may be another's soon.

    :arg pid: As given to {py:obj}`guard`.

    """
    _tell(f"-{pid}\n")


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children())
    except psutil.NoSuchProcess:
        return []


def _tell(line: str) -> None:
    global _helper  # noqa: PLW0603  # one helper a process, made when first needed
    with _lock:
        if _helper is None or _helper.poll() is not None:
            # -P: its folder must not be searched for modules, some have common names.
            _helper = subprocess.Popen(
                [sys.executable, "-P", __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            atexit.register(_dismiss, _helper)
        assert _helper.stdin is not None  # noqa: S101  # a pipe, see above
        _helper.stdin.write(line.encode())
        _helper.stdin.flush()


def _dismiss(helper: "subprocess.Popen[bytes]") -> None:
    assert helper.stdin is not None  # noqa: S101  # a pipe, see above
    helper.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        helper.wait(10)


def _watch(lines: Iterable[str]) -> None:
    guarded: dict[int, psutil.Process] = {}
    for line in lines:
        pid = int(line[1:])
        if line.startswith("+"):
            with contextlib.suppress(psutil.NoSuchProcess):
                guarded[pid] = psutil.Process(pid)
        else:
            guarded.pop(pid, None)
    for pid, process in guarded.items():
        # Compares the time of its start as well: the number may be another process's by now.
        if process.is_running():
            kill_tree(pid)


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    _watch(sys.stdin)
