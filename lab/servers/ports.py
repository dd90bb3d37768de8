"""TCP ports on 127.0.0.1."""

import fcntl
import os
import secrets
import socket
import tempfile
from pathlib import Path

LOCALHOST = "127.0.0.1"

# Below the ranges from which Linux (32768 up) and macOS (49152 up) take the ports of outgoing
# connections. A client that keeps trying to reach a killed server could otherwise be given the
# server's own port, connect to itself and keep the server from starting again.
_PORTS = range(20_000, 32_000)

_given: set[int] = set()

# One byte of it for each port: locked by the process that has been given the port, so that another
# run beside this one does not take it before its server listens. The end of a process unlocks it.
_reserved = (Path(tempfile.gettempdir()) / f"fraud-scoring-ports-{os.getuid()}").open("ab")


def free_port() -> int:
    """Find a port that nothing listens on, a different one at each call and in each process.

    :returns: A port that stays free while its server is down for a moment.

    """
    while True:
        port = _PORTS[secrets.randbelow(len(_PORTS))]
        if port in _given:
            continue
        try:
            fcntl.lockf(_reserved, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError:  # another process has it
            continue
        with socket.socket() as probe:
            try:
                probe.bind((LOCALHOST, port))
            except OSError:
                continue
        _given.add(port)
        return port


def accepts(port: int) -> bool:
    """Tell whether something accepts connections.

    :arg port: On 127.0.0.1.

    :returns: Whether a connection came about within a second.

    """
    try:
        socket.create_connection((LOCALHOST, port), timeout=1).close()
    except OSError:
        return False
    return True
