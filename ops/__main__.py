"""`python -m ops`: what people run around the stream."""

from pathlib import Path
from typing import Annotated

import typer

from operators.preflight import run_checks
from ops.audit import audit
from ops.migrate import MigrationError
from ops.migrate import migrate as apply_migrations
from ops.pending import require_migrated
from ops.replay import replay
from settings import Settings, SettingsError, load, recovery_directory

app = typer.Typer(
    help="Run what surrounds the stream: check, migrate, audit, replay, demo.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
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


@app.command()
def migrate() -> None:
    """Bring the tables of DATABASE_URL up to date; safe from several pods at once."""
    settings = _settings()
    try:
        applied = apply_migrations(settings.database_url.get_secret_value())
    except MigrationError as error:
        typer.echo(f"migrate: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo("\n".join(f"applied {name}" for name in applied) or "up to date")


app.command()(audit)
app.command()(replay)


@app.command()
def demo(
    count: Annotated[int, typer.Option(help="How many messages.", min=1)] = 20_000,
    seed: Annotated[int, typer.Option(help="Of the messages.")] = 7,
    fault: Annotated[
        str | None,
        typer.Option(help="A fault of the model: see python -m lab.model_api --help."),
    ] = None,
) -> None:
    """Run the whole job on servers of its own, and prove that nothing is lost."""
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
