"""HTTP with real programs on both sides: curl and wrk in front, nginx and a Python server behind."""

from __future__ import annotations

import json
import re
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.peers import nginx
from tests.e2e.programs import Programs, Proxy, accepts, free_port, run, until
from tests.e2e.streams import Backend, all_of, connect, exactly

PYTHON_APP = """
import http.server, json, sys
class Shows(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        length = int(self.headers.get("Content-Length") or 0)
        said = self.rfile.read(length).decode()
        told = {"line": self.requestline, "body": said, "fields": self.headers.items()}
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
    do_POST = do_HEAD = do_PROPFIND = do_GET
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Shows).serve_forever()
"""


def clear(programs: Programs, upstreams: str, more: str = "", entry: str = "", **options: Any) -> Proxy:
    """A proxy whose `port` is that for clear text, with one app for a.test."""
    port = free_port()
    text = (
        f"listen_port = {port}\n{more}\n[apps.site]\nserver_name = 'a.test'\n"
        f"[[apps.site.reverse_proxy]]\nupstream = [{upstreams}]\n{entry}\n"
    )
    proxy = programs.rproxy(text, **options)
    proxy.port = port
    return proxy


def location(port: int) -> str:
    return f'{{ location = "127.0.0.1:{port}" }}'


def servers(port: int, folder: Path) -> str:
    (folder / "large").write_bytes(bytes(range(256)) * 40000)
    return f"""server {{
        listen 127.0.0.1:{port} backlog=1024; root {folder};
        keepalive_requests 100000; client_max_body_size 0;
        location = /small {{ return 200 "small from {port}"; }}
        location = /chunked {{ ssi on; ssi_types *; alias {folder}/large; }}
        location = /close {{ keepalive_timeout 0; return 200 "bye"; }}
        location = /none {{ return 204; }}
    }}"""


@pytest.fixture
def backend(programs: Programs, peer: Callable[[str], str], tmp_path: Path) -> int:
    port = free_port()
    nginx(programs, peer("nginx"), servers(port, tmp_path), ("127.0.0.1", port))
    return port


@pytest.fixture
def curl(peer: Callable[[str], str]) -> Callable[..., str]:
    program = peer("curl")

    def ask(proxy: Proxy, *words: Any) -> str:
        name = ["--resolve", f"a.test:{proxy.port}:127.0.0.1", "--max-time", "20"]
        return run([program, "-sS", *name, *words]).stdout

    return ask


def test_curl_gets_every_kind_of_answer_from_nginx(
    programs: Programs, backend: int, curl: Callable[..., str], tmp_path: Path
) -> None:
    proxy = clear(programs, location(backend))
    url = f"http://a.test:{proxy.port}"
    shown = "%{http_code} %{num_connects} %{size_download}\n"
    words = [f"{url}/{path}" for path in ("small", "none", "large", "close", "missing", "small", "large")]
    said = curl(proxy, *[part for word in words for part in ("-o", tmp_path / "out", word)], "-w", shown)
    answers = [line.split() for line in said.splitlines()]
    assert [line[0] for line in answers] == ["200", "204", "200", "200", "404", "200", "200"]
    assert [line[1] for line in answers] == ["1", "0", "0", "0", "0", "0", "0"], "one connection for all"
    assert (tmp_path / "out").read_bytes() == (tmp_path / "large").read_bytes()
    assert "HTTP/1.1 200" in curl(proxy, "-I", f"{url}/large")
    assert curl(proxy, "--http1.0", f"{url}/small") == f"small from {backend}"
    assert curl(proxy, "-r", "1-3", "-o", tmp_path / "out", "-w", "%{http_code}", f"{url}/large") == "206"


def test_a_python_app_learns_who_asks(programs: Programs, curl: Callable[..., str], tmp_path: Path) -> None:
    port = free_port()
    script = tmp_path / "app.py"
    script.write_text(PYTHON_APP)
    programs.start([sys.executable, script, port], "app")
    until(lambda: accepts(("127.0.0.1", port)), "the app")
    proxy = clear(programs, location(port))
    url = f"http://a.test:{proxy.port}/x?y=1"
    told = json.loads(curl(proxy, "-H", "X-Forwarded-For: 6.6.6.6", "-d", "hello", url))
    fields = {name.lower(): value for name, value in told["fields"]}
    assert (told["line"], told["body"]) == ("POST /x?y=1 HTTP/1.1", "hello")
    assert fields["host"] == fields["x-forwarded-host"] == f"a.test:{proxy.port}"
    assert fields["x-forwarded-for"] == fields["x-real-ip"] == "127.0.0.1"
    assert (fields["x-forwarded-proto"], fields["x-forwarded-port"]) == ("http", str(proxy.port))
    assert fields["x-original-uri"] == "/x?y=1"
    many = curl(proxy, *["-d", "a=b", url] * 1, "-X", "PROPFIND")
    assert json.loads(many)["line"] == "PROPFIND /x?y=1 HTTP/1.1"


def load(program: str, proxy: Proxy, seconds: int, path: str = "/small") -> dict[str, int]:
    """What wrk counted: requests, and everything that was none."""
    words = [
        program,
        "-c64",
        "-t1",
        f"-d{seconds}s",
        "-H",
        "Host: a.test",
        f"http://127.0.0.1:{proxy.port}{path}",
    ]
    said = run(words, seconds=seconds + 20).stdout
    found = re.search(r"(\d+) requests in", said)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    assert found is not None, said
    return {
        "requests": int(found[1]),
        "errors": sum(map(int, errors.groups())) if errors else 0,
        "bad": int(bad[1]) if bad else 0,
    }


@pytest.mark.parametrize("path", ["/small", "/close", "/none"])
def test_wrk_sees_no_error(programs: Programs, peer: Callable[[str], str], backend: int, path: str) -> None:
    proxy = clear(programs, location(backend))
    counted = load(peer("wrk"), proxy, 3 if path == "/small" else 1, path)
    assert counted["requests"] > 500
    assert (counted["errors"], counted["bad"]) == (0, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_backend_killed_under_load_costs_no_get(
    programs: Programs, peer: Callable[[str], str], tmp_path: Path, number: int
) -> None:
    ports = [free_port(), free_port()]
    made = [nginx(programs, peer("nginx"), servers(port, tmp_path), ("127.0.0.1", port)) for port in ports]
    proxy = clear(programs, ", ".join(map(location, ports)), entry="load_balance = 'round_robin'")
    killer = threading.Timer(1.5, made[0].signal, (number,))
    killer.start()
    counted = load(peer("wrk"), proxy, 4)
    killer.join()
    assert made[0].ended() is not None
    assert counted["requests"] > 1000
    assert (counted["errors"], counted["bad"]) == (0, 0)


def test_a_stop_under_load_ends_requests_and_not_in_the_middle(
    programs: Programs, peer: Callable[[str], str], backend: int
) -> None:
    proxy = clear(programs, location(backend))
    stopper = threading.Timer(1.0, proxy.signal, (signal.SIGTERM,))
    stopper.start()
    counted = load(peer("wrk"), proxy, 2)
    stopper.join()
    assert proxy.ended() == 0
    assert counted["bad"] == 0
    assert "were cut off" not in proxy.log


def test_idle_clients_do_not_hold_a_stop_up(programs: Programs, backend: int) -> None:
    proxy = clear(programs, location(backend))
    with connect(proxy.port) as idle, connect(proxy.port) as used:
        used.sendall(b"GET /small HTTP/1.1\r\nHost: a.test\r\n\r\n")
        used.recv(1 << 16)
        proxy.signal(signal.SIGTERM)
        assert proxy.ended(3) == 0
        assert (idle.recv(10), used.recv(10)) == (b"", b"")


# -- TLS in front


def switching(stream: socket.socket) -> None:
    """Agrees to an upgrade, says something early, and then echoes."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += stream.recv(1 << 16)
    answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nwelcome"
    stream.sendall(answer + head.partition(b"\r\n\r\n")[2])
    while data := stream.recv(1 << 16):
        stream.sendall(data)


def test_a_websocket_goes_through_tls(
    programs: Programs, serving: Callable[..., Backend], tmp_path: Path
) -> None:
    backend = serving(switching)
    proxy = programs.rproxy(
        f'state_directory = "{tmp_path}/state"\n[apps.site]\nserver_name = "a.test"\n'
        f"tls = {{ self_signed = true }}\nreverse_proxy = [{{ upstream = [{backend.location}] }}]\n"
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(connect(proxy.port), server_hostname="a.test") as client:
        client.sendall(
            b"GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly"
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(1 << 16)
        got = head.partition(b"\r\n\r\n")[2]
        got += exactly(client, len(b"welcomeearly") - len(got))
        assert got == b"welcomeearly"
        for size in (1, 1000, 100_000):
            for number in range(4):
                client.sendall(bytes([number]) * size)
                assert exactly(client, size) == bytes([number]) * size


def test_the_end_of_a_tls_peers_stream_ends_a_body_without_length(
    programs: Programs, serving: Callable[..., Backend], certificate: Any
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)

    def serve(stream: socket.socket) -> None:
        with context.wrap_socket(stream, server_side=True) as inner:
            inner.recv(1 << 16)
            inner.sendall(b"HTTP/1.1 200 OK\r\n\r\nall of it")
            inner.unwrap()

    backend = serving(serve)
    upstream = f'{{ location = "127.0.0.1:{backend.port}", tls = true, tls_insecure = true }}'
    proxy = clear(programs, upstream)
    with connect(proxy.port) as client:
        client.sendall(b"GET / HTTP/1.0\r\nHost: a.test\r\n\r\n")
        answer = all_of(client)
    assert answer.endswith(b"\r\n\r\nall of it")


def test_a_peer_whose_certificate_is_not_believed_is_passed_over(
    programs: Programs, serving: Callable[..., Backend], certificate: Any
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)

    def refused(stream: socket.socket) -> None:
        try:
            context.wrap_socket(stream, server_side=True).recv(1)
        except ssl.SSLError:
            pass

    def serve(stream: socket.socket) -> None:
        stream.recv(1 << 16)
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    secret, plain = serving(refused), serving(serve)
    proxy = clear(
        programs,
        f'{{ location = "127.0.0.1:{secret.port}", tls = true }}, {plain.location}',
        entry="load_balance = 'primary_backup'",
    )
    for _ in range(2):
        with connect(proxy.port) as client:
            client.sendall(
                b"POST / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            )
            assert all_of(client).endswith(b"\r\n\r\nok")
