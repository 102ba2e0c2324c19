"""The basic examples of rpxy's introduction, with the keys they are printed with, do what it promises.

Ports, addresses and certificates are the test's, nothing else is changed. `Front`, `Answer` and `showing` are
what the other files of this name stand on.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from tests.e2e.conftest import Peer, Serving
from tests.e2e.peers import self_signed
from tests.e2e.programs import RPROXY, Programs, free_port, run
from tests.e2e.streams import UNRECOGNIZED_NAME, all_of, ask, connect, exactly


class Answer(NamedTuple):
    """What curl got: `head` and `body` in lines; the body of `showing` says what reached the backend."""

    head: list[str]
    body: list[str]

    @property
    def status(self) -> int:
        return int(self.head[0].split()[1])

    @property
    def backend(self) -> str:
        """The name of the backend that answered."""
        return self.body[0].removeprefix("served by ")

    @property
    def asked(self) -> str:
        """The request line that reached it."""
        return self.body[1]

    def got(self, name: str) -> list[str]:
        """The values of a field of the response."""
        return values(self.head, name)

    def seen(self, name: str) -> list[str]:
        """The values of a field that reached the backend."""
        return values(self.body[1:], name)


def values(head: Sequence[str], name: str) -> list[str]:
    fields = [line.partition(":") for line in head[1:]]
    return [value.strip() for field, _, value in fields if field.lower() == name.lower()]


def showing(name: str, more: str = "") -> Callable[[socket.socket], None]:
    """A backend that answers every request with its own name and the head it got; `more` are fields."""

    def serve(stream: socket.socket) -> None:
        while head := read_head(stream):
            length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
            exactly(stream, int(length[1]) if length else 0)
            body = f"served by {name}\n".encode() + head
            answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode()
            stream.sendall(answer if head.startswith(b"HEAD ") else answer + body)

    return serve


def read_head(stream: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n") and (byte := stream.recv(1)):
        head += byte
    return head


class Front:
    """rproxy on an example whose ports are 80 and 443, and a curl that finds it there.

    `places` says where the locations of the example are. If there is a certificate (`self_signed` in the
    programs' folder) it is `server.crt`, as in the examples, and curl trusts it.
    """

    def __init__(
        self, programs: Programs, peer: Peer, text: str, places: Mapping[str, object], **options: Any
    ) -> None:
        self.clear, self.secure = free_port(), free_port()
        self.folder, self.config, self._curl = programs.folder, programs.folder / "config.toml", peer("curl")
        self.write(text, places)
        words = [*RPROXY, "run", "--config", self.config, *options.pop("more", ())]
        self.proxy = programs.start(words, f"rproxy-{self.clear}", **options)
        self.proxy.says("rproxy listens on")

    def write(self, text: str, places: Mapping[str, object]) -> None:
        """Make this the content of the config file."""
        for old, new in places.items():
            assert old in text
            text = text.replace(old, str(new))
        text = re.sub(r"(?m)^listen_port = 80$", f"listen_port = {self.clear}", text)
        text = re.sub(r"(?m)^listen_port_tls = 443$", f"listen_port_tls = {self.secure}", text)
        self.config.write_text('listen_address_v4 = "127.0.0.1"\n' + text)

    def curl(self, *words: object) -> str:
        """What curl prints; the ports of its URLs are those of the example, or ours in a redirect."""
        to = [f":{port}:127.0.0.1:{self.secure}" for port in (443, self.secure)]
        ways = [word for way in (f":80:127.0.0.1:{self.clear}", *to) for word in ("--connect-to", way)]
        trusted = self.folder / "server.crt"
        trust = ("--cacert", trusted) if trusted.exists() else ()
        common = ("--silent", "--show-error", "--path-as-is", "--noproxy", "*", "--max-time", "10")
        done = run([self._curl, "--http1.1", *common, *ways, *trust, *words])
        return done.stdout or f"curl: {done.returncode}"

    def get(self, url: str, *more: object) -> Answer:
        """One request."""
        head, _, body = self.curl("--include", *more, url).partition("\n\n")
        return Answer(head.splitlines(), body.splitlines())

    def raw(self, request: str, source: str = "") -> bytes:
        """All that comes back for these lines in clear text, sent from `source`."""
        with connect(self.clear, source) as client:
            with suppress(ConnectionError):  # it may be closed before anything is read
                client.sendall(request.replace("\n", "\r\n").encode())
            return all_of(client)


def refusal(programs: Programs, text: str) -> str:
    """What rproxy says about an example that it does not start with; the places are those of the text."""
    config = programs.folder / "config.toml"
    config.write_text(text)
    done = run([*RPROXY, "run", "--config", config])
    assert done.returncode == 1, done
    return done.stderr.replace(str(config), "config.toml")


CLEARTEXT = """\
listen_port = 80

[apps.app1]
server_name = 'app1.example.com'
reverse_proxy = [{ upstream = [{ location = 'app1.local:8080' }] }]
"""


def test_the_most_basic_configuration_serves_its_name_and_rejects_others(
    programs: Programs, peer: Peer, serving: Serving
) -> None:
    backend = serving(showing("app1"))
    front = Front(programs, peer, CLEARTEXT, {"app1.local:8080": f"127.0.0.1:{backend.port}"})
    for name in ("other.example.com", "example.com", "x.app1.example.com", "127.0.0.1"):
        assert front.get(f"http://{name}/").status == 404
    by_url = "--request-target", "http://other.example.com/"
    assert front.get("http://other.example.com/", *by_url).status == 404
    assert front.get("http://app1.example.com/", *by_url).status == 400, "two names in one request"
    assert backend.served == 0
    served = front.get("http://app1.example.com/path/to")
    assert (served.status, served.backend, served.asked) == (200, "app1", "GET /path/to HTTP/1.1")
    by_url = "--request-target", "http://app1.example.com/path/to"
    assert front.get("http://app1.example.com/", *by_url).asked == "GET /path/to HTTP/1.1"
    assert front.raw("GET http://app1.example.com/ HTTP/1.0\n\n").startswith(b"HTTP/1.1 200 OK\r\n")
    assert front.raw("GET http://app1.example.com/ HTTP/1.1\n\n").startswith(b"HTTP/1.1 400 "), "without Host"
    for spelling in ("App1.Example.COM", "app1.example.com:8080"):
        answer = front.get("http://app1.example.com/", "--header", f"Host: {spelling}")
        assert (answer.backend, answer.seen("Host")) == ("app1", [spelling])


TWO_NAMES = """\
listen_port = 80
default_application = "app1"

[apps.app1]
server_name = "app1.example.com"
reverse_proxy = [{ upstream = [{ location = 'app1.local:8080' }] }]

[apps.app2]
server_name = "app2.example.org"
reverse_proxy = [{ upstream = [{ location = 'app2.local:8080' }] }]
"""


def two_names(programs: Programs, peer: Peer, serving: Serving, text: str = TWO_NAMES) -> Front:
    backends = {name: serving(showing(name)) for name in ("app1", "app2")}
    places = {f"{name}.local:8080": f"127.0.0.1:{backend.port}" for name, backend in backends.items()}
    return Front(programs, peer, text, places)


def test_names_choose_their_apps_and_the_default_application_gets_the_rest(
    programs: Programs, peer: Peer, serving: Serving
) -> None:
    front = two_names(programs, peer, serving, TWO_NAMES)
    for name, served_by in (("app1.example.com", "app1"), ("app2.example.org", "app2")):
        assert front.get(f"http://{name}/x?y").backend == served_by
    unknown = front.get("http://unknown.example.net/x?y")
    assert (unknown.backend, unknown.asked) == ("app1", "GET /x?y HTTP/1.1")
    assert unknown.seen("Host") == ["app1.example.com"]
    by_url = front.get("http://a.example/", "--request-target", "http://app2.example.org/")
    assert by_url.status == 400, "the default is for names that nobody has, not for two names"


def behind_tls(programs: Programs, peer: Peer, serving: Serving, more: str = "") -> Front:
    self_signed(programs.folder, "app1.example.com", "app2.example.org")
    tls = "tls = { tls_cert_path = 'server.crt', tls_cert_key_path = 'server.key' }\nreverse_proxy"
    text = "listen_port_tls = 443\n" + TWO_NAMES.replace("reverse_proxy", tls) + more
    return two_names(programs, peer, serving, text)


def test_over_tls_an_unknown_name_is_rejected_whatever_the_default(
    programs: Programs, peer: Peer, serving: Serving
) -> None:
    front = behind_tls(programs, peer, serving)
    assert front.get("https://app1.example.com/").backend == "app1"
    assert front.get("https://app2.example.org/").backend == "app2"
    assert front.curl("https://unknown.example.net/") == "curl: 35"
    assert ask(front.secure, "unknown.example.net") == UNRECOGNIZED_NAME
    assert ask(front.secure, None) == UNRECOGNIZED_NAME
    for host in ("app2.example.org", "unknown.example.net"):  # certificate and request belong together
        assert front.get("https://app1.example.com/", "--header", f"Host: {host}").status == 421
    moved = front.get("http://unknown.example.net/x?y")
    assert moved.got("Location") == [f"https://app1.example.com:{front.secure}/x?y"]


def test_requests_for_another_name_than_that_of_the_certificate_can_be_allowed(
    programs: Programs, peer: Peer, serving: Serving
) -> None:
    front = behind_tls(programs, peer, serving, "[experimental]\nignore_sni_consistency = true\n")
    assert front.get("https://app1.example.com/", "--header", "Host: app2.example.org").backend == "app2"
    assert front.get("https://app1.example.com/", "--header", "Host: unknown.example.net").status == 404
