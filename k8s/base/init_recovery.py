"""Make the recovery partitions if there are none; all pods run this at once, on one volume."""
# ruff: noqa: INP001 - a file of a ConfigMap, not of a package

import fcntl
import shutil
import sys
from pathlib import Path

from bytewax.recovery import init_db_dir

volume = Path(sys.argv[1])
directory, unfinished = volume / "partitions", volume / "unfinished"
with (volume / "lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not directory.exists():
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        init_db_dir(unfinished, 4)
        unfinished.rename(directory)  # whole or not at all
