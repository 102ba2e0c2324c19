"""The listening sockets: made, kept over reloads, and given up at a stop. Owned by `assemble`.

A listener is named by a Twisted endpoint string and lives as long as the configuration names it;
its factory answers for what is done with a connection. Ports made here survive a lack of file
descriptors: they stop accepting for a moment, say so once, and go on.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from mypy_extensions import mypyc_attr
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.tcp import Port
from twisted.internet.unix import Port as UnixPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.errors import StartError
from rproxy.services.accepting import Accepting

log: Final = Logger(__name__)

MOST_QUEUED: Final = 65536
"""Connections that any kernel queues for a port at most (somaxconn is a 16-bit number in practice)."""
PAUSE: Final = 0.1
"""Seconds for which a port stops accepting when the machine has no room for another connection."""


@mypyc_attr(native_class=False)
class PatientPort(Port):
    """A TCP port that accepts in batches and sits out a lack of file descriptors."""

    factory: Any
    reactor: Any
    v6_only = False
    _accepting: Accepting
    _accepts: type[Accepting] = Accepting

    def createInternetSocket(self) -> socket.socket:
        """As Twisted's; with `v6_only` an IPv6 port leaves IPv4 to another one."""
        made: socket.socket = super().createInternetSocket()
        if self.v6_only and self.addressFamily == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        return made

    def startListening(self) -> None:
        """As Twisted's, then sets what accepted sockets inherit: no delay, and word of dead clients."""
        super().startListening()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._accepting = self._accepts(self)

    def doRead(self) -> None:
        """The reactor's call: accept what is there."""
        self._accepting.accept()

    def empty(self) -> None:
        """Accept all that the kernel has queued: closing the socket would reset it."""
        self._accepting.batch = MOST_QUEUED
        self.doRead()

    def connectionLost(self, reason: Any) -> None:
        """Twisted's call: the port is closed, and nothing has to wait for the garbage collector."""
        super().connectionLost(reason)
        vars(self).pop("_accepting", None)

    def sit_out(self) -> None:
        """There is no room for another connection: wait for a moment."""
        self.stopReading()
        self.reactor.callLater(PAUSE, self._go_on)

    def _go_on(self) -> None:
        if self.connected and not self.disconnecting:
            self.startReading()


class PatientReactor:
    """A reactor whose TCP ports are `PatientPort`s; for endpoints, which make their ports through it."""

    def __init__(self, reactor: Any, *, v6_only: bool = False) -> None:
        self._reactor, self._v6_only = reactor, v6_only

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = "") -> Any:
        """As `IReactorTCP.listenTCP`."""
        listening = PatientPort(port, factory, backlog, interface, self._reactor)
        listening.v6_only = self._v6_only
        listening.startListening()
        return listening

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: IProtocolFactory) -> Any:
        """As `IReactorSocket.adoptStreamPort`."""
        if addressFamily == socket.AF_UNIX:
            return self._adopt_unix(fileDescriptor, factory)
        listening = PatientPort._fromListeningDescriptor(
            self._reactor, fileDescriptor, addressFamily, factory
        )
        listening.startListening()
        return listening

    def _adopt_unix(self, number: int, factory: IProtocolFactory) -> Any:
        """Twisted would open the socket's file to everybody, and remove it at the end; it is another's."""
        listening: Any = UnixPort._fromListeningDescriptor(self._reactor, number, factory)
        listening._bindPath = b"\0" + listening._bindPath  # as if it had none
        listening.startListening()
        return listening


class Wanted(NamedTuple):
    """A listener that the configuration names: its endpoint string, and the queue its socket gets."""

    name: str
    backlog: int
    v6_only: bool = False
    """Whether an IPv6 socket takes IPv6 alone: it has an IPv4 one beside it (R-G-3)."""

    @property
    def endpoint(self) -> str:
        """What Twisted's `serverFromString` takes."""
        queue = self.name.startswith(("tcp:", "tcp6:", "unix:")) and ":backlog=" not in self.name
        return f"{self.name}:backlog={self.backlog}" if queue else self.name


class Listeners(Service):
    """The listening sockets of one proxy; bound before privileges are dropped."""

    name: Any = "listeners"

    def __init__(
        self, reactor: Any, wanted: Sequence[Wanted], build: Callable[[str], IProtocolFactory]
    ) -> None:
        self._reactor = reactor
        self._wanted, self._build = tuple(wanted), build
        self._ports: dict[str, Any] = {}

    @property
    def ports(self) -> dict[str, Any]:
        """The open ports by listener name."""
        return dict(self._ports)

    def privilegedStartService(self) -> None:
        """Twisted's call, still as root: bind everything, or raise `StartError` with all that failed."""
        problems = self._open(self._wanted)
        if problems:
            self._close(list(self._ports))
            raise StartError("\n".join(problem.text for problem in problems))

    def startService(self) -> None:
        """Twisted's call; ports are open already unless nobody made the privileged call."""
        super().startService()
        if not self._ports:
            self.privilegedStartService()

    def stopService(self) -> Deferred[None]:
        """Twisted's call: stop accepting; the ports are free when this fires."""
        super().stopService()
        inherited = [int(name[3:]) for name in self._ports if name.startswith("fd:")]
        return self._close(list(self._ports)).addCallback(lambda _: _let_go(inherited))

    def change(self, wanted: Sequence[Wanted]) -> None:
        """Open what is new and close what is gone; what stays is not touched.

        Raises `StartError`, with nothing changed, when something cannot be opened. Only where an
        address is taken, and old listeners go at the same time which may be those that have it,
        it is tried again once they are closed, and what fails then is logged.
        """
        names = {listener.name for listener in wanted}
        gone = [name for name in self._ports if name not in names]
        fresh = [listener for listener in wanted if listener.name not in self._ports]
        problems = self._open(fresh)
        if problems and not (gone and all(problem.taken for problem in problems)):
            self._close([listener.name for listener in fresh if listener.name in self._ports])
            raise StartError("\n".join(problem.text for problem in problems))
        for name in gone:
            if name.startswith("fd:"):
                log.warn("{name} is closed, but the kernel queues connections to it until a stop", name=name)
        self._wanted = tuple(wanted)
        closed = self._close(gone)
        if problems:
            closed.addCallback(lambda _: self._open_late(fresh))

    def _open_late(self, wanted: Sequence[Wanted]) -> None:
        if not self.running:  # a stop has come in between
            return
        for problem in self._open([listener for listener in wanted if listener.name not in self._ports]):
            log.error("{problem}", problem=problem.text)

    def _open(self, wanted: Sequence[Wanted]) -> list[Problem]:
        problems = []
        for listener in wanted:
            try:
                self._ports[listener.name] = self._listen(listener)
            except Exception as problem:  # endpoints are plugins: what they raise for a mistake is theirs
                problems.append(_explain(listener.name, problem))
        return problems

    def _listen(self, listener: Wanted) -> Any:
        factory = self._build(listener.name)
        if listener.name.startswith("fd:"):
            return self._adopt(int(listener.name[3:]), factory)
        outcome: list[Any] = []
        patient = PatientReactor(self._reactor, v6_only=listener.v6_only)
        endpoint = serverFromString(patient, listener.endpoint)
        endpoint.listen(factory).addBoth(outcome.append)
        if outcome and isinstance(outcome[0], Failure):
            outcome[0].raiseException()
        if not outcome:
            raise ValueError("this kind of endpoint does not listen at once")
        return outcome[0]

    def _adopt(self, number: int, factory: IProtocolFactory) -> Any:
        inherited = socket.socket(fileno=os.dup(number))
        try:
            if not inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise ValueError(f"file descriptor {number} is a socket, but not a listening one")
            inherited.setblocking(False)
            patient = PatientReactor(self._reactor)
            return patient.adoptStreamPort(inherited.fileno(), inherited.family, factory)
        finally:
            inherited.close()

    def _close(self, names: Sequence[str]) -> Deferred[None]:
        closing = []
        for name in names:
            port = self._ports.pop(name)
            if isinstance(port, PatientPort):
                port.empty()
            closing.append(maybeDeferred(port.stopListening))
        return DeferredList(closing, consumeErrors=True).addCallback(lambda _: None)


def _let_go(inherited: Sequence[int]) -> None:
    """Give up sockets that were handed over: while we hold them the kernel goes on to queue connections.

    /dev/null takes their place, so that no other file gets a number like 0.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in inherited:
        os.dup2(nothing, number)
    os.close(nothing)


class Problem(NamedTuple):
    """Why a listener could not be opened, and whether somebody else has its address."""

    text: str
    taken: bool


def _explain(name: str, problem: Exception) -> Problem:
    """The cause, and what to do about it."""
    cause = getattr(problem, "socketError", problem)
    number = getattr(cause, "errno", None)
    text = os.strerror(number) if number else str(cause) or type(cause).__name__
    hint = f". {HINTS[number]}" if number in HINTS else ""
    return Problem(f"cannot listen on {name}: {text}{hint}", number == errno.EADDRINUSE)


HINTS: Final = {
    errno.EADDRINUSE: "Another program has this port; `ss -ltnp` names it.",
    errno.EACCES: "Ports below 1024 need root (use twistd's --uid to drop it), CAP_NET_BIND_SERVICE or a "
    "socket from systemd.",
    errno.EADDRNOTAVAIL: "This machine has no such address; `ip addr` lists those it has.",
    errno.ENOTSOCK: "It has to be a listening socket: systemd's StandardInput=socket or inetd's `wait`.",
    errno.EBADF: "No such file descriptor was handed over.",
}
