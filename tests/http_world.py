"""A proxy for HTTP in the test's hands: real sockets, a clock that stands still, peers in person."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar, cast

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock

from rproxy.deadlines import Deadlines
from rproxy.downstream import http_factory
from rproxy.downstream.http_factory import HttpFactory, Serving
from rproxy.downstream.http_server import HttpServer
from rproxy.downstream.http_watch import HttpLimits
from rproxy.downstream.peek import PeekFactory, PeekOptions, ProxyPolicy
from rproxy.errors import Refusal
from rproxy.exchange import Client, Exchange
from rproxy.policy.balance import RoundRobin
from rproxy.policy.forwarding import RequestRewriter, ResponseRewriter
from rproxy.policy.networks import NetworkSet
from rproxy.policy.paths import PathTable
from rproxy.policy.rules import HeaderRules, Side
from rproxy.services.connections import Connections
from rproxy.services.limits import Limits
from rproxy.services.lines import LineBatch
from rproxy.services.requestlog import LogFormat, RequestLog, Served
from rproxy.sites import Route, Site, Sites
from rproxy.splice import Pipes
from rproxy.transports import Accepted
from rproxy.upstream.http_client import HttpPeer
from rproxy.upstream.peer import Group
from rproxy.wire.message import Request
from tests.fakes import Journal, Loop

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SLACK = 5.6
"""Seconds until a deadline of a connection is noticed: a look every 5 s, and the buckets of the deadlines."""
W = TypeVar("W", bound="World")


class Line(NamedTuple):
    """What would be written to the access log."""

    status: int
    reason: str
    sent: int


class Answers(http_factory.Answers):
    """Pages that are their reason, lines that are kept."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.number = 0

    def next_id(self) -> str:
        self.number += 1
        return str(self.number)

    def page(self, server: HttpServer, refusal: Refusal, request: Any, site: Any) -> tuple[bytes, bytes]:
        return b"text/plain", refusal.reason.encode()

    def served(
        self, server: Client, request: Request | None, exchange: Exchange | None, since: float, ended: float
    ) -> None:
        told: Any = exchange or server
        self.lines.append(Line(told.status, told.reason, server.sent))


class Written(RequestLog):
    """Keeps the lines that it is told to write."""

    def __init__(self, style: LogFormat = "json") -> None:
        super().__init__(cast(Any, LineBatch(Clock(), len, "nowhere", cast(Any, None))), style)
        self.lines: list[Served] = []

    def plain(self, *told: Any) -> bool:
        return False

    def served(self, request: Served, now: float) -> None:
        self.lines.append(request)


class Stream:
    """One end of a connection, the client's or a peer's."""

    def __init__(self, world: World, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or the kernel waits, and we do not
        self.world, self.socket, self.got, self.open = world, sock, b"", True

    def send(self, *pieces: bytes) -> Any:
        """Each piece in a read of its own."""
        for piece in pieces:
            left = memoryview(piece)
            while left:
                try:
                    left = left[self.socket.send(left) :]
                except BlockingIOError:
                    self.world.loop.spin()
            self.world.loop.spin()
        return self

    def push(self, piece: bytes) -> int:
        """As much as goes without anybody stalling for it; how much that was."""
        sent = quiet = 0
        while sent < len(piece) and quiet < 3:
            try:
                sent += self.socket.send(piece[sent : sent + (1 << 18)])
                quiet = 0
            except BlockingIOError:
                quiet += 1
            self.world.loop.spin()
        return sent

    def read(self) -> bytes:
        """What has come since the last look; `<end>` or `<reset>` stands for how it ended."""
        self.world.loop.spin()
        self._take()
        got, self.got = self.got, b""
        return got

    def all(self, size: int) -> bytes:
        """At least so many bytes, unless it ends before; the loop spins meanwhile."""
        for _ in range(20000):
            self._take()
            if len(self.got) >= size or not self.open:
                break
            self.world.loop.spin()
        got, self.got = self.got, b""
        return got

    def _take(self) -> None:
        while self.open:
            try:
                got = self.socket.recv(1 << 20)
            except BlockingIOError:
                break
            except ConnectionError:
                self.got, self.open = self.got + b"<reset>", False
            else:
                self.got, self.open = self.got + (got or b"<end>"), bool(got)

    def finish(self) -> Any:
        self.socket.shutdown(socket.SHUT_WR)
        self.world.loop.spin()
        return self

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.leave()

    def leave(self) -> None:
        self.socket.close()
        self.world.loop.spin()


class World:
    """A listener, its tables, and so many peers for its only route."""

    def __init__(
        self,
        *,
        peers: int = 1,
        limits: HttpLimits | None = None,
        proxy: ProxyPolicy | None = None,
        max_body: int = 0,
        allow_connect: bool = False,
        sites: Callable[[Site], Sites] | None = None,
        **route: Any,
    ) -> None:
        self.loop, self.answers, self.pipes = Loop(), Answers(), Pipes()
        self.listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(peers)]
        for listening in self.listening:
            listening.setblocking(False)
        self.peers = [self._peer(listening) for listening in self.listening]
        self.route = replace(self._route(), **route)
        self.site = Site("app", PathTable({b"/": self.route}), forced_host=b"a", max_body=max_body)
        self.site = replace(self.site, allow_connect=allow_connect)
        self.sites = sites(self.site) if sites is not None else Sites({}, {"a": self.site})
        self.connections, self.limits = Connections(), Limits(self.loop, 10_000, 0)
        self.door = self._door(limits or HttpLimits(), proxy)
        self.front = socket.create_server(("127.0.0.1", 0))
        self.streams: list[Stream] = []
        self.servers: list[Any] = []

    def _peer(self, listening: socket.socket) -> HttpPeer:
        host, port = listening.getsockname()
        return HttpPeer(f"{host}:{port}", authority=b"peer", fixed=[(socket.AF_INET, (host, port))])

    def _route(self) -> Route:
        return Route(
            b"/",
            None,
            Group(self.peers, RoundRobin()),
            RequestRewriter(frozenset(), HeaderRules(Side.REQUEST)),
            ResponseRewriter(HeaderRules(Side.RESPONSE)),
        )

    def _door(self, limits: HttpLimits, proxy: ProxyPolicy | None) -> PeekFactory:
        deadlines = Deadlines(self.loop)
        self.factory = HttpFactory(
            self.loop,
            Serving(self.sites, limits, NetworkSet()),
            self.answers,
            deadlines,
            self.pipes,
            random=lambda size: b"\1" * size,
        )
        return PeekFactory(
            self.loop,
            "tcp:80",
            lambda arrival: self.factory,
            self.limits,
            self.connections,
            Journal(),
            deadlines,
            PeekOptions(proxy=proxy),
            clear=self.factory,
        )

    def connect(self, receive_buffer: int = 0) -> Stream:
        """A client."""
        ours = socket.socket()
        if receive_buffer:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        ours.connect(self.front.getsockname())
        theirs, place = self.front.accept()
        theirs.setblocking(False)
        peek: Any = self.door.buildProtocol(IPv4Address("TCP", *place))
        transport: Any = Accepted(theirs, peek, place, None, 0, self.loop)
        peek.makeConnection(transport)
        self.servers.append(peek)
        return self._remember(Stream(self, ours))

    def _remember(self, stream: Stream) -> Stream:
        self.streams.append(stream)
        return stream

    def asked(self, number: int = 0) -> Stream:
        """The connection that the proxy has made to this peer."""
        self.loop.spin()
        return self._remember(Stream(self, self.listening[number].accept()[0]))

    def is_asked(self, number: int = 0) -> bool:
        """Whether a connection to this peer waits to be accepted; it is then closed."""
        self.loop.spin()
        try:
            self.listening[number].accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def wait(self, seconds: float) -> None:
        """Time goes by, in the steps of the real clock's ticks."""
        for _ in range(int(seconds * 4)):
            self.loop.advance(0.25)
            self.loop.spin(3)
        self.loop.spin()

    @property
    def open(self) -> list[int]:
        return [peer.open for peer in self.peers]

    @property
    def idle(self) -> list[int]:
        return [len(peer.idle) for peer in self.peers]

    @property
    def statuses(self) -> list[int]:
        return [line.status for line in self.answers.lines]

    def end(self) -> None:
        """All clients leave; nothing of them may be left."""
        for stream in self.streams:
            if stream.socket.fileno() >= 0:
                stream.reset()
        self.loop.spin(200)
        self.wait(30)
        for listening in (*self.listening, self.front):
            listening.close()
        self.pipes.close()
        assert (self.open, self.idle) == ([0] * len(self.peers), [0] * len(self.peers))
        assert (self.limits.open, len(self.connections)) == (0, 0)
        assert (self.loop.readers, self.loop.writers) == (set(), set())
        assert self.loop.getDelayedCalls() == []


def making(kind: type[W]) -> Iterator[Callable[..., W]]:
    """Gives a maker of worlds, and ends them all: for a test's fixture to yield from."""
    made: list[W] = []

    def make(**options: Any) -> W:
        made.append(kind(**options))
        return made[-1]

    yield make
    for world in made:
        world.end()


def head_of(answer: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """The status line and the fields, in lower case, of the first head in `answer`."""
    line, *fields = answer.partition(b"\r\n\r\n")[0].split(b"\r\n")
    return line, {name.lower(): value for name, _, value in (field.partition(b": ") for field in fields)}


def body_of(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


def statuses_of(answer: bytes) -> Sequence[int]:
    """The statuses of all heads in `answer`."""
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


def request(path: bytes, *fields: bytes, version: bytes = b"1.1", method: bytes = b"GET") -> bytes:
    """A request's head; `fields` are lines."""
    lines = [b"%b %b HTTP/%b" % (method, path, version), b"Host: a", *fields, b"", b""]
    return b"\r\n".join(lines)


def response(*fields: bytes, body: bytes = b"", status: bytes = b"200 OK", version: bytes = b"1.1") -> bytes:
    """A response; `fields` are lines."""
    return b"\r\n".join([b"HTTP/%b %b" % (version, status), *fields, b"", body])
