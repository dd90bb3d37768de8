"""`fraud-stream`, and `python -m ops`: help, and what is said before anything begins."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import ops.__main__ as command
from tests.kit.checkout import CHECKOUT

COMMANDS = ["run", "check", "migrate", "audit", "replay", "demo"]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The command beside a Python, as `make setup` puts it, in a folder with a space."""
    folder = tmp_path / "an environment"
    folder.mkdir()
    (folder / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / "python").chmod(0o755)
    (folder / "fraud-stream").symlink_to(CHECKOUT / "fraud-stream")
    return folder / "fraud-stream"


def _run(script: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "COLUMNS": "200", "NO_COLOR": "1", **variables}
    return subprocess.run(  # noqa: S603
        [script, *arguments],
        cwd=script.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_runs_from_any_folder(script: Path) -> None:
    """Under its own name, with all commands."""
    done = _run(script, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: fraud-stream" in done.stdout
    for name in COMMANDS:
        assert f" {name} " in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_has_an_example(name: str) -> None:
    """That can be copied."""
    done = CliRunner().invoke(command.app, [name, "--help"], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    assert "Example: " in done.output
    assert f"fraud-stream {name}" in done.output


def test_run_is_bytewax_with_its_options(script: Path) -> None:
    """Options go on as they are; what the flow says of its settings is what one sees."""
    refused = _run(script, "run", "-w", "many")
    assert refused.returncode == 2
    assert "invalid int value: 'many'" in refused.stderr
    started = _run(script, "run", "-w", "1")
    assert started.returncode == 1
    assert "KAFKA_BOOTSTRAP_SERVERS" in started.stderr


def test_a_shell_completes_the_commands(script: Path) -> None:
    """With what `fraud-stream --show-completion` prints."""
    variables = {"COMP_WORDS": "fraud-stream a", "COMP_CWORD": "1"}
    done = _run(script, _FRAUD_STREAM_COMPLETE="complete_bash", **variables)
    assert done.stdout.split() == ["audit"]


def test_a_demo_without_its_packages_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, as in a production image."""
    monkeypatch.setitem(command.DEMO_PACKAGES, "no_such_module", "no-such-package")
    done = CliRunner().invoke(command.app, ["demo"])
    assert done.exit_code == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("demo: not installed here: no-such-package;")


def test_the_help_of_the_supervisor_is_help() -> None:
    """It was taken for a command to run, and tried ten times."""
    done = subprocess.run(
        [sys.executable, "-m", "ops.supervise", "--help"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout.startswith("Run a command")


def test_a_replay_of_everything_asks_on_a_terminal(script: Path) -> None:
    """Without a yes nothing is sent, and nobody is connected to."""
    leader, follower = pty.openpty()
    settings = {
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "KAFKA_CONSUMER_GROUP": "fraud",
        "DATABASE_URL": "postgresql://127.0.0.1:1/none",
        "ML_API_URL": "http://127.0.0.1:1",
    }
    os.write(leader, b"n\n")
    done = subprocess.run(  # noqa: S603
        [script, "replay"],
        env={"PATH": os.environ["PATH"], **settings},
        stdin=follower,
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(leader)
    os.close(follower)
    assert done.returncode == 1
    assert "Replay all dead letters of transactions-failed?" in done.stdout
    assert "Aborted" in done.stderr
