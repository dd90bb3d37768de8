"""Run the stand-in: `python -m lab.model_api --port N`."""

import asyncio
import signal
from typing import Annotated

import typer
from pydantic import ValidationError

from lab.model_api.faults import ALTERATIONS, ANSWERS, OTHERS, Fault
from lab.model_api.port import HOST
from lab.model_api.scoring import MODEL_VERSION
from lab.model_api.server import Server

_DOCS = {name: str(action.__doc__) for name, action in {**ANSWERS, **ALTERATIONS}.items()} | OTHERS
_PARAMETERS = {name: field.description for name, field in Fault.model_fields.items()}

HELP = f"""Stand in for the fraud model's API: its contract, but no model.

The score is a fixed formula over a transaction's id and amount; every answer says so with
model_version "{MODEL_VERSION}". For the demo, the tests and the benchmarks.

\b
POST   /predict  score a JSON array of transactions
GET    /control  active faults and counters
POST   /control  start a fault, or several: {{"name": "status", "code": 429, "share": 0.1}}
DELETE /control  end all faults, start counting anew; answers with the state until then

\b
Faults, with --fault name,parameter=value,… or by POST /control:
{chr(10).join(f"  {name:<14} {text}" for name, text in _DOCS.items())}

\b
Their parameters:
{chr(10).join(f"  {name:<17} {text}" for name, text in _PARAMETERS.items() if text)}
"""


def _fault(text: str) -> Fault:
    try:
        return Fault.parse(text)
    except ValidationError as error:
        problems = "; ".join(f"{problem['loc']}: {problem['msg']}" for problem in error.errors())
        raise typer.BadParameter(problems) from None


def main(
    *,
    port: Annotated[int, typer.Option(help="Port of the API; 0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = HOST,
    control_port: Annotated[
        int | None,
        typer.Option(help="A second port for /control, open while the first refuses."),
    ] = None,
    delay_ms: Annotated[
        float, typer.Option(min=0, help="How long a batch takes, in milliseconds.")
    ] = 20.0,
    token: Annotated[
        str | None,
        typer.Option(envvar="MODEL_API_TOKEN", help="Bearer token to ask for; none by default."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of what faults leave to chance.")] = 0,
    fault: Annotated[
        list[Fault] | None,
        typer.Option(parser=_fault, metavar="NAME[,KEY=VALUE…]", help="A fault; may be repeated."),
    ] = None,
) -> None:
    """Parse the command line and run until SIGTERM or SIGINT."""
    server = Server(delay=delay_ms / 1000, token=token, seed=seed, host=host)
    try:
        asyncio.run(_serve(server, port=port, control_port=control_port, faults=fault or []))
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None


async def _serve(
    server: Server, *, port: int, control_port: int | None, faults: list[Fault]
) -> None:
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    port = await server.start(port, control_port)
    for fault in faults:
        await server.inject(fault)
    print(f"stand-in for the model's API on http://{server.host}:{port}", flush=True)
    await stopping.wait()
    await server.stop()


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command(help=HELP)(main)
    app()
