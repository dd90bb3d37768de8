"""`python -m ops replay`."""

import sys
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from operators.errors import DependencyError
from ops.replay.choice import Choice, OptionError
from ops.replay.interruption import Interruption
from ops.replay.report import Display, show_outcome
from ops.replay.run import replay as run
from settings import Settings, SettingsError, load

__all__ = ["replay"]

PLAIN_WIDTH = 200  # elsewhere than on a terminal nothing is wrapped

# Texts all: `Choice` says in one line what is wrong with a value.
Texts = list[str] | None
Some = str | None


def replay(
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would go; send nothing.")
    ] = False,
    stage: Annotated[
        Texts, typer.Option(help="decode, validate, score or persist; may be repeated.")
    ] = None,
    disposition: Annotated[
        Texts, typer.Option(help="poison, rejected, exhausted or conflict; may be repeated.")
    ] = None,
    code: Annotated[
        Texts,
        typer.Option(help="Error code, or a pattern such as 'model.*'; may be repeated."),
    ] = None,
    since: Annotated[
        Some,
        typer.Option(metavar="TIME", help="Written to the error topic then or later; ISO 8601."),
    ] = None,
    until: Annotated[
        Some, typer.Option(metavar="TIME", help="Written to the error topic before.")
    ] = None,
    offsets: Annotated[
        Texts,
        typer.Option(
            metavar="PARTITION:FIRST-LAST",
            help="Positions in KAFKA_TOPIC; one offset or FIRST- do too; may be repeated.",
        ),
    ] = None,
    dlq_id: Annotated[
        Texts, typer.Option("--id", metavar="DLQ-ID", help="One dead letter; may be repeated.")
    ] = None,
    max_replays: Annotated[
        Some,
        typer.Option(
            metavar="NUMBER",
            help="Leave what has been replayed so often; 3 if not given.",
        ),
    ] = None,
    rate: Annotated[
        Some, typer.Option(metavar="NUMBER", help="Most messages a second; 100 if not given.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask on a terminal before all are replayed.")
    ] = False,
) -> None:
    """Send dead letters back to KAFKA_TOPIC, each once; all of them, or those that are chosen.

    Exit code 0: done. 1: not all could be sent. 2: nothing was sent, an option or a setting is
    wrong. 130, 143: interrupted by SIGINT, SIGTERM; the same command goes on.
    """
    try:
        choice = Choice.of(
            stage=stage,
            disposition=disposition,
            code=code,
            since=since,
            until=until,
            offsets=offsets,
            id=dlq_id,
            max_replays=max_replays,
            rate=rate,
        )
        settings = load()
    except OptionError as error:
        _refuse("replay", error)
    except SettingsError as error:
        _refuse("settings", error)
    if choice.is_everything and not (dry_run or yes) and sys.stdin.isatty():
        question = f"Replay all dead letters of {settings.kafka_error_topic}?"
        typer.confirm(question, abort=True)
    with Interruption() as interruption:
        raise typer.Exit(_run(settings, choice, interruption, dry_run=dry_run))


def _run(settings: Settings, choice: Choice, interruption: Interruption, *, dry_run: bool) -> int:
    console, progress = _console(), _console(stderr=True)
    try:
        with Display(console, progress) as display:
            outcome = run(
                settings, choice, dry_run=dry_run, interruption=interruption, audience=display
            )
    except DependencyError as error:
        _refuse("replay", error)
    unsent = outcome.sent < outcome.plan.total and not dry_run
    # A signal that came when all was done interrupted nothing.
    interrupted = interruption.came() and (unsent or not outcome.plan.total)
    show_outcome(
        outcome, console, topic=settings.kafka_topic, dry_run=dry_run, interrupted=interrupted
    )
    if outcome.error is not None:
        typer.echo(f"replay: {outcome.error}", err=True)
        return 1
    if interrupted:
        return 128 + (interruption.number or 0)
    return 1 if unsent else 0


def _console(**options: Any) -> Console:
    console = Console(**options)
    return console if console.is_terminal else Console(width=PLAIN_WIDTH, **options)


def _refuse(what: str, error: Exception) -> NoReturn:
    typer.echo(f"{what}: {error}", err=True)
    raise typer.Exit(2) from None
