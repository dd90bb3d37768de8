"""A TCP proxy in front of one server, to cut the network between it and its clients."""

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from enum import StrEnum
from types import TracebackType
from typing import Any, Self, TypeVar

from lab.servers import free_port
from lab.servers.ports import LOCALHOST

__all__ = ["Cut", "Proxy"]

X = TypeVar("X")

_CHUNK = 65_536
_LIMIT = 10.0
"""Seconds within which the proxy's own loop has to do what it is told."""


class Cut(StrEnum):
    """Ways in which a network fails."""

    SILENT = "silent"
    """Nothing passes, and nobody is told. What is under way arrives when it is over: TCP goes on
    trying even after the sender has given the connection up."""

    ANSWERS = "answers"
    """Requests arrive, answers do not before it is over: the client cannot know what was done."""

    REFUSED = "refused"
    """Connections are reset, new ones refused, and what was under way is lost."""


class Proxy:
    """Passes bytes to and fro; as a context manager, inside the block.

    :arg target: Port of the server on 127.0.0.1. Nothing needs to listen there yet.

    """

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._requests, self._answers = asyncio.Event(), asyncio.Event()

    def cut(self, how: Cut) -> None:
        """Cut the network until `heal`."""
        self._do(self._cut(how))

    def heal(self) -> None:
        """Let everything pass again."""
        self._do(self._heal())

    def __enter__(self) -> Self:
        """Listen."""
        self._thread.start()
        self.heal()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close all connections and the port."""
        self._do(self._cut(Cut.REFUSED))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_LIMIT)
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, X]) -> X:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_LIMIT)

    async def _heal(self) -> None:
        self._requests.set()
        self._answers.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, LOCALHOST, self.port)

    async def _cut(self, how: Cut) -> None:
        if how is not Cut.REFUSED:
            self._answers.clear()
        if how is Cut.SILENT:
            self._requests.clear()
        if how is Cut.REFUSED and self._server is not None:
            self._server.close()
            self._server = None
            for connection in self._connections:
                connection.cancel()
            if self._connections:
                await asyncio.wait(self._connections)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: that of the server logs when it is cancelled.
        connection = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            await self._requests.wait()
            answers, server = await asyncio.open_connection(LOCALHOST, self._target)
            ends.append(server)
            # The first failure ends both directions.
            async with asyncio.TaskGroup() as directions:
                directions.create_task(_pump(reader, server, self._requests))
                directions.create_task(_pump(answers, writer, self._answers))
        except BaseException as error:
            for end in ends:
                _reset(end)
            if not isinstance(error, OSError | ExceptionGroup):
                raise
        else:
            for end in ends:
                end.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    # Closed with nothing to linger for, TCP sends RST in place of FIN.
    connection = writer.get_extra_info("socket")
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event
) -> None:
    while data := await reader.read(_CHUNK):
        await gate.wait()
        writer.write(data)
        await writer.drain()
    await gate.wait()
    with suppress(OSError):  # the other side has closed as well
        writer.write_eof()
