"""The model servers that the contracts are for, with the models that docs/contracts.md shows."""

import json
import os
import re
import shutil
import subprocess
from abc import abstractmethod
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import httpx

from lab.servers import Server, ServerError, free_port

__all__ = ["MLServer", "MLflow", "ModelServer", "documented"]

CHECKOUT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = CHECKOUT / ".contracts"
MODELS = Path(__file__).resolve().parent / "models"
LOCALHOST = "127.0.0.1"
FILE = re.compile(
    r"^`(?P<name>[^`\n]+)`:\n\n```\w+\n(?P<content>.*?)^```$", re.MULTILINE | re.DOTALL
)


def documented(folder: str) -> dict[str, str]:
    """Read the files of a model that docs/contracts.md shows.

    :arg folder: Of the files, as they are named there.

    :returns: Content by name, without the folder.

    """
    text = (CHECKOUT / "docs" / "contracts.md").read_text("utf-8")
    files = {match["name"]: match["content"] for match in FILE.finditer(text)}
    prefix = f"{folder}/"
    return {name.removeprefix(prefix): files[name] for name in files if name.startswith(prefix)}


class ModelServer(Server):
    """A model server, installed in an environment of its own.

    :arg folder: For models and log.

    """

    ready_limit: ClassVar[timedelta] = timedelta(seconds=90)
    program: ClassVar[str]
    """Name of the environment, of its requirements, of the program in it and in the docs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.directory = self.folder
        self.port = free_port()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{LOCALHOST}:{self.port}"

    @property
    @abstractmethod
    def health(self) -> str:
        """Path that answers 200 once the models are loaded."""

    @classmethod
    def executable(cls, name: str) -> str:
        """Find a program of the server's environment.

        :arg name: Of the program.

        :returns: Its path.

        :raises ServerError: The server is not installed.

        """
        path = ENVIRONMENTS / cls.program / "bin" / name
        if not path.exists():
            msg = f"{cls.__name__} is not installed in {path.parents[1]}: run `make test-contracts`"
            raise ServerError(msg)
        return str(path)

    def environment(self) -> Mapping[str, str]:
        """Find its own programs and modules; report to nobody."""
        return {
            "PATH": f"{ENVIRONMENTS / self.program / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder),
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "DO_NOT_TRACK": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

    def is_ready(self) -> bool:
        """Say whether the models are loaded."""
        try:
            answer = httpx.get(f"{self.url}{self.health}", trust_env=False, timeout=5)
        except httpx.TransportError:
            return False
        return answer.status_code == httpx.codes.OK


class MLServer(ModelServer):
    """MLServer with the models `fraud`, as documented, and `faulty`."""

    program: ClassVar[str] = "mlserver"

    @property
    def health(self) -> str:
        """Path that answers 200 once the models are loaded."""
        return "/v2/health/ready"

    def prepare(self) -> None:
        """Write settings and models."""
        files = documented("mlserver")
        settings = {"name": "faulty", "implementation": "faulty_mlserver.FaultyModel"}
        files["faulty/model-settings.json"] = json.dumps(settings)
        files["settings.json"] = json.dumps(
            {
                "host": LOCALHOST,
                "http_port": self.port,
                "grpc_port": free_port(),
                "metrics_endpoint": None,
                "parallel_workers": 0,
            }
        )
        files["fraud/model-settings.json"] = files.pop("model-settings.json")
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(content, "utf-8")
        for name in ("faults.py", "faulty_mlserver.py"):
            shutil.copy(MODELS / name, self.folder)

    def command(self) -> list[str]:
        """Serve everything in the folder."""
        return [self.executable("mlserver"), "start", str(self.folder)]


class MLflow(ModelServer):
    """MLflow's scoring server with one model.

    :arg folder: For model and log.

    :arg faulty: Instead of the documented model, the one with faults on demand.

    """

    program: ClassVar[str] = "mlflow"

    def __init__(self, folder: Path, *, faulty: bool = False) -> None:
        super().__init__(folder)
        self._faulty = faulty

    @property
    def health(self) -> str:
        """Path that answers 200 once the model is loaded."""
        return "/ping"

    def prepare(self) -> None:
        """Save the model, without a tracking server."""
        files = documented("mlflow")
        for name, content in files.items():
            (self.folder / name).write_text(content, "utf-8")
        if self._faulty:
            for name in ("faults.py", "faulty_mlflow.py"):
                shutil.copy(MODELS / name, self.folder)
            script = files["save.py"].replace('"fraud.py"', '"faulty_mlflow.py"')
            (self.folder / "save.py").write_text(script, "utf-8")
        done = subprocess.run(  # noqa: S603 - its own program, nothing comes from outside
            [self.executable("python"), "save.py"],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        if done.returncode:
            msg = f"the documented model cannot be saved:\n{done.stderr}"
            raise ServerError(msg)

    def command(self) -> list[str]:
        """Serve the model in this environment, which makes no other."""
        return [
            *(self.executable("mlflow"), "models", "serve", "--env-manager", "local"),
            *("--model-uri", "model", "--host", LOCALHOST, "--port", str(self.port)),
        ]
