"""A WebSocket backend in a process of its own; run with `fronts.backend`, with or without a certificate.

The path says what it does: `/echo`, `/headers` (shows those of the request as JSON), `/close/CODE`, `/ping`,
`/pour` (numbered messages as long as they are taken); `/refuse` and `/plain` are answered without an
upgrade. The log has a line for each connection's end, with the close code and reason of the client.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import ssl
import sys
from collections.abc import Sequence
from http import HTTPStatus

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, NegotiationError
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

SUBPROTOCOLS = [Subprotocol("chat.v1"), Subprotocol("chat.v2")]
MESSAGE = 1 << 16
"""Bytes of what `/pour` says at a time."""


async def main() -> None:
    listening, secret = socket.socket(fileno=int(sys.argv[1])), None
    if len(sys.argv) > 2:
        secret = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        secret.load_cert_chain(*sys.argv[2:])
    async with serve(
        talk, sock=listening, ssl=secret, process_request=admit, select_subprotocol=choose, max_size=None
    ):
        await asyncio.Future()


def choose(connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """The first of ours that is offered; whoever offers something has to offer one of them."""
    common = [name for name in SUBPROTOCOLS if name in offered]
    if offered and not common:
        raise NegotiationError("none of these")
    return common[0] if common else None


def admit(connection: ServerConnection, request: Request) -> Response | None:
    """What is answered instead of an upgrade."""
    match request.path:
        case "/refuse":
            said = connection.respond(HTTPStatus.FORBIDDEN, "you may not\n")
            said.headers["X-Why"] = "tests"
            return said
        case "/plain":
            return Response(200, "OK", Headers({"Content-Length": "5"}), b"plain")
    return None


async def talk(connection: ServerConnection) -> None:
    """Do what the path says, listen until the client leaves, and note how it did."""
    assert connection.request is not None
    try:
        await act(connection, connection.request)
        async for _ in connection:
            pass
    except ConnectionClosed:
        pass
    print(connection.request.path, "ended with", connection.close_code, connection.close_reason, flush=True)


async def act(connection: ServerConnection, request: Request) -> None:
    match request.path.split("/"):
        case [_, "echo", *_]:
            async for message in connection:
                await connection.send(message)
        case [_, "headers"]:
            await connection.send(json.dumps(list(request.headers.raw_items())))
        case [_, "close", code]:
            await connection.close(int(code), "as you wish")
        case [_, "ping"]:
            await (await connection.ping(b"are you there?"))
            await connection.send("a pong came")
        case [_, "pour"]:
            for number in itertools.count():
                await connection.send(number.to_bytes(8, "big") * (MESSAGE // 8))


if __name__ == "__main__":
    asyncio.run(main())
