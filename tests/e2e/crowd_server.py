"""A backend that does not mind how many clients it has, nor how slow they are; run with `fronts.backend`.

`GET /large` is answered with `LARGE` bytes. Anything else is answered with "ok": once its body is complete,
or at once and for good where the path is `/early`.
"""

from __future__ import annotations

import asyncio
import re
import socket
import sys

LARGE = 1 << 19
"""Bytes; much less would find room in the kernel's buffers on the way, and nobody would have to wait."""
ALL = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE + bytes(LARGE)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


async def main() -> None:
    listening = socket.socket(fileno=int(sys.argv[1]))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)  # or the kernel takes all at once
    async with await asyncio.start_server(serve, sock=listening) as server:
        await server.serve_forever()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            await answer(reader, writer)
    except (OSError, asyncio.IncompleteReadError):
        pass  # what a connection's loss means is for the client to say
    finally:
        writer.close()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    if head.startswith(b"GET /large "):
        writer.write(ALL)
    elif b" /early " in head:
        writer.write(OK)
        await reader.read()
    else:
        length = LENGTH.search(head)
        await reader.readexactly(int(length[1]) if length else 0)
        writer.write(OK)
    await writer.drain()


if __name__ == "__main__":
    asyncio.run(main())
