"""Look for everything that the stream depends on, before it reads anything."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from operators import source
from operators.dead_letters import writer as dead_letters
from operators.errors import DependencyError
from operators.model.check import check as check_model
from operators.postgres.check import check as check_postgres
from settings import Settings

__all__ = ["CheckResult", "run_checks"]

Check = Callable[[Settings], str]

CHECKS: Final[dict[str, Check]] = {
    "Kafka topic": source.check,
    "Kafka error topic": dead_letters.check,
    "PostgreSQL": check_postgres,
    "Model API": check_model,
}


class CheckResult(NamedTuple):
    """What became of one check."""

    dependency: str
    ok: bool
    detail: str
    """What was found; if it is not ok, the setting to look at and what is wrong."""


def run_checks(settings: Settings, recovery: Path | None) -> Iterator[CheckResult]:
    """Check every dependency, all at once, each within `START_TIMEOUT`.

    :arg recovery: Directory of the recovery partitions, if the stream is to have one.

    :returns: One result for each, in a fixed order.

    """
    checks = dict(CHECKS)
    if recovery is not None:
        checks["Recovery"] = lambda _settings: _check_recovery(recovery)
    with ThreadPoolExecutor(len(checks)) as pool:
        running = [(name, pool.submit(check, settings)) for name, check in checks.items()]
        for name, check in running:
            try:
                yield CheckResult(name, ok=True, detail=check.result())
            except DependencyError as error:
                yield CheckResult(name, ok=False, detail=str(error))


def _check_recovery(directory: Path) -> str:
    partitions = len(list(directory.glob("part-*.sqlite3")))
    if partitions == 0:
        what = "holds no recovery partitions" if directory.is_dir() else "is no directory"
        msg = (
            f"recovery directory (-r): {directory} {what}; make the partitions once with "
            f"mkdir -p {directory} && python -m bytewax.recovery {directory} 4"
        )
        raise DependencyError(msg)
    return f"{directory}, {partitions} partitions"
