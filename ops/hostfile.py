"""Write the addresses of a StatefulSet's processes for Bytewax, one a line.

    python -m ops.hostfile /etc/bytewax/hosts fraud-scoring 3

So the number of processes is said once, in the StatefulSet, and not in a second place that has to
agree with it: with fewer pods than lines a cluster waits without a word.
"""

import sys
from pathlib import Path
from typing import Final

__all__ = ["PORT", "addresses"]

PORT: Final = 9999
"""Between the processes; the one that waxctl uses."""


def addresses(name: str, count: int) -> list[str]:
    """Name every process.

    :arg name: Of the StatefulSet and of its headless service.

    :arg count: Its replicas.

    :returns: `host:port`, in the order of the pods.

    """
    return [f"{name}-{number}.{name}:{PORT}" for number in range(count)]


if __name__ == "__main__":
    if len(sys.argv) != 4 or not sys.argv[3].isdecimal() or sys.argv[3] == "0":  # noqa: PLR2004
        sys.exit("usage: python -m ops.hostfile FILE NAME PROCESSES")
    lines = addresses(sys.argv[2], int(sys.argv[3]))
    Path(sys.argv[1]).write_text("".join(f"{line}\n" for line in lines), "utf-8")
