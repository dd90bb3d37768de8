"""What the documents say of the code: settings, the example, commands, and links."""

import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path

import pytest
import typer
from pydantic import Secret
from pydantic.fields import FieldInfo

from ops.__main__ import app
from settings import Settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    file for folder in ("", "docs", "k8s") for file in (ROOT / folder).glob("*.md") if file.name
)
NAMES = [str(file.relative_to(ROOT)) for file in DOCUMENTS]
EXAMPLE_LIMIT = timedelta(seconds=60)
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@cache
def _text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def _blocks(name: str, kind: str) -> list[str]:
    return [body for language, body in FENCE.findall(_text(name)) if language == kind]


def _prose(name: str) -> str:
    """A document without its blocks of code."""
    return FENCE.sub("", _text(name))


def _default(field: FieldInfo) -> str:
    """The default of a setting as one would export it."""
    if field.is_required():
        return "**required**"
    value = field.default
    match value:
        case None:
            return "none"
        case Secret():
            return f"`{value.get_secret_value()}`"
        case bool():
            return f"`{str(value).lower()}`"
        case timedelta():
            return f"`{value.total_seconds():g}`"
        case _:
            return f"`{value}`"


def _settings_table() -> list[str]:
    _, _, section = _text("README.md").partition("\n## Settings\n")
    section, _, _ = section.partition("\n## ")
    return [line for line in section.splitlines() if line.startswith("| `")]


def test_the_table_of_settings_is_that_of_the_code() -> None:
    """Every variable in the order of the code, with its default and what it is."""
    assert _settings_table() == [
        f"| `{name.upper()}` | {_default(field)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]


def test_the_example_runs_as_written() -> None:
    """The example with `TestingSource`, pasted into a file, prints what the README says."""
    [example] = [block for block in _blocks("README.md", "python") if "TestingSource" in block]
    _, _, rest = _text("README.md").partition(example)
    promised = FENCE.findall(rest.partition("```\n")[2])[0][1]

    done = subprocess.run(  # noqa: S603 - the project's own text
        [sys.executable, "-W", "error", "-c", example],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=EXAMPLE_LIMIT.total_seconds(),
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, promised), done.stderr


def _targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    return set(re.findall(r"^([a-z0-9-]+):.*##", makefile, re.MULTILINE))


def _commands() -> set[str]:
    return {str(command.name) for command in typer.main.get_group(app).commands.values()}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_targets_of_make_exist(name: str) -> None:
    """`make …`, in text and in blocks, names targets of the Makefile."""
    named = set(re.findall(r"(?:`|\$ |^ *)make ([a-z0-9-]+)", _text(name), re.MULTILINE))

    assert {"setup", "test"} <= named
    assert named - _targets() == set()


@pytest.mark.parametrize("name", NAMES)
def test_commands_of_ops_exist(name: str) -> None:
    """`python -m ops …` names commands that are there."""
    named = set(re.findall(r"python -m ops ([a-z]+)", _text(name)))

    assert named - _commands() == set()


def test_the_readme_names_every_command() -> None:
    """All of `python -m ops`, or `fraud-stream`, is in the README, `demo` as a target of make."""
    named = set(
        re.findall(r"(?:python -m ops|fraud-stream) ([a-z]+)|make (demo)", _text("README.md"))
    )

    assert {word for pair in named for word in pair if word} == _commands()


def _anchor(heading: str) -> str:
    """The name that code hosts give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _links(name: str) -> Iterator[tuple[Path, str]]:
    for link in LINK.findall(_prose(name)):
        if not re.match(r"[a-z]+:", link):
            path, _, fragment = link.partition("#")
            here = ROOT / name
            yield (here.parent / path).resolve() if path else here, fragment


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    """Relative links point to files of this project, and to headings that they have."""
    broken = [
        f"{target}#{fragment}"
        for target, fragment in _links(name)
        if not target.is_relative_to(ROOT)
        or not target.exists()
        or (fragment and fragment not in map(_anchor, HEADING.findall(target.read_text("utf-8"))))
    ]

    assert broken == []


def test_there_are_links_to_check() -> None:
    """The documents are found, and so are their links."""
    assert {"README.md", "docs/design.md", "docs/scoring.md", "k8s/README.md"} <= set(NAMES)
    assert len(list(_links("README.md"))) > 5


def _paths(name: str) -> set[str]:
    """Files that a document names in passing, with a folder of this project before them."""
    pattern = r"`((?:docs|k8s|migrations|operators|ops|tests|\.ci)/[\w./-]+)`"
    return {path for path in re.findall(pattern, _prose(name)) if not path.endswith("_")}


@pytest.mark.parametrize("name", NAMES)
def test_files_that_are_named_exist(name: str) -> None:
    """A path in backquotes is that of a file or folder."""
    assert [path for path in sorted(_paths(name)) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", NAMES)
def test_tests_that_are_named_exist(name: str) -> None:
    """A document that says which test holds a promise names one that is there."""
    named = set(re.findall(r"`(test_\w+)`", _prose(name)))

    assert named - _tests() == set()


@cache
def _tests() -> set[str]:
    files = (ROOT / "tests").rglob("test_*.py")
    return {
        test
        for file in files
        for test in re.findall(r"^def (test_\w+)", file.read_text("utf-8"), re.MULTILINE)
    }
