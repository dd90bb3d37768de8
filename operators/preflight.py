"""Look for everything that the stream depends on, before it reads anything."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final, NamedTuple

from operators import source
from operators.dead_letters.check import check as check_dead_letters
from operators.errors import DependencyError
from operators.model.check import check as check_model
from operators.postgres.check import check as check_postgres
from settings import Settings

__all__ = ["CheckResult", "run_checks"]

Check = Callable[[Settings], str]

CHECKS: Final[dict[str, Check]] = {
    "Kafka topic": source.check,
    "Kafka error topic": check_dead_letters,
    "PostgreSQL": check_postgres,  # and its migrations
    "Model API": check_model,
}


class CheckResult(NamedTuple):
    """What became of one check."""

    dependency: str
    ok: bool
    detail: str
    """What was found; if it is not ok, the setting to look at and what is wrong."""


def run_checks(
    settings: Settings, recovery: Path | None, *, require_migrated: Callable[[Settings], None]
) -> Iterator[CheckResult]:
    """Check every dependency, all at once, each within `START_TIMEOUT`.

    :arg recovery: Directory of the recovery partitions, if the stream is to have one.

    :arg require_migrated: Raises `DependencyError` if the tables are of an earlier version.

    :returns: One result for each, in a fixed order.

    """
    checks = dict(CHECKS)
    checks["PostgreSQL"] = partial(_check_database, require_migrated)
    if recovery is not None:
        checks["Recovery"] = lambda _settings: _check_recovery(recovery)
    with ThreadPoolExecutor(len(checks)) as pool:
        running = [(name, pool.submit(check, settings)) for name, check in checks.items()]
        for name, check in running:
            try:
                yield CheckResult(name, ok=True, detail=check.result())
            except DependencyError as error:
                yield CheckResult(name, ok=False, detail=str(error))


def _check_database(require_migrated: Callable[[Settings], None], settings: Settings) -> str:
    found = check_postgres(settings)
    require_migrated(settings)
    return found


def _may_change(file: Path) -> bool:
    return os.access(file, os.R_OK | os.W_OK, effective_ids=True)


def _check_recovery(directory: Path) -> str:
    try:
        partitions = list(directory.glob("part-*.sqlite3"))
        with TemporaryFile(dir=directory):
            # Looked at and not opened: SQLite must be the only one that does so in a process.
            fixed = [file.name for file in partitions if not _may_change(file)]
    except OSError as error:
        if directory.is_dir():
            msg = f"recovery directory (-r): cannot write to {directory}: {error.strerror}"
            raise DependencyError(msg) from None
        partitions, fixed = [], []
    if fixed:
        msg = f"recovery directory (-r): this user may not write to {fixed[0]} in {directory}"
        raise DependencyError(msg)
    if not partitions:
        what = "holds no recovery partitions" if directory.is_dir() else "is no directory"
        msg = (
            f"recovery directory (-r): {directory} {what}; make the partitions once with "
            f"mkdir -p {directory} && python -m bytewax.recovery {directory} 4"
        )
        raise DependencyError(msg)
    return f"{directory}, {len(partitions)} partitions"
