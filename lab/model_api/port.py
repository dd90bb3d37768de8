"""A port that can refuse connections for a while and stays its owner's meanwhile."""

import asyncio
import socket

from aiohttp import web

__all__ = ["HOST", "Port"]

HOST = "127.0.0.1"


class Port:
    """A listening port.

    :arg runner: Set up; serves what comes in.

    :arg host: Address to listen at.

    :arg number: 0 takes a free one.

    """

    def __init__(self, runner: web.AppRunner, host: str, number: int) -> None:
        self._runner, self._host = runner, host
        self._site: web.SockSite | None = None
        self._socket = self._reserve(number)
        self._reopening: asyncio.Task[None] | None = None

    @property
    def number(self) -> int:
        """Its number."""
        return int(self._socket.getsockname()[1])

    async def open(self) -> None:
        """Listen; nothing if it listens already."""
        if self._reopening is not None:
            self._reopening.cancel()
            self._reopening = None
        await self._listen()

    async def refuse(self, seconds: float | None, *, but: asyncio.BaseTransport | None) -> None:
        """Refuse connections, and reset those that are there.

        :arg seconds: How long; None waits for `open`.

        :arg but: The one connection to keep.

        """
        if self._site is not None:
            number = self.number
            await self._site.stop()
            self._site = None
            # Bound and not listening: the kernel refuses, and nobody else can take the port.
            self._socket = self._reserve(number)
        assert self._runner.server is not None  # noqa: S101 - it is set up
        for connection in self._runner.server.connections:
            if connection.transport is not None and connection.transport is not but:
                connection.transport.abort()
        if self._reopening is not None:
            self._reopening.cancel()
        self._reopening = None if seconds is None else asyncio.create_task(self._reopen(seconds))

    def close(self) -> None:
        """Give the port up; the runner's own clean-up does so too while it listens."""
        if self._reopening is not None:
            self._reopening.cancel()
        self._socket.close()

    def _reserve(self, number: int) -> socket.socket:
        reserved = socket.socket()
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((self._host, number))
        return reserved

    async def _listen(self) -> None:
        if self._site is None:
            self._site = web.SockSite(self._runner, self._socket, backlog=1024)
            await self._site.start()

    async def _reopen(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._listen()
