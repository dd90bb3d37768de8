"""Prometheus itself, with the project's own configuration, asked over its HTTP API."""

from pathlib import Path
from typing import Any

import httpx
import yaml

from lab.servers import Server, free_port
from tests.kit.checkout import CHECKOUT
from tests.kit.programs import installed

__all__ = ["Prometheus"]

_CONFIG = CHECKOUT / "monitoring" / "prometheus.yml"
_OFTEN = "200ms"


class Prometheus(Server):
    """One Prometheus that reads one process of the stream.

    :arg folder: For its data and its log.

    :arg target: Address of what it reads: host and port.

    """

    def __init__(self, folder: Path, target: str) -> None:
        super().__init__(folder)
        self._target = target
        self._address = f"127.0.0.1:{free_port()}"

    def prepare(self) -> None:
        """Write the project's configuration with this target, read more often."""
        config = yaml.safe_load(_CONFIG.read_text())
        config["global"] = dict.fromkeys(config["global"], _OFTEN)
        config["rule_files"] = [str(_CONFIG.parent / pattern) for pattern in config["rule_files"]]
        [job] = config["scrape_configs"]
        job["static_configs"] = [{"targets": [self._target]}]
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(config))

    def command(self) -> list[str]:
        """Run it."""
        return [
            installed("prometheus"),
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            f"--web.listen-address={self._address}",
        ]

    def is_ready(self) -> bool:
        """Say whether it answers queries."""
        try:
            return self._get("/-/ready").is_success
        except httpx.TransportError:
            return False

    def values(self, query: str) -> list[float]:
        """Ask for what is so now.

        :arg query: PromQL.

        :returns: The value of each series.

        :raises AssertionError: Prometheus refuses the query.

        """
        response = self._get("/api/v1/query", query=query)
        answer = response.json()
        assert answer["status"] == "success", f"{answer['error']}: {query}"
        return [float(series["value"][1]) for series in answer["data"]["result"]]

    def total(self, query: str) -> float:
        """Sum of {py:obj}`values`, 0 of none."""
        return sum(self.values(query))

    def rules(self) -> list[dict[str, Any]]:
        """All rules that it has loaded, with their health."""
        groups = self._get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def _get(self, path: str, **parameters: str) -> httpx.Response:
        return httpx.get(f"http://{self._address}{path}", params=parameters, trust_env=False)
