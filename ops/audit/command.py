"""`python -m ops audit`."""

import json
import re
from typing import Annotated

import typer
from rich.console import Console

from operators.errors import DependencyError
from ops.audit.comparison import compare
from ops.audit.report import show
from settings import SettingsError, load

__all__ = ["audit"]

PLAIN_WIDTH = 1_000_000  # elsewhere than on a terminal nothing is wrapped or turned


def audit(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    limit: Annotated[
        int,
        typer.Option(help="How many missing and doubled positions to name, by partition.", min=1),
    ] = 10,
    start: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="PARTITION:OFFSET",
            help="Look at a partition from this offset on only; may be repeated.",
        ),
    ] = None,
) -> None:
    """Prove that every message ended in exactly one place.

    Exit code 0: it adds up. 1: something is missing or doubled. 2: it could not look.
    """
    starts = _starts(start or [])
    try:
        settings = load()
    except SettingsError as error:
        typer.echo(f"settings: {error}", err=True)
        raise typer.Exit(2) from None
    try:
        with Console(stderr=True).status(f"Auditing {settings.kafka_topic} …"):
            found = compare(settings, starts=starts, examples=limit)
    except DependencyError as error:
        typer.echo(f"audit: {error}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(json.dumps(found.as_json()))
    else:
        console = Console()
        show(found, console if console.is_terminal else Console(width=PLAIN_WIDTH))
    raise typer.Exit(0 if found.adds_up else 1)


def _starts(given: list[str]) -> dict[int, int]:
    found = [re.fullmatch(r"(\d+):(\d+)", each, re.ASCII) for each in given]
    if None in found:
        msg = "must be PARTITION:OFFSET, such as 0:1200"
        raise typer.BadParameter(msg, param_hint="--from")
    return {int(match[1]): int(match[2]) for match in found if match}
