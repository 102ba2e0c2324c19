"""WebSockets with a client and a backend that are not ours: what one says, the other hears, until the end.

The client is asyncio's, because `websockets.sync` reads and writes in two threads, and Python's `ssl` was
not made for that: with TLS, one connection in some hundreds hangs, whoever serves it.
"""

from __future__ import annotations

import asyncio
import functools
import json
import socket
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus

from tests.e2e.conftest import Serving
from tests.e2e.fronts import SCHEMES, Front, Growth, Listening, backend, location
from tests.e2e.peers import Certificate
from tests.e2e.programs import Programs
from tests.e2e.streams import exactly

MIB = 1 << 20
SIZES = [0, 1, 125, 126, 65535, 65536, MIB]
"""Around the limits at which a frame's length changes its form (RFC 6455 §5.2), and a large one."""
LONGEST = 30.0


class Chat(NamedTuple):
    """A proxy, and the backend behind it."""

    front: Front
    backend: Listening

    def join(self, scheme: str, path: str, **options: Any) -> connect:
        """A client's connection, to be entered."""
        options["ssl"] = self.front.context() if scheme == "https" else None
        address = self.front.url(scheme, path).replace("http", "ws", 1)
        return connect(address, host="127.0.0.1", proxy=None, max_size=None, **options)

    def heard(self, words: str) -> None:
        """Wait until the backend has noted this end of a connection."""
        self.backend.program.says(words)


Scenario = Callable[..., Coroutine[Any, Any, None]]


def looped(scenario: Scenario) -> Callable[..., None]:
    """A test that is a coroutine; every wait in it has a deadline."""

    @functools.wraps(scenario)
    def test(*arguments: Any, **named: Any) -> None:
        asyncio.run(asyncio.wait_for(scenario(*arguments, **named), LONGEST))

    return test


@pytest.fixture(scope="module")
def chat(lasting_programs: Programs) -> Chat:
    server = backend(lasting_programs, "websocket_server")
    return Chat(Front(lasting_programs, location(server.port)), server)


@pytest.fixture
def own_chat(programs: Programs) -> Chat:
    """One that may be broken, and where nobody may be silent for long."""
    server = backend(programs, "websocket_server")
    return Chat(Front(programs, location(server.port), more='upgrade_idle_timeout = "1s"'), server)


schemes = pytest.mark.parametrize("scheme", SCHEMES)


@schemes
@pytest.mark.parametrize("compression", [None, "deflate"])
@looped
async def test_messages_of_every_size_come_back(chat: Chat, scheme: str, compression: str | None) -> None:
    async with chat.join(scheme, "/echo", compression=compression) as client:
        for size in SIZES:
            for message in ("ä" * (size // 2), bytes(range(256)) * (size // 256) + b"x" * (size % 256)):
                await client.send(message)
                assert await client.recv() == message
        await client.send(["in ", "three ", "frames"])
        assert await client.recv() == "in three frames"


@schemes
@looped
async def test_a_peer_behind_tls_makes_no_difference(
    programs: Programs, certificate: Certificate, scheme: str
) -> None:
    server = backend(programs, "websocket_server", certificate.certificate, certificate.key)
    secret = f', tls = true, tls_server_name = "a.test", tls_ca_path = "{certificate.certificate}"'
    chat = Chat(Front(programs, location(server.port, secret)), server)
    async with chat.join(scheme, "/echo") as client:
        for message in ("hello", b"\xff" * MIB):
            await client.send(message)
            assert await client.recv() == message


@schemes
@looped
async def test_the_backend_learns_who_wants_to_talk(chat: Chat, scheme: str) -> None:
    async with chat.join(scheme, "/headers", origin="https://a.test") as client:
        fields = {name.lower(): value for name, value in json.loads(await client.recv())}
    assert fields["host"] == f"localhost:{chat.front.ports[scheme]}"
    assert (fields["connection"].lower(), fields["upgrade"].lower()) == ("upgrade", "websocket")
    assert (fields["origin"], fields["x-forwarded-for"]) == ("https://a.test", "127.0.0.1")
    assert fields["x-forwarded-proto"] == scheme


@schemes
@looped
async def test_the_subprotocol_is_agreed_on_end_to_end(chat: Chat, scheme: str) -> None:
    several = ["soap", "chat.v2", "chat.v1"]
    for offered, chosen in ((["chat.v2"], "chat.v2"), (several, "chat.v1"), (None, None)):
        async with chat.join(scheme, "/echo", subprotocols=offered) as client:
            assert client.subprotocol == chosen
    with pytest.raises(InvalidStatus) as refused:
        await chat.join(scheme, "/echo", subprotocols=["soap"])
    assert refused.value.response.status_code == 400


@schemes
@looped
async def test_pings_and_pongs_go_both_ways(chat: Chat, scheme: str) -> None:
    async with chat.join(scheme, "/echo") as client:
        for payload in (b"", b"p" * 125):
            await (await client.ping(payload))
    async with chat.join(scheme, "/ping") as client:
        assert await client.recv() == "a pong came"


@schemes
@looped
async def test_the_backends_close_code_reaches_the_client(chat: Chat, scheme: str) -> None:
    for code in (1000, 1001, 1011, 3000, 4999):
        async with chat.join(scheme, f"/close/{code}") as client:
            with pytest.raises(ConnectionClosed):
                await client.recv()
        assert (client.close_code, client.close_reason) == (code, "as you wish")


@schemes
@looped
async def test_the_clients_close_code_reaches_the_backend(chat: Chat, scheme: str) -> None:
    for code in (1000, 1001, 4000, 4999):
        async with chat.join(scheme, f"/echo/{scheme}/{code}") as client:
            await client.close(code, "that will do")
        chat.heard(f"/echo/{scheme}/{code} ended with {code} that will do")


@schemes
@looped
async def test_a_client_that_vanishes_is_gone_for_the_backend_too(chat: Chat, scheme: str) -> None:
    async with chat.join(scheme, f"/echo/{scheme}/gone") as client:
        client.transport.abort()
        await client.wait_closed()
    chat.heard(f"/echo/{scheme}/gone ended with 1006")


@schemes
@looped
async def test_a_backend_that_vanishes_is_gone_for_the_client_too(own_chat: Chat, scheme: str) -> None:
    async with own_chat.join(scheme, "/echo") as client:
        await client.send("hello")
        assert await client.recv() == "hello"
        own_chat.backend.program.popen.kill()
        with pytest.raises(ConnectionClosedError):
            await client.recv()
        assert client.close_code == 1006


@schemes
@looped
async def test_a_refusal_passes_as_it_is(chat: Chat, scheme: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await chat.join(scheme, "/refuse")
    response = refused.value.response
    assert (response.status_code, response.body) == (403, b"you may not\n")
    assert response.headers["X-Why"] == "tests"


def asking(path: str, upgrade: bool) -> bytes:
    more = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    more = "Connection: Upgrade\r\nUpgrade: websocket\r\n" + more if upgrade else ""
    return f"GET {path} HTTP/1.1\r\nHost: a.test\r\n{more}\r\n".encode()


def head_of(stream: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += exactly(stream, 1)
    return head


@schemes
def test_a_connection_whose_upgrade_is_refused_goes_on_and_may_try_again(chat: Chat, scheme: str) -> None:
    with chat.front.connect(scheme) as client:
        for upgrade in (False, True, False):
            client.sendall(asking("/plain", upgrade))
            assert b" 200 OK\r\n" in head_of(client)
            assert exactly(client, 5) == b"plain"
        client.sendall(asking("/echo", True))
        assert b" 101 Switching Protocols\r\n" in head_of(client)
        client.sendall(b"\x81\x83\0\0\0\0now")  # a text frame of three bytes, masked with zeros
        assert exactly(client, 5) == b"\x81\x03now"


@looped
async def test_fifty_conversations_at_once_are_kept_apart(chat: Chat) -> None:
    async def converse(number: int) -> None:
        async with chat.join(SCHEMES[number % 2], "/echo") as client:
            for turn in range(20):
                await client.send(f"{number} says {turn} " * (turn * 50))
                assert await client.recv() == f"{number} says {turn} " * (turn * 50)

    await asyncio.gather(*map(converse, range(50)))


@schemes
@looped
async def test_what_a_client_does_not_read_is_held_by_the_backend(chat: Chat, scheme: str) -> None:
    with Growth(chat.front.proxy) as growth:
        async with chat.join(scheme, "/pour", compression=None) as client:
            await asyncio.sleep(1)  # time enough for some hundred megabytes
            for number in range(1000):
                assert (await client.recv())[:8] == number.to_bytes(8, "big")
            client.transport.abort()
    assert growth.by < Growth.MOST


@schemes
@looped
async def test_silence_ends_a_conversation_and_pings_are_no_silence(own_chat: Chat, scheme: str) -> None:
    async with own_chat.join(scheme, "/echo", ping_interval=None) as client:
        for _ in range(6):
            await (await client.ping())
            await asyncio.sleep(0.25)
        with pytest.raises(ConnectionClosedError):
            await asyncio.wait_for(client.recv(), 4)
        assert client.close_code == 1006


def switching(stream: socket.socket) -> None:
    """Agrees to an upgrade, says something in the same breath, and then echoes."""
    early = b""
    while b"\r\n\r\n" not in early:
        early += stream.recv(1 << 16)
    answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: own\r\n\r\nwelcome"
    stream.sendall(answer + early.partition(b"\r\n\r\n")[2])
    while chunk := stream.recv(1 << 16):
        stream.sendall(chunk)


@schemes
def test_what_either_side_says_too_early_is_not_lost(
    programs: Programs, serving: Serving, scheme: str
) -> None:
    """Any protocol may be upgraded to; neither side waits for the other here."""
    with Front(programs, serving(switching).location).connect(scheme) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: own\r\n\r\nearly")
        assert b" 101 Switching Protocols\r\n" in head_of(client)
        assert exactly(client, 12) == b"welcomeearly"
        for number, size in enumerate((1, 1000, 100_000)):
            client.sendall(bytes([number]) * size)
            assert exactly(client, size) == bytes([number]) * size
