"""Who may know whom: ops → dataflow → operators → settings, telemetry; and the extra."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {
    "settings": set(),
    "telemetry": {"telemetry"},
    "operators": {"operators", "settings", "telemetry"},
    "dataflow": {"operators", "settings", "telemetry"},
    "ops": {"ops", "lab", "dataflow", "operators", "settings", "telemetry"},
    "lab": {"lab", "ops", "dataflow", "operators", "settings", "telemetry"},
}


def _imported(file: Path) -> Iterator[str]:
    """Names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports here are absolute"
            yield node.module or ""


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_a_part_imports_only_the_parts_below_it(name: str) -> None:
    """A module of one part imports none of the parts that it may not know."""
    files = [ROOT / f"{name}.py", *sorted((ROOT / name).rglob("*.py"))]
    present = [file for file in files if file.is_file()]
    assert present
    for file in present:
        known = {module.split(".")[0] for module in _imported(file)} & MAY_IMPORT.keys()
        assert known <= MAY_IMPORT[name], f"{file.relative_to(ROOT)} may not import that"


def test_opentelemetry_is_known_to_one_module() -> None:
    """It is an extra: a module that is always imported must not need it."""
    files = [
        file
        for name in MAY_IMPORT
        for file in [ROOT / f"{name}.py", *(ROOT / name).rglob("*.py")]
        if file.is_file()
    ]
    knowing = [file for file in files if any("opentelemetry" in name for name in _imported(file))]
    assert knowing == [ROOT / "telemetry" / "spans.py"]
