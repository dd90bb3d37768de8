"""The stand-in for the model's API, in a process of its own."""

import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from lab.servers.ports import LOCALHOST, accepts, free_port
from lab.servers.process import Server

_CHECKOUT = Path(__file__).resolve().parents[2]


class ModelApi(Server):
    """The stand-in model server, `python -m lab.model_api`.

    :arg folder: For its log.

    :arg delay: How long the model takes for a batch.

    :arg options: More of its command line, such as `--fault`.

    """

    def __init__(
        self,
        folder: Path,
        *,
        delay: timedelta = timedelta(milliseconds=20),
        options: Sequence[str] = (),
    ) -> None:
        super().__init__(folder)
        self.directory = _CHECKOUT  # where `ops` is found
        self.port = free_port()
        self._control_port = free_port()
        self._delay = delay
        self._options = tuple(options)

    @property
    def url(self) -> str:
        """Where the API listens; transactions go to `/predict` there."""
        return f"http://{LOCALHOST}:{self.port}"

    def control(self, **fields: Any) -> Any:
        """Start a fault.

        :arg fields: Of the fault: `name="status", code=429, share=0.1`.

        :returns: What it counted so far, and the faults that are active.

        :raises httpx.HTTPStatusError: It knows no such fault.

        """
        return self._ask("POST", fields)

    def state(self) -> Any:
        """Give what it counted since the last reset, and the faults that are active."""
        return self._ask("GET")

    def reset(self) -> Any:
        """End all faults and count anew.

        :returns: What it counted until then.

        """
        return self._ask("DELETE")

    def command(self) -> list[str]:
        """Run the server."""
        return [
            *(sys.executable, "-m", "lab.model_api"),
            *("--port", str(self.port)),
            # Open even while a fault closes the other.
            *("--control-port", str(self._control_port)),
            *("--delay-ms", str(self._delay / timedelta(milliseconds=1))),
            *self._options,
        ]

    def is_ready(self) -> bool:
        """Say whether it accepts connections."""
        return accepts(self._control_port) and accepts(self.port)

    def _ask(self, method: str, body: Any = None) -> Any:
        # No proxy of the environment's: this never leaves the machine. Nor does it need the
        # certificates of all authorities, which take longer to read than this does.
        with httpx.Client(trust_env=False, timeout=10, verify=False) as client:  # noqa: S501
            url = f"http://{LOCALHOST}:{self._control_port}/control"
            answer = client.request(method, url, json=body)
        answer.raise_for_status()
        return answer.json()
