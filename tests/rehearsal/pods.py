"""A pod on this machine: the containers of a manifest as processes.

Command, arguments and environment are those of the manifest. Replaced are what a machine has only
once: paths of volumes, addresses of other services, and the addresses of the pods, which become
127.0.0.1, 127.0.0.2, … in the hostfile.
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import httpx
import psutil

from lab.servers import Server
from tests.kit.checkout import CHECKOUT
from tests.rehearsal.manifests import Manifests

__all__ = ["Container", "Pod", "Volumes"]


@dataclass(frozen=True)
class Volumes:
    """Where the volumes of a pod are on this machine.

    Claims and Secrets are in `shared`, by their names; what each pod has of its own, in `own`.
    """

    shared: Path
    own: Path

    def path(self, volume: Mapping[str, Any]) -> Path:
        """Give the folder of a volume; a Secret's is there already."""
        if "secret" in volume:
            return self.shared / str(volume["secret"]["secretName"])
        if "persistentVolumeClaim" in volume:
            folder = self.shared / str(volume["persistentVolumeClaim"]["claimName"])
        else:
            assert "emptyDir" in volume, volume
            folder = self.own / str(volume["name"])
        folder.mkdir(parents=True, exist_ok=True)
        return folder


class Container(Server):
    """One container of a pod, run to its end or until it is ended.

    :arg manifests: With the ConfigMaps that it names.

    :arg pod: The pod template.

    :arg spec: The container, as in the template.

    :arg name: Of the pod.

    :arg volumes: Of the pod.

    :arg overrides: Variables that are others on this machine.

    """

    stop_limit: ClassVar[timedelta] = timedelta(seconds=30)

    def __init__(
        self,
        manifests: Manifests,
        pod: Mapping[str, Any],
        spec: Mapping[str, Any],
        *,
        name: str,
        volumes: Volumes,
        overrides: Mapping[str, str],
    ) -> None:
        super().__init__(volumes.own / str(spec["name"]))
        self.directory = CHECKOUT
        by_name = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
        self._mounts = {
            mount["mountPath"]: volumes.path(by_name[mount["name"]])
            for mount in spec.get("volumeMounts", [])
        }
        self._probes = {key: value for key, value in spec.items() if key.endswith("Probe")}
        self._started, self._failures, self._probed = False, 0, 0.0
        given = self._given(manifests, spec, name)
        self._variables = {key: self._here(value) for key, value in given.items()}
        self._variables |= {key: value for key, value in overrides.items() if key in given}
        self._command = [
            self._here(_expand(str(part), given))
            for part in [*spec["command"], *spec.get("args", [])]
        ]

    def command(self) -> list[str]:
        """Run what the manifest says, with the present Python."""
        return [sys.executable if part == "python" else part for part in self._command]

    def environment(self) -> Mapping[str, str]:
        """Hand over what the manifest says, and nothing of this process's own."""
        return self._variables

    def is_ready(self) -> bool:
        """Say yes; what it waits for is up to the rehearsal."""
        return True

    def run(self) -> None:
        """Run it to its end, and see that it went well."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._spawn()  # not `start`, for which one that has ended already has failed
            status = self.wait()
        finally:
            self.kill()
        assert status == 0, f"{self.name} ended with {status}:\n{self.log_tail()}"

    def wait(self) -> int:
        """Wait for its end: its exit code."""
        assert self._child is not None, "start it first"
        status = self._child.wait(self.stop_limit.total_seconds())
        self.kill()  # takes note of its end
        return status

    def probe(self, kind: str) -> bool:
        """Ask as the kubelet would, and hear whether that went well.

        :arg kind: `startup`, `liveness` or `readiness`.

        """
        probe = self._probes[f"{kind}Probe"]
        variables = self._variables
        url = f"http://{variables['HTTP_HOST']}:{variables['HTTP_PORT']}{probe['httpGet']['path']}"
        try:
            with httpx.Client(trust_env=False, timeout=probe["timeoutSeconds"]) as client:
                return client.get(url).is_success
        except httpx.TransportError:
            return False

    def look_after(self) -> bool:
        """Start it again if a probe has failed too often, as the kubelet does.

        :returns: Whether that was done. A probe that is not due is not asked.

        """
        # Liveness counts from when the startup probe has once gone well.
        kind = "liveness" if self._started else "startup"
        probe = self._probes[f"{kind}Probe"]
        if time.monotonic() - self._probed < probe["periodSeconds"]:
            return False
        self._probed = time.monotonic()
        if self.probe(kind):
            self._started, self._failures = True, 0
            return False
        self._failures += 1
        if self._failures < probe["failureThreshold"]:
            return False
        self.kill()
        self.start()
        self._started, self._failures = False, 0
        return True

    def process(self) -> int | None:
        """Find the process that the supervisor runs at present."""
        children = psutil.Process(self.pid).children() if self.running else []
        return children[0].pid if children else None

    def _given(self, manifests: Manifests, spec: Mapping[str, Any], name: str) -> dict[str, str]:
        given: dict[str, str] = {}
        for source in spec.get("envFrom", []):
            given |= manifests.one("ConfigMap", source["configMapRef"]["name"])["data"]
        for variable in spec.get("env", []):
            if "valueFrom" in variable:
                assert variable["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
                given[variable["name"]] = name
            else:
                given[variable["name"]] = variable["value"]
        return given

    def _here(self, text: str) -> str:
        for mounted, folder in self._mounts.items():
            if text == mounted or text.startswith(f"{mounted}/"):
                return str(folder) + text.removeprefix(mounted)
        return text


def _expand(text: str, given: Mapping[str, str]) -> str:
    """Put variables in, as Kubernetes does with `$(NAME)`."""
    for name, value in given.items():
        text = text.replace(f"$({name})", value)
    return text


class Pod:
    """A pod of the StatefulSet.

    :arg manifests: Of an overlay.

    :arg number: Its ordinal.

    :arg folder: Of all pods.

    :arg overrides: Variables that are others on this machine.

    :arg port: Between the pods, at each one's own address.

    """

    def __init__(
        self,
        manifests: Manifests,
        number: int,
        folder: Path,
        *,
        overrides: Mapping[str, str],
        port: int,
    ) -> None:
        stateful_set = manifests.one("StatefulSet")
        self._set_name = str(stateful_set["metadata"]["name"])
        self.name = f"{self._set_name}-{number}"
        self._port = port
        template = stateful_set["spec"]["template"]
        self._volumes = Volumes(shared=folder / "shared", own=folder / self.name)
        here = {"HTTP_HOST": _address(number), **overrides}

        def container(spec: Mapping[str, Any]) -> Container:
            return Container(
                manifests,
                template,
                spec,
                name=self.name,
                volumes=self._volumes,
                overrides=here,
            )

        self._first = [container(spec) for spec in template["spec"]["initContainers"]]
        [stream] = template["spec"]["containers"]
        self.stream = container(stream)
        self.stream.name = self.name

    def start(self) -> None:
        """Run the init containers one after the other, then the stream."""
        for container in self._first:
            container.run()
        hosts = Path(self.stream.environment()["BYTEWAX_HOSTFILE_PATH"])
        lines = hosts.read_text().splitlines()
        expected = [f"{self._set_name}-{n}.{self._set_name}:9999" for n in range(len(lines))]
        assert lines == expected, lines
        hosts.write_text("".join(f"{_address(n)}:{self._port}\n" for n in range(len(lines))))
        self.stream.start()


def _address(number: int) -> str:
    return f"127.0.0.{number + 1}"
