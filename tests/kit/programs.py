"""Programs that tests need and that no Python package has."""

import shutil

from lab.servers import ServerError

__all__ = ["installed"]


def installed(program: str) -> str:
    """Find a program that a test needs and that no Python package has.

    :arg program: Its name, which is that of Debian's package.

    :returns: Its path.

    :raises ServerError: It is missing.

    """
    path = shutil.which(program)
    if path is None:
        msg = f"{program} is missing; Debian's package {program} has it"
        raise ServerError(msg)
    return path
