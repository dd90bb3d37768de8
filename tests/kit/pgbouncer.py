"""PgBouncer in front of a database, as a child of the present process."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from lab.servers import Server, free_port
from lab.servers.ports import accepts
from tests.kit.programs import installed

__all__ = ["PgBouncer"]


class PgBouncer(Server):
    """A pooler with one address for one database.

    :arg folder: For its settings and its log, which it may enter as `nobody`.

    :arg database_url: Of the database behind it.

    :arg mode: What it pools: `session`, `transaction` or `statement`.

    :arg more: Other settings.

    """

    def __init__(self, folder: Path, database_url: str, mode: str, **more: str) -> None:
        super().__init__(folder)
        self._behind, self._port = urlsplit(database_url), free_port()
        self._settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self._port),
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": mode,
            "ignore_startup_parameters": "extra_float_digits",
            **more,
        }
        if os.geteuid() == 0:
            self._settings["user"] = "nobody"

    @property
    def url(self) -> str:
        """URL of the database through the pooler."""
        user = f"{self._behind.username}:{self._behind.password}"
        return f"postgresql://{user}@127.0.0.1:{self._port}{self._behind.path}"

    def prepare(self) -> None:
        """Write its settings."""
        at = self._behind
        name = at.path.removeprefix("/")
        lines = [
            "[databases]",
            f"{name} = host={at.hostname} port={at.port} user={at.username} password={at.password}",
            "[pgbouncer]",
            *(f"{key} = {value}" for key, value in self._settings.items()),
        ]
        (self.folder / "pgbouncer.ini").write_text("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        """Run it."""
        return [installed("pgbouncer"), "pgbouncer.ini"]

    def is_ready(self) -> bool:
        """Say whether it listens."""
        return accepts(self._port)
