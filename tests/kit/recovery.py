"""Bytewax's recovery directory in a test."""

from pathlib import Path

from bytewax.recovery import init_db_dir

__all__ = ["make_recovery", "recovery_options"]


def make_recovery(folder: Path) -> Path:
    """Make a recovery directory.

    :arg folder: Where; the directory is in it.

    :returns: The directory, with two recovery partitions.

    """
    directory = folder / "recovery"
    directory.mkdir(parents=True)
    init_db_dir(directory, 2)  # type: ignore[no-untyped-call]  # as it ships
    return directory


def recovery_options(directory: Path) -> list[str]:
    """Tell `bytewax.run` to keep snapshots there, one a second."""
    return ["-r", str(directory), "-s", "1", "-b", "0"]
