"""See that this process may open as many files as it will need.

Each connection is a descriptor, and a client of Kafka takes about eight. A process that runs out of
them fails at some later connection, with an error that names anything but the reason.
"""

import resource
from typing import Final

from operators.errors import DependencyError

__all__ = ["CLIENT", "require"]

CLIENT: Final = 8
"""Descriptors of one client of Kafka with one broker: measured."""


def require(needed: int, why: str) -> None:
    """Raise the soft limit of open files as far as needed.

    :arg why: What for, in words.

    :raises DependencyError: The hard limit is lower.

    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        msg = f"ulimit -n: {why} may take {needed} open files, and this process may have {hard}"
        raise DependencyError(msg)
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
