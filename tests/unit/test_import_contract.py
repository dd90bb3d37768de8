"""Who may know whom: lab, ops, dataflow → operators → settings, telemetry; and inside operators."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS: Mapping[str, set[str]] = {
    "settings_types": set(),
    "settings": {"settings_types"},
    "telemetry": {"telemetry"},
    "operators": {"operators", "settings", "telemetry"},
    "startup": {"ops", "operators", "settings", "telemetry"},
    "dataflow": {"startup", "operators", "settings", "telemetry"},
    "ops": {"ops", "lab", "operators", "settings"},
    "lab": {"lab", "ops"},
}
BASE = {"backoff", "engine", "errors", "records", "settings", "telemetry"}
ROOMS: Mapping[str, set[str]] = {
    "backoff": set(),
    "errors": {"telemetry"},
    "engine": {"errors", "telemetry"},
    "records": {"engine"},
    "fields": set(),
    "formats": set(),
    "decode": {"errors", "records", "fields", "formats"},
    "kafka": BASE,
    "dead_letters": BASE | {"kafka", "decode"},  # what is JSON in an envelope, decode says
    "postgres": BASE,
    "model": BASE,
    "workers": BASE - {"errors", "records"} | {"dead_letters", "postgres", "model"},
    "takeover": BASE - {"settings"} | {"kafka", "workers"},
    "source": BASE | {"kafka", "dead_letters", "takeover", "workers"},
    "score": {"engine", "records", "model", "workers"},
    "sinks": {"engine", "records", "telemetry", "workers"},
    "preflight": {"errors", "settings", "source", "dead_letters", "postgres", "model"},
}
"""Rooms and modules of operators/, lowest first; the steps come last."""


def _imported(file: Path) -> Iterator[str]:
    """Full names of what a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports here are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files(path: Path) -> list[Path]:
    """A module, or all of a package."""
    files = [path.with_suffix(".py"), *sorted(path.rglob("*.py"))]
    present = [file for file in files if file.is_file()]
    assert present
    return present


def _room(module: str) -> str:
    part, _, rest = module.partition(".")
    return rest.split(".")[0] if part == "operators" else part


@pytest.mark.parametrize("name", PARTS)
def test_a_part_imports_only_the_parts_below_it(name: str) -> None:
    """A module of one part imports none of the parts that it may not know."""
    for file in _files(ROOT / name):
        known = {module.split(".")[0] for module in _imported(file)} & PARTS.keys()
        assert known <= PARTS[name], f"{file.relative_to(ROOT)} may not import that"


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_imports_only_the_rooms_below_it(name: str) -> None:
    """So that each can be read, tested and replaced without those above it."""
    for file in _files(ROOT / "operators" / name):
        known = {_room(module) for module in _imported(file)} & {*ROOMS, *PARTS}
        assert known - {name} <= ROOMS[name], f"{file.relative_to(ROOT)} may not import that"


def test_every_room_has_a_contract() -> None:
    """A new one has to find its place."""
    found = {path.stem for path in (ROOT / "operators").iterdir() if path.suffix in {"", ".py"}}
    assert found - {"__init__", "__pycache__"} == ROOMS.keys()


def test_rooms_know_only_what_is_listed_before_them() -> None:
    """There is no circle."""
    order = [*ROOMS]
    for number, (name, below) in enumerate(ROOMS.items()):
        assert below & {*ROOMS} <= {*order[:number]}, name


def test_opentelemetry_is_known_to_one_module() -> None:
    """It is an extra: a module that is always imported must not need it."""
    files = [file for name in PARTS for file in _files(ROOT / name)]
    knowing = [file for file in files if any("opentelemetry" in name for name in _imported(file))]
    assert knowing == [ROOT / "telemetry" / "spans.py"]
