"""The manifests as `kubectl apply -k` would send them."""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

__all__ = ["KUBERNETES", "Manifests"]

KUBERNETES: Final = Path(__file__).parents[2] / "k8s"

Object = dict[str, Any]


class Manifests:
    """All objects of a kustomization.

    :arg folder: Below `k8s/`, such as `overlays/local`.

    """

    def __init__(self, folder: str) -> None:
        self.objects: list[Object] = list(yaml.safe_load_all(_kustomize(KUBERNETES / folder)))

    def all(self, kind: str) -> list[Object]:
        """Give all objects of a kind."""
        return [each for each in self.objects if each["kind"] == kind]

    def one(self, kind: str, name: str = "") -> Object:
        """Give the only object of a kind, or of a kind and a name."""
        [found] = [each for each in self.all(kind) if name in {"", each["metadata"]["name"]}]
        return found

    def pods(self) -> Iterator[Object]:
        """Give the pod templates of all that runs."""
        for each in self.objects:
            if "template" in each.get("spec", {}):
                yield each["spec"]["template"]


def _kustomize(folder: Path) -> bytes:
    # That of the development packages goes before another version.
    beside = Path(sys.executable).with_name("kubectl")
    kubectl = str(beside) if beside.exists() else shutil.which("kubectl")
    if kubectl is None:
        msg = "no kubectl, beside python or in PATH: make setup installs it, on Linux for x86-64"
        raise FileNotFoundError(msg)
    return _run([kubectl, "kustomize", str(folder)])


def _run(command: Sequence[str]) -> bytes:
    return subprocess.run(command, check=True, capture_output=True).stdout  # noqa: S603
