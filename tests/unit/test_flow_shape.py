"""What must not change unnoticed: step ids, public names, and that building connects to nothing."""

import ast
import importlib
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from bytewax.dataflow import Dataflow
from bytewax.visualize import RenderedOperator, to_rendered

import dataflow
from tests.kit.factories import settings

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for file in [
        *ROOT.glob("operators/**/*.py"),
        *ROOT.glob("telemetry/*.py"),
        ROOT / "settings.py",
        ROOT / "settings_types.py",
        ROOT / "startup.py",
    ]
)
STATEFUL = {"input", "stateful_batch", "output"}
"""Bytewax's own operators that may keep state; all others are made of these and stateless ones."""


def _walk(steps: Sequence[RenderedOperator]) -> Iterator[RenderedOperator]:
    for step in steps:
        yield step
        yield from _walk(step.substeps)


@pytest.fixture(scope="module")
def stream() -> Dataflow:
    """The stream as it is built for production."""
    return dataflow.build(settings())


def test_the_steps_of_the_stream(stream: Dataflow) -> None:
    """By id, in order: logs, metrics and the picture of the flow name them."""
    assert [step.step_id for step in to_rendered(stream).substeps] == [
        "fraud.transactions",
        "fraud.decode",
        "fraud.score",
        "fraud.failures",
        "fraud.stored",
        "fraud.failed",
    ]


def test_the_steps_that_keep_state(stream: Dataflow) -> None:
    """Recovery data is found by the full step id, those of inner steps included.

    Only the source has any: its positions. To rename it is to drop them without a word; the stream
    then goes on from the consumer group, and the release notes must say so.
    """
    steps = _walk(to_rendered(stream).substeps)

    assert {step.step_id: step.op_type for step in steps if step.op_type in STATEFUL} == {
        "fraud.transactions": "input",
        "fraud.score.keys": "input",
        "fraud.score.api": "stateful_batch",
        "fraud.stored": "output",
        "fraud.failed": "output",
    }


def _open() -> tuple[set[int], set[str]]:
    """Threads and sockets of this process."""
    threads = {thread.id for thread in psutil.Process().threads()}
    sockets = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:  # the folder's own
            continue
        if target.startswith("socket:"):
            sockets.add(target)
    return threads, sockets


def test_building_connects_to_nothing() -> None:
    """No socket, and no thread that could open one; the services of these settings do not exist."""
    threads, sockets = _open()

    dataflow.build(settings())

    threads_after, sockets_after = _open()
    assert threads_after <= threads
    assert sockets_after <= sockets


def test_the_public_surface_of_the_stream() -> None:
    """`python -m bytewax.run dataflow` calls `flow`; tests, demo and embedders call `build`."""
    parameters = inspect.signature(dataflow.build).parameters

    assert dataflow.__all__ == ["build", "flow"]
    given = ["source", "stored", "failed", "stop", "progress"]
    assert list(parameters) == ["settings", *given]
    assert all(
        parameter.kind is parameter.KEYWORD_ONLY and parameter.default is None
        for parameter in [*parameters.values()][1:]
    )
    assert not inspect.signature(dataflow.flow).parameters


def _defined(module: Any) -> set[str]:
    """Public functions and classes that a module itself defines."""
    tree = ast.parse(Path(module.__file__).read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = {node.name for node in tree.body if isinstance(node, kinds)}
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("name", MODULES)
def test_all_names_what_a_module_offers(name: str) -> None:
    """Each name exists, and no function or class is public without being named."""
    module = importlib.import_module(name)
    listed = getattr(module, "__all__", [])

    assert [name for name in listed if not hasattr(module, name)] == []
    assert _defined(module) <= set(listed)
    assert len(listed) == len(set(listed))
