"""The admin socket, where `rproxy ban`, `status` and the like ask the running proxy. Owned by `assemble`.

A unix socket that only its owner may open. A connection is one request, a line of JSON such as
`{"ask": "ban", "address": "192.0.2.7", "seconds": 3600}`, and one answer, another line: an object,
with `error` in it when it was not done.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from twisted.application.service import Service
from twisted.internet import tcp, unix
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.errors import StartError

log = Logger()

LONGEST: Final = 4096
"""Bytes of a request: an address, a time and a word have a hundred."""
MOST: Final = 16
"""Connections at a time: each waits for a person or a cron job."""
PATIENCE: Final = 10.0
"""Seconds for the request to come and the answer to go."""

Answer = Callable[[Mapping[str, Any]], Mapping[str, Any] | Deferred[Mapping[str, Any]]]
"""What answers one kind of request, now or later. Raises ValueError with what is wrong with it."""


class Opened(NamedTuple):
    """Where a configuration wants the socket, and the port that listens there if it is a new one."""

    path: Path | None
    port: Any


class AdminSocket(Service):
    """The socket of one proxy. `answers` are by the word in `ask`."""

    name = "admin socket"

    def __init__(self, reactor: Any, answers: Mapping[str, Answer], path: Path | None) -> None:
        self._reactor, self._factory = reactor, _Factory(reactor, answers)
        self._path = path
        self._port: Any = None

    def privilegedStartService(self) -> None:
        """Twisted's call, still as root. Raises `StartError`."""
        if self._path is not None and self._port is None:
            self._port = self._listen(self._path)

    def startService(self) -> None:
        """Twisted's call; listens already unless nobody made the privileged call."""
        super().startService()
        self.privilegedStartService()

    def stopService(self) -> Any:
        """Twisted's call: nobody is answered any more."""
        super().stopService()
        return self._close()

    def open(self, path: Path | None) -> Opened:
        """Listen there too, for `use` or `give_up`. Raises `StartError`."""
        is_new = path is not None and path != self._path
        return Opened(path, self._listen(path) if is_new and path is not None else None)

    def use(self, opened: Opened) -> None:
        """Listen there and nowhere else."""
        if opened.path != self._path:
            self._close()
            self._path, self._port = opened

    def give_up(self, opened: Opened) -> None:
        """Stay where we are."""
        if opened.port is not None:
            opened.port.stopListening()

    def _listen(self, path: Path) -> Any:
        try:
            _remove_stale(path)
            return _listening(path, self._factory, self._reactor)
        except OSError as problem:
            raise StartError(
                f"admin_socket: {path}: {os.strerror(problem.errno or 0)}{_hint(problem)}"
            ) from None

    def _close(self) -> Any:
        port, self._port = self._port, None
        if port is None:
            return None
        return port.stopListening()


def _remove_stale(path: Path) -> None:
    """A socket that nobody listens on is left over from a process that was killed."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise StartError(
                f"admin_socket: {path} is there already, and no socket; remove it or choose another"
            )
    except FileNotFoundError:
        return
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.setblocking(False)
        probe.connect(os.fspath(path))
    except ConnectionRefusedError:
        os.unlink(path)
    except BlockingIOError:  # its queue is full: somebody listens
        raise StartError(_taken(path)) from None
    else:
        raise StartError(_taken(path))
    finally:
        probe.close()


def _taken(path: Path) -> str:
    return f"admin_socket: another proxy listens on {path}; give each one of its own"


def _listening(path: Path, factory: Factory, reactor: Any) -> Any:
    """A port that nobody but its owner may open, at no moment."""
    port = _Port(os.fsencode(path), factory, MOST, 0o600, reactor)
    before = os.umask(0o177)
    try:
        port.startListening()
    except CannotListenError as problem:
        raise problem.socketError from None
    finally:
        os.umask(before)
    return port


def _hint(problem: OSError) -> str:
    hints = {
        errno.ENOENT: ". Its folder has to exist",
        errno.EACCES: ". We have to be able to write in its folder",
    }
    return hints.get(problem.errno or 0, "")


class _Port(unix.Port):
    """A port whose file may be gone when it ends, or be root's while we are not root any more."""

    def connectionLost(self, reason: Failure) -> None:
        try:
            super().connectionLost(reason)
        except OSError as problem:  # the next start removes it
            log.debug("the admin socket stays: {why}", why=problem.strerror)
            tcp.Port.connectionLost(self, reason)


class _Factory(Factory):
    noisy = False

    def __init__(self, reactor: Any, answers: Mapping[str, Answer]) -> None:
        self.reactor, self.answers = reactor, dict(answers)
        self.open = 0

    def buildProtocol(self, addr: Any) -> Any:
        if self.open >= MOST:
            return None
        return _Asked(self)


class _Asked(Protocol):
    """One request and its answer."""

    def __init__(self, factory: _Factory) -> None:
        self._desk = factory
        self._received = b""
        self._answered = self._gone = False

    def connectionMade(self) -> None:
        self._desk.open += 1
        self._timer = self._desk.reactor.callLater(PATIENCE, self._give_up)

    def dataReceived(self, data: bytes) -> None:
        if self._answered:
            return
        self._received += data
        line, end, _ = self._received.partition(b"\n")
        if end or len(line) > LONGEST:
            self._answered = True
            answer = maybeDeferred(self._answer, line)
            answer.addErrback(_told)
            answer.addCallback(self._say)

    def _answer(self, line: bytes) -> Any:
        """What is answered, or will be; raises ValueError, or RecursionError, for what makes no sense."""
        if len(line) > LONGEST:
            raise ValueError(f"more than {LONGEST} bytes")
        asked = json.loads(line)
        if not isinstance(asked, dict):
            raise ValueError('a request is an object: {"ask": "status"}')
        answer = self._desk.answers.get(str(asked.pop("ask", "")))
        if answer is None:
            raise ValueError("ask is one of " + ", ".join(sorted(self._desk.answers)))
        return answer(asked)

    def _say(self, answer: Mapping[str, Any]) -> None:
        if not self._gone:
            assert self.transport is not None
            self.transport.write(json.dumps(answer).encode("ascii") + b"\n")
            self.transport.loseConnection()

    def _give_up(self) -> None:
        assert self.transport is not None
        self.transport.abortConnection()  # type: ignore[attr-defined]

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._gone = True
        self._desk.open -= 1
        if self._timer.active():
            self._timer.cancel()


def _told(failure: Failure) -> dict[str, str]:
    """What is said about a request that was not done; json's mistakes are ValueErrors."""
    if failure.check(ValueError, RecursionError):
        return {"error": str(failure.value)}
    log.failure("an admin request failed", failure)
    return {"error": "this failed, see the log of the proxy"}
