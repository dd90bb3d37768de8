"""Rehearse the StatefulSet on this machine: `make k8s-rehearsal`.

Pods of the overlay `three-workers` as processes: their init containers, command, arguments and
environment, as `kubectl kustomize` gives them. A process is killed, then a whole pod; each time all
have to work again. At the end all are told to end, and the audit counts both ends.
"""

import shutil
import sys
import tempfile
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lab.servers import ApacheKafka, Broker, KafkaServer, ModelApi, Postgres
from tests.rehearsal.rehearsal import Rehearsal


class Kafka(StrEnum):
    """The broker."""

    APACHE = "apache"
    EMBEDDED = "embedded"


def main(
    *,
    kafka: Annotated[Kafka, typer.Option(help="The broker.")] = Kafka.EMBEDDED,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is killed.")] = 2,
    overlay: Annotated[str, typer.Option(help="Below k8s/.")] = "overlays/three-workers",
) -> None:
    """Rehearse, and exit with the audit's exit code."""
    if sys.platform != "linux":
        sys.exit("the pods have the addresses 127.0.0.1, 127.0.0.2, …, which only Linux has")
    if kafka is Kafka.APACHE and (reason := ApacheKafka.missing()):
        sys.exit(reason)
    folder = Path(tempfile.mkdtemp(prefix="fraud-scoring-rehearsal-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        apache = kafka is Kafka.APACHE
        broker: KafkaServer = (ApacheKafka if apache else Broker)(folder / "kafka")
        code, report = _rehearse(
            Rehearsal(
                folder / "pods",
                broker=stack.enter_context(broker),
                postgres=stack.enter_context(Postgres(folder / "postgres", durable=False)),
                model=stack.enter_context(ModelApi(folder / "model")),
                overlay=overlay,
            ),
            rounds,
        )
    print(report)  # noqa: T201 - what it is for
    sys.exit(code)


def _rehearse(rehearsal: Rehearsal, rounds: int) -> tuple[int, str]:
    rehearsal.migrate()
    with rehearsal.pods() as pods:
        for number in range(rounds):
            rehearsal.kill_process(pods[number % len(pods)], pods)
            rehearsal.delete(pods[(number + 1) % len(pods)], pods)
        rehearsal.end(pods)
        # What was sent last may have come after the signal.
    with rehearsal.pods() as pods:
        rehearsal.wait_until_done(pods)
        rehearsal.end(pods)
    return rehearsal.audit()


if __name__ == "__main__":
    typer.run(main)
