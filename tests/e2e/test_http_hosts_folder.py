"""A folder per name over clear-text HTTP: its owner's socket is asked, as it is at that moment."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.conftest import Peer, Serving
from tests.e2e.peers import nginx
from tests.e2e.programs import Programs, Proxy, free_port, run
from tests.e2e.streams import all_of, connect, exactly

CLIENT = "127.0.0.77"


class Hosts:
    """rproxy with a hosts folder and a clear-text port."""

    def __init__(self, programs: Programs, folder: Path, more: str = "") -> None:
        self.folder, self.port = folder, free_port()
        text = f'listen_port = {self.port}\n{more}\n[hosts]\ndirectory = "{folder}"\n'
        self.proxy: Proxy = programs.rproxy(text)

    def ask(self, host: str, path: str = "/", more: str = "", source: str = "") -> bytes:
        """All that comes back for one request."""
        with connect(self.port, source) as client:
            client.sendall(request(host, path, more))
            return all_of(client)

    def status(self, host: str) -> int:
        return int(self.ask(host).split(b" ", 2)[1])


def request(host: str, path: str = "/", more: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n".encode()


def place(folder: Path, name: str) -> Path:
    """Where the socket of a new host belongs."""
    (folder / name).mkdir()
    return folder / name / "http-socket"


def read_head(stream: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n") and (byte := stream.recv(1)):
        head += byte
    return head


def answering(text: bytes) -> Callable[[socket.socket], None]:
    """A backend that answers every request with `text`."""

    def serve(stream: socket.socket) -> None:
        read_head(stream)
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))

    return serve


def saying(raw: bytes) -> Callable[[socket.socket], None]:
    def serve(stream: socket.socket) -> None:
        read_head(stream)
        stream.sendall(raw)

    return serve


def showing(stream: socket.socket) -> None:
    """A backend that answers with the head it got."""
    head = read_head(stream)
    stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(head), head))


def test_nginx_serves_a_name_by_owning_its_folder(programs: Programs, peer: Peer, short_path: Path) -> None:
    hosts = Hosts(programs, short_path)
    path = place(short_path, "a.test")
    nginx(
        programs,
        peer("nginx"),
        f"server {{ listen unix:{path};"
        ' return 200 "$host for $http_x_forwarded_for by $http_x_forwarded_proto\\n"; }',
        str(path),
    )
    words = [peer("curl"), "--silent", "--noproxy", "*", "--max-time", "10", "--interface", CLIENT]
    words += ["--header", "X-Forwarded-For: 6.6.6.6", "--resolve", f"a.test:{hosts.port}:127.0.0.1"]
    answer = run([*words, f"http://a.test:{hosts.port}/", f"http://a.test:{hosts.port}/2"]).stdout
    assert answer == f"a.test for {CLIENT} by http\n" * 2


def test_what_the_backend_sees_of_the_client_is_its_address_alone(
    programs: Programs, serving: Serving, short_path: Path
) -> None:
    serving(showing, place(short_path, "a.test"))
    hosts = Hosts(programs, short_path)
    lines = hosts.ask("A.TEST:8080", "/x?y", "X-Forwarded-Proto: https\r\n", CLIENT).split(b"\r\n")
    assert b"GET /x?y HTTP/1.1" in lines
    assert b"Host: A.TEST:8080" in lines
    assert b"X-Forwarded-For: " + CLIENT.encode() in lines
    assert b"X-Forwarded-Proto: http" in lines


def test_hosts_come_and_go_without_a_word_to_the_proxy(
    programs: Programs, serving: Serving, short_path: Path
) -> None:
    hosts = Hosts(programs, short_path)
    assert hosts.status("a.test") == 404, "no folder"
    path = place(short_path, "a.test")
    assert hosts.status("a.test") == 404, "no socket in it"
    backend = serving(answering(b"hello"), path)
    assert hosts.ask("a.test").endswith(b"\r\n\r\nhello")
    assert hosts.ask("a.test.").endswith(b"\r\n\r\nhello"), "one trailing dot is as good as none"
    (short_path / "www.a.test").symlink_to("a.test")
    assert hosts.ask("www.a.test").endswith(b"\r\n\r\nhello")
    backend.end()
    assert hosts.status("a.test") == 503, "nobody listens on the socket that is left"
    path.unlink()
    assert hosts.status("a.test") == 404


def test_one_connection_may_ask_for_several_hosts(
    programs: Programs, serving: Serving, short_path: Path
) -> None:
    for name in ("a.test", "b.test"):
        serving(answering(name.encode()), place(short_path, name))
    hosts = Hosts(programs, short_path)
    with connect(hosts.port) as client:
        for name in ("a.test", "b.test", "a.test", "c.test", "b.test"):
            client.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
            head = read_head(client)
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            body = exactly(client, length)
            assert body == name.encode() if name != "c.test" else b"404 Not Found" in body


def test_a_switched_symlink_moves_requests_and_loses_none(
    programs: Programs, serving: Serving, short_path: Path
) -> None:
    serving(answering(b"blue"), short_path / "blue")
    serving(answering(b"green"), short_path / "green")
    link = place(short_path, "a.test")
    link.symlink_to("../blue")
    hosts = Hosts(programs, short_path)
    finished = threading.Event()

    def keep_switching() -> None:
        colours = ["green", "blue"]
        while not finished.wait(0.01):
            colours.reverse()
            fresh = link.with_name("fresh")
            fresh.symlink_to(f"../{colours[0]}")
            fresh.rename(link)

    with ThreadPoolExecutor(9) as pool:
        switching = pool.submit(keep_switching)
        answers = Counter(pool.map(lambda _: hosts.ask("a.test")[-5:].strip(), range(500)))
        finished.set()
        switching.result()
    assert set(answers) == {b"blue", b"green"}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200",
    ],
)
def test_a_backend_that_speaks_no_http_is_a_bad_gateway(
    programs: Programs, serving: Serving, short_path: Path, raw: bytes
) -> None:
    serving(saying(raw), place(short_path, "a.test"))
    assert Hosts(programs, short_path).status("a.test") == 502


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every socket")
def test_a_socket_that_is_closed_to_us_is_unavailable(
    programs: Programs, serving: Serving, short_path: Path
) -> None:
    path = place(short_path, "a.test")
    serving(answering(b""), path)
    path.chmod(0)
    assert Hosts(programs, short_path).status("a.test") == 503


def test_a_path_too_long_for_a_socket_is_a_bad_gateway(programs: Programs, short_path: Path) -> None:
    name = ".".join(["a" * 60] * 3)
    place(short_path, name)
    assert Hosts(programs, short_path).status(name) == 502


def test_a_host_that_is_no_name_never_becomes_a_path(
    programs: Programs, serving: Serving, short_path: Path
) -> None:
    serving(answering(b"oh no"), short_path / "http-socket")
    serving(answering(b"oh no"), place(short_path, "a.test"))
    hosts = Hosts(programs, short_path)
    bad = (
        "",
        ":80",
        "../a.test",
        "a.test/..",
        "a test",
        ".",
        "..",
        ".a.test",
        "a..test",
        "-a.test",
        "a_b.test",
    )
    for host in (*bad, "[::1]"):
        assert hosts.status(host) == 400, host
    assert hosts.status("127.0.0.1") == 404


def test_apps_come_before_the_folder_and_the_default_app_after_it(
    programs: Programs, serving: Serving, short_path: Path
) -> None:
    app = serving(answering(b"app"))
    serving(answering(b"folder"), place(short_path, "a.test"))
    serving(answering(b"folder"), place(short_path, "b.test"))
    place(short_path, "empty.test")
    entry = f'[apps.a]\nserver_name = "a.test"\nreverse_proxy = {{ upstream = [{app.location}] }}\n'
    hosts = Hosts(programs, short_path, 'default_app = "a"\n' + entry)
    answers = {name: hosts.ask(name).rpartition(b"\n")[2] for name in ("a.test", "b.test", "c.test")}
    assert answers == {"a.test": b"app", "b.test": b"folder", "c.test": b"app"}
    assert hosts.status("empty.test") == 404, "who has a folder is not the default"


def test_websockets_work(programs: Programs, serving: Serving, short_path: Path) -> None:
    def serve(stream: socket.socket) -> None:
        key = read_head(stream).partition(b"Sec-WebSocket-Key: ")[2].split(b"\r\n")[0]
        accept = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest()
        stream.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % base64.b64encode(accept)
        )
        while data := stream.recv(100):
            stream.sendall(data[::-1])

    serving(serve, place(short_path, "a.test"))
    hosts = Hosts(programs, short_path)
    with connect(hosts.port) as client:
        client.sendall(
            b"GET /chat HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        head = read_head(client)
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head
        for word in (b"abc", b"\x00\xff\x81"):
            client.sendall(word)
            assert exactly(client, 3) == word[::-1]


def test_a_dead_host_fills_no_log(programs: Programs, short_path: Path) -> None:
    place(short_path, "a.test")
    hosts = Hosts(programs, short_path)
    for _ in range(20):
        assert hosts.status("a.test") == 404
    hosts.proxy.says("a.test <- ", times=20)
    assert " is down" not in hosts.proxy.log
