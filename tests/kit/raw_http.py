"""A server that answers whatever bytes a test gives it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

__all__ = ["Talk", "answering", "answers", "request"]

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def answering(talk: Talk) -> AsyncIterator[str]:
    """Serve connections on a port of its own, on the loop of the test.

    :arg talk: What becomes of a connection; it is aborted afterwards if it is still open.

    :returns: Base URL.

    """

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await talk(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def answers(raw: bytes, *, early: bool = False) -> Talk:
    """Answer each connection with these bytes, and close it.

    :arg early: Whether to answer before the request.

    """

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not early:
            await request(reader)
        writer.write(raw)
        await writer.drain()

    return talk


async def request(reader: asyncio.StreamReader) -> bytes:
    """Read a whole request, and give its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    [length] = [
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    ]
    return await reader.readexactly(length)
