"""What the attacks stand on: origins that keep every byte, the two fronts of a proxy, answers taken apart.

Nothing here reads HTTP with the code that is attacked.
"""

from __future__ import annotations

import fcntl
import itertools
import select
import socket
import ssl
import termios
import threading
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.e2e.peers import Certificate
from tests.e2e.programs import Programs, free_port, until
from tests.e2e.streams import Backend, all_of, connect

CHUNK = 1 << 16
PATIENCE = 30.0
"""Seconds that an origin waits for more on a connection that is kept."""
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n"
"""What must reach nobody as a request."""
NUMBERS = itertools.count()

Field = tuple[bytes, bytes]


def ask(path: bytes, *fields: bytes, host: bytes = b"a.test", method: bytes = b"GET") -> bytes:
    """A request of a good client, without its body."""
    lines = (b"%b %b HTTP/1.1" % (method, path), b"Host: " + host, *fields, b"", b"")
    return b"\r\n".join(lines)


def reply(body: bytes, *fields: bytes, status: bytes = b"200 OK") -> bytes:
    """A response of a good origin."""
    lines = (b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *fields, b"", body)
    return b"\r\n".join(lines)


@dataclass
class Asked:
    """A request as an origin got it; `body` as far as it was read."""

    line: bytes
    fields: list[Field]
    number: int
    """How many requests came before it on its connection."""
    body: bytes = b""

    @property
    def target(self) -> bytes:
        return self.line.split(b" ")[1]

    def all(self, name: bytes) -> list[bytes]:
        """The values of a field; `name` in lower case, `_` as good as `-`, as behind CGI."""
        return [value for key, value in self.fields if key.lower().replace(b"_", b"-") == name]


class Talk:
    """One connection of an origin."""

    def __init__(self, origin: Origin, stream: socket.socket, key: int) -> None:
        self._origin, self.stream, self._key = origin, stream, key
        self.buffer, self._heads = bytearray(), 0

    def send(self, data: bytes) -> None:
        self.stream.sendall(data)

    def more(self, seconds: float = PATIENCE) -> bool:
        """Wait for bytes; False if none come in time, or none will."""
        if self.stream.fileno() < 0 or not select.select([self.stream], [], [], seconds)[0]:
            return False
        with self._origin.lock:
            data = self.stream.recv(CHUNK)
            self._origin.record.append((self._key, data))
        self.buffer += data
        return bool(data)

    def head(self) -> Asked | None:
        """The next request without its body; None at the end."""
        while b"\r\n\r\n" not in self.buffer:
            if not self.more():
                return None
        head, _, rest = bytes(self.buffer).partition(b"\r\n\r\n")
        self.buffer[:] = rest
        line, *fields = head.split(b"\r\n")
        pairs = [(name, value.strip()) for name, _, value in (each.partition(b":") for each in fields)]
        self._heads += 1
        return Asked(line, pairs, self._heads - 1)

    def read_body(self, asked: Asked) -> None:
        """All of the body that the head announces; chunks stay as they came."""
        if asked.all(b"transfer-encoding"):
            while not (self.buffer.startswith(b"0\r\n\r\n") or b"\r\n0\r\n" in self.buffer):
                if not self.more():
                    return
            while not self.buffer.endswith(b"\r\n\r\n") and self.more():
                pass
            length = len(self.buffer)
        else:
            length = int(next(iter(asked.all(b"content-length")), b"0"))
        while len(self.buffer) < length and self.more():
            pass
        asked.body, self.buffer[:] = bytes(self.buffer[:length]), self.buffer[length:]


Reply = Callable[[Talk, Asked], object]


class Origin:
    """A backend that remembers what it was asked, and answers with its name and the target.

    `replies` are for targets that are answered in another way. Such a reply reads the body, or not:
    then what is left of it is the next request, as for origins that believe in no body.
    """

    def __init__(self, name: str) -> None:
        self.name = name.encode("ascii")
        self.lock = threading.Lock()
        self.record: list[tuple[int, bytes]] = []
        self.asked: list[Asked] = []
        self.replies: dict[bytes, Reply] = {}
        self._odd: set[int] = set()
        self.backend = Backend(self._serve)

    def _serve(self, stream: socket.socket) -> None:
        key = next(NUMBERS)
        try:
            self._talk(Talk(self, stream, key), key)
        finally:
            self._odd.discard(key)

    def _talk(self, talk: Talk, key: int) -> None:
        while (asked := talk.head()) is not None:
            self.asked.append(asked)
            if asked.target in self.replies:
                self._odd.add(key)
            self.replies.get(asked.target, self.answer)(talk, asked)

    def answer(self, talk: Talk, asked: Asked) -> None:
        """The reply to whatever has no other."""
        talk.read_body(asked)
        talk.send(reply(self.name + b" " + asked.target))

    @property
    def open(self) -> bool:
        """Whether somebody is still connected who has been answered in another way than by `answer`."""
        return bool(self._odd)

    def forget(self) -> None:
        """Everything so far is not of interest."""
        self.settle()
        with self.lock:
            self.record, self.asked = [], []

    def settle(self) -> None:
        """Wait until all that was sent to it has been read."""
        until(lambda: not self._unread(), "an origin that has read all")

    def _unread(self) -> int:
        with self.lock:
            return sum(_unread(stream) for stream in self.backend.connections)

    @property
    def raw(self) -> bytes:
        """Every byte that came, connection by connection."""
        self.settle()
        return b"".join(data for _, data in sorted(self.record, key=lambda pair: pair[0]))

    @property
    def targets(self) -> list[bytes]:
        self.settle()
        return [asked.target for asked in self.asked]

    def last(self, target: bytes) -> Asked:
        """The last request for this target."""
        until(lambda: target in self.targets, f"a request for {target!r}")
        return [asked for asked in self.asked if asked.target == target][-1]


def _unread(stream: socket.socket) -> int:
    count = array("i", [0])
    try:
        fcntl.ioctl(stream.fileno(), termios.FIONREAD, count)
    except (OSError, ValueError):  # closed
        return 0
    return count[0]


class Answer(NamedTuple):
    """A response as a client gets it."""

    status: int
    fields: list[Field]
    body: bytes
    complete: bool = True

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key.lower() == name]


def answers_of(data: bytes, *, head: bool = False) -> list[Answer]:
    """The responses in a stream that has ended; `head` if they answer HEAD. Leftovers are a failure."""
    found: list[Answer] = []
    while data:
        start, end, data = data.partition(b"\r\n\r\n")
        assert end, f"half a head: {start!r}"
        line, *fields = start.split(b"\r\n")
        assert line.startswith(b"HTTP/1.1 "), line
        pairs = [(name, value.strip()) for name, _, value in (each.partition(b":") for each in fields)]
        answer = Answer(int(line[9:12]), pairs, b"")
        body, complete, data = _body(answer, data, head)
        found.append(answer._replace(body=body, complete=complete))
    return found


def _body(answer: Answer, data: bytes, head: bool) -> tuple[bytes, bool, bytes]:
    """The body at the beginning of `data`, whether it is whole, and the rest."""
    if answer.status == 101:
        return data, True, b""
    if head or answer.status < 200 or answer.status in (204, 304):
        return b"", True, data
    if answer.all(b"transfer-encoding"):
        return _chunks(data)
    (length,) = map(int, answer.all(b"content-length") or [str(len(data)).encode()])
    return data[:length], len(data) >= length, data[length:]


def _chunks(data: bytes) -> tuple[bytes, bool, bytes]:
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        if not int(size, 16):
            return body, data.startswith(b"\r\n"), data[2:]
        body, data = body + data[: int(size, 16)], data[int(size, 16) + 2 :]
    return body, False, b""


class Front:
    """One of the ports that a stranger can reach."""

    def __init__(self, port: int, *, secure: bool) -> None:
        self.port, self.secure = port, secure
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname, self._context.verify_mode = False, ssl.CERT_NONE

    def connect(self, name: str = "a.test", source: str = "", receive_buffer: int = 0) -> socket.socket:
        """A connection, with `name` in its hello."""
        plain = connect(self.port, source, receive_buffer=receive_buffer)
        return self._context.wrap_socket(plain, server_hostname=name) if self.secure else plain

    def say(self, *data: bytes, name: str = "a.test", head: bool = False) -> list[Answer]:
        """What comes back for `data`, until the proxy closes."""
        with self.connect(name) as client:
            for piece in data:
                send(client, piece)
            return answers_of(all_of(client), head=head)

    def get(self, path: bytes, *fields: bytes, name: str = "a.test") -> Answer:
        """The answer to a good request on a connection of its own."""
        (answer,) = self.say(ask(path, b"Connection: close", *fields, host=name.encode()), name=name)
        return answer

    def serves(self, source: str = "") -> bool:
        """Whether a new client gets its answer."""
        try:
            with self.connect(source=source) as client:
                client.sendall(ask(b"/new"))
                return one_answer(client).status == 200
        except (AssertionError, OSError):
            return False

    def neighbour(self, name: str = "a.test", origin: str = "") -> None:
        """An innocent client comes, and gets what it asks for and nothing else."""
        path = b"/neighbour-%d" % next(NUMBERS)
        answer = self.get(path, name=name)
        assert (answer.status, answer.body) == (200, (origin or name).encode() + b" " + path)


def send(client: socket.socket, data: bytes) -> None:
    """Send what the proxy takes: it may have closed, which the answer will show."""
    try:
        client.sendall(data)
    except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
        pass


def one_answer(client: socket.socket) -> Answer:
    """One response of known length from a connection that stays."""
    got = b""
    while b"\r\n\r\n" not in got or not answers_of(got)[0].complete:
        data = client.recv(CHUNK)
        assert data, f"the end after {got!r}"
        got += data
    (answer,) = answers_of(got)
    return answer


@dataclass
class Stage:
    """A proxy with a clear and a TLS front, the apps a.test and b.test, and an origin behind each."""

    programs: Programs
    certificate: Certificate
    general: str = ""
    """Keys of the whole file."""
    app: str = ""
    """Keys of both apps."""
    more: str = ""
    """Further apps."""
    a: Origin = field(default_factory=lambda: Origin("a.test"))
    b: Origin = field(default_factory=lambda: Origin("b.test"))

    def __post_init__(self) -> None:
        port = free_port()
        apps = "".join(map(self._app, ("a", "b"), (self.a, self.b)))
        self.proxy = self.programs.rproxy(f"listen_port = {port}\n{self.general}\n{apps}{self.more}")
        self.clear, self.tls = Front(port, secure=False), Front(self.proxy.port, secure=True)
        self.fronts = {"clear": self.clear, "tls": self.tls}

    def _app(self, key: str, origin: Origin) -> str:
        return (
            f'[apps.{key}]\nserver_name = ["{key}.test", "{key}"]\n{keys_of(self.certificate)}'
            f"https_redirection = false\n{self.app}\n"
            f"reverse_proxy = [{{ upstream = [{origin.backend.location}] }}]\n"
        )

    def forget(self) -> None:
        """What the origins have seen so far is not of interest."""
        self.a.forget()
        self.b.forget()

    def end(self) -> None:
        self.a.backend.end()
        self.b.backend.end()


def keys_of(certificate: Certificate) -> str:
    """The line that gives an app its certificate."""
    return (
        f'tls = {{ tls_cert_path = "{certificate.certificate}", tls_cert_key_path = "{certificate.key}" }}\n'
    )
