"""Make the recovery partitions if there are none; all pods may do it at once, on one volume.

    python -m ops.recovery /recovery

The partitions are in the folder `partitions` below the one that is named: a volume may have a
`lost+found` of its own, and is there before it is filled.
"""

import fcntl
import shutil
import sys
from pathlib import Path
from typing import Final

from bytewax.recovery import init_db_dir

__all__ = ["PARTITIONS", "make_partitions"]

PARTITIONS: Final = 4
"""More than one, so that several workers can write; their number can never be changed."""


def make_partitions(volume: Path) -> bool:
    """Make the partitions, whole or not at all.

    :arg volume: Exists, and may be shared.

    :returns: Whether there were none.

    """
    directory, unfinished = volume / "partitions", volume / "unfinished"
    with (volume / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if directory.exists():
            return False
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        init_db_dir(unfinished, PARTITIONS)  # type: ignore[no-untyped-call]  # as it ships
        unfinished.rename(directory)
        return True


if __name__ == "__main__":
    if len(sys.argv) != 2:  # noqa: PLR2004 - the program and one argument
        sys.exit("usage: python -m ops.recovery FOLDER")
    made = make_partitions(Path(sys.argv[1]))
    print(f"made {PARTITIONS} recovery partitions" if made else "recovery partitions are there")
