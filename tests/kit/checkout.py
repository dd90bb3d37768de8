"""The checkout that is tested, and Python run in it."""

import subprocess
import sys
from pathlib import Path

__all__ = ["CHECKOUT", "run_script"]

CHECKOUT = Path(__file__).resolve().parents[2]


def run_script(script: str) -> str:
    """Run a text as Python, in a process of its own and in the checkout.

    :arg script: The text.

    :returns: What it prints, stripped.

    """
    found = subprocess.run(  # noqa: S603 - a test's own text
        [sys.executable, "-c", script],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    return found.stdout.strip()
