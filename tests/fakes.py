"""Shared by the tests of the core: real hellos, a journal that remembers, sockets and reactors to drive."""

from __future__ import annotations

import gc
import os
import random
import select
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from twisted.internet import reactor
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.posixbase import _DisconnectSelectableMixin
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock, deferLater
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.interfaces import Arrival

PATIENCE = 2.0
"""Seconds after which a test over real sockets gives up; none comes near."""


@cache
def hello_bytes(name: str | None = "example.org", alpn: tuple[str, ...] = ("h2", "http/1.1")) -> bytes:
    """The first flight of OpenSSL's client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(list(alpn))
    sent = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return sent.read()


@dataclass
class End:
    """One call of `Journal.ended`."""

    arrival: Arrival
    app: str
    peer: str
    received: int
    sent: int
    seconds: float
    reason: str


class Journal:
    """Implements `interfaces.Journal` by remembering."""

    def __init__(self) -> None:
        self.ends: list[End] = []

    def ended(self, arrival: Arrival, **facts: Any) -> None:
        self.ends.append(End(arrival, **facts))

    @property
    def end(self) -> End:
        """The only one."""
        (end,) = self.ends
        return end


class LogLines:
    """Collects what is logged while it is entered."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> LogLines:
        globalLogPublisher.addObserver(self.events.append)
        return self

    def __exit__(self, *exc: object) -> None:
        globalLogPublisher.removeObserver(self.events.append)

    def texts(self, source: str) -> list[str]:
        """The formatted events of the loggers whose namespace begins with `source`."""
        events = [e for e in self.events if str(e.get("log_namespace", "")).startswith(source)]
        return [str(e["log_format"]).format(**e) for e in events]


async def turn() -> None:
    """Let the reactor run once."""
    await deferLater(reactor, 0)


async def until(condition: Callable[[], Any]) -> Any:
    """Let the reactor run until something is true."""
    end = reactor.seconds() + PATIENCE  # type: ignore[attr-defined]
    while not (found := condition()):
        assert reactor.seconds() < end, "it never came true"  # type: ignore[attr-defined]
        await turn()
    return found


def open_files(*kinds: str) -> frozenset[tuple[str, str]]:
    """The sockets and pipes of this process, each as its number and its inode; or what begins otherwise.

    A set and not a count: what an earlier test left to the reactor may close while a later one runs, and
    only what is new was left by it (`open_files() <= before`). What waits for the collector is nobody's.
    """
    gc.collect()
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink(f"/proc/self/fd/{number}")
        except OSError:  # the directory's own
            continue
        if link.startswith(kinds or ("socket:", "pipe:")):
            found.add((number, link))
    return frozenset(found)


class Wire:
    """One end of a connection, in the test's hands; never blocks the reactor."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.got = bytearray()
        self.state = "open"

    @classmethod
    def to(cls, address: Any) -> Wire:
        """Connects to a listening socket on this machine."""
        sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        sock.connect(address)
        return cls(sock)

    async def send(self, octets: bytes) -> None:
        """All of it, as fast as the other end takes it."""
        left = memoryview(octets)
        while left:
            try:
                left = left[self.socket.send(left) :]
            except BlockingIOError:
                await turn()

    def read(self) -> bytes:
        """Everything received up to now; `state` becomes "eof" or "reset" at the end."""
        while self.state == "open":
            try:
                octets = self.socket.recv(1 << 18)
            except BlockingIOError:
                break
            except ConnectionError:
                self.state = "reset"
            else:
                self.got += octets
                if not octets:
                    self.state = "eof"
        return bytes(self.got)

    async def receive(self, size: int) -> bytes:
        """Wait for that many bytes in all."""
        await until(lambda: len(self.read()) >= size)
        return bytes(self.got)

    async def ends(self) -> str:
        """Wait for the end: "eof" or "reset"."""

        def ended() -> bool:
            self.read()
            return self.state != "open"

        await until(ended)
        return self.state

    def finish(self) -> None:
        """Half-close."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def close(self) -> None:
        self.socket.close()


class Backend:
    """A listening socket that the test accepts from."""

    def __init__(self, address: Any = ("127.0.0.1", 0)) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.create_server(address, family=family)
        self.socket.setblocking(False)
        self.address = self.socket.getsockname()

    def try_accept(self) -> Wire | None:
        try:
            return Wire(self.socket.accept()[0])
        except BlockingIOError:
            return None

    async def accept(self) -> Wire:
        wire: Wire = await until(self.try_accept)
        return wire

    def close(self) -> None:
        self.socket.close()


@implementer(IHalfCloseableProtocol)
class Remembering(Protocol):
    """Writes down its calls; `on` says what to do in them."""

    def __init__(self, **on: Callable[[Any], object]) -> None:
        self.calls: list[str] = []
        self.octets = b""
        self.reason: type | None = None
        self._on = on

    def _called(self, name: str) -> None:
        self.calls.append(name)
        self._on.get(name, lambda transport: None)(self.transport)

    def connectionMade(self) -> None:
        self._called("made")

    def dataReceived(self, data: bytes) -> None:
        self.octets += data
        self._called("read")

    def readConnectionLost(self) -> None:
        self._called("read_lost")

    def writeConnectionLost(self) -> None:
        self._called("write_lost")

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.reason = reason.type
        self._called("lost")


class Loop(_DisconnectSelectableMixin, Clock):
    """A reactor in the test's hands: a clock that stands still, real sockets that are looked at on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()
        self.writers: set[Any] = set()

    def addReader(self, reader: Any) -> None:
        self.readers.add(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.discard(reader)

    def addWriter(self, writer: Any) -> None:
        self.writers.add(writer)

    def removeWriter(self, writer: Any) -> None:
        self.writers.discard(writer)

    def spin(self, turns: int = 50) -> None:
        """Serve what is ready, and the calls that are due now, until nothing is or for so many turns."""
        for _ in range(turns):
            self.advance(0)
            ready = select.select(list(self.readers), list(self.writers), [], 0)
            if not any(ready):
                return
            for selectable in ready[0]:
                if selectable in self.readers:
                    self._serve(selectable, selectable.doRead, True)
            for selectable in ready[1]:
                if selectable in self.writers:
                    self._serve(selectable, selectable.doWrite, False)

    def _serve(self, selectable: Any, work: Callable[[], Any], is_read: bool) -> None:
        why = work()
        if why:
            self._disconnectSelectable(selectable, why, is_read)


class Unreliable:
    """A socket as bad as a kernel may make it: short reads and writes, EAGAIN, a loss when told."""

    def __init__(self, sock: socket.socket, rng: random.Random, most: int = 1 << 16) -> None:
        self.real, self.rng, self.most = sock, rng, most
        self.broken = False
        self.break_after: float = float("inf")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def send(self, octets: Any) -> int:
        return self.real.send(octets[: self._size()])

    def recv(self, size: int) -> bytes:
        return self.real.recv(min(size, self._size()))

    def _size(self) -> int:
        """How much of this call succeeds; raises what the kernel would."""
        self.break_after -= 1
        if self.break_after < 0:
            raise ConnectionResetError(104, "Connection reset by peer")
        if self.rng.random() < 0.3:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return self.rng.choice((1, 7, 1000, self.most))
