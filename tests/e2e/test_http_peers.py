"""HTTP with real programs on both sides: curl and wrk in front, nginx and a Python app behind."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Peer, Serving
from tests.e2e.fronts import NAMES, SCHEMES, Front, backend, load, location
from tests.e2e.peers import Certificate, nginx
from tests.e2e.programs import TWIST, Programs, accepts, free_port, run, until
from tests.e2e.streams import all_of

Curl = Callable[..., str]
OLD = ["--http1.0"]
"""curl as an HTTP/1.0 client; in TLS it would ask for `http/1.0`, and be told that we speak 1.1."""
schemes = pytest.mark.parametrize("scheme", SCHEMES)


def servers(port: int, folder: Path) -> str:
    (folder / "large").write_bytes(bytes(range(256)) * 40000)
    return f"""server {{
        listen 127.0.0.1:{port} backlog=1024; root {folder};
        keepalive_requests 100000; client_max_body_size 0;
        location = /small {{ return 200 "small from {port}"; }}
        location = /close {{ keepalive_timeout 0; return 200 "bye"; }}
        location = /none {{ return 204; }}
        location = /chunked {{ ssi on; ssi_types *; alias {folder}/large; }}
        location /put/ {{ dav_methods PUT; create_full_put_path on; }}
    }}"""


@pytest.fixture(scope="module")
def folder(lasting_programs: Programs) -> Path:
    """What nginx serves, and where it puts what it is sent."""
    return lasting_programs.folder


@pytest.fixture(scope="module")
def small(lasting_programs: Programs, peer: Peer, folder: Path) -> tuple[Front, str]:
    """A proxy before nginx, and what that says at `/small`."""
    port = free_port()
    nginx(lasting_programs, peer("nginx"), servers(port, folder), ("127.0.0.1", port))
    return Front(lasting_programs, location(port)), f"small from {port}"


@pytest.fixture(scope="module")
def front(small: tuple[Front, str]) -> Front:
    return small[0]


@pytest.fixture(scope="module", params=["wsgiref", "twisted"])
def app(request: pytest.FixtureRequest, lasting_programs: Programs) -> Front:
    """A proxy before a Python app."""
    if request.param == "wsgiref":
        return Front(lasting_programs, location(backend(lasting_programs, "wsgi_app").port))
    port = free_port()
    words = ["web", "--wsgi", "tests.e2e.wsgi_app.application", "--listen", f"tcp:{port}:interface=127.0.0.1"]
    lasting_programs.start([*TWIST, *words], "twisted")
    until(lambda: accepts(("127.0.0.1", port)), "Twisted serves the app")
    return Front(lasting_programs, location(port))


@pytest.fixture(scope="module")
def curl(peer: Peer) -> Curl:
    program = peer("curl")

    def ask(front: Front, scheme: str, *words: Any) -> str:
        name = f"{NAMES[0]}:{front.ports[scheme]}:127.0.0.1"
        trust = ["--cacert", front.authority, "--noproxy", "*", "--resolve", name, "--max-time", "20"]
        return run([program, "-sS", "--http1.1", *trust, *words]).stdout

    return ask


@schemes
def test_curl_gets_every_kind_of_answer_from_nginx(
    small: tuple[Front, str], curl: Curl, folder: Path, tmp_path: Path, scheme: str
) -> None:
    front, said = small
    shown = "%{http_code} %{num_connects} %{http_version}\n"
    paths = ["small", "none", "large", "close", "chunked", "missing", "small", "large"]
    words = [part for path in paths for part in ("-o", tmp_path / "out", front.url(scheme, f"/{path}"))]
    answers = [line.split() for line in curl(front, scheme, *words, "-w", shown).splitlines()]
    assert [line[0] for line in answers] == ["200", "204", "200", "200", "200", "404", "200", "200"]
    assert [line[1] for line in answers] == ["1", "0", "0", "0", "0", "0", "0", "0"], "one connection for all"
    assert {line[2] for line in answers} == {"1.1"}
    whole = (folder / "large").read_bytes()
    assert (tmp_path / "out").read_bytes() == whole
    assert "HTTP/1.1 200" in curl(front, scheme, "-I", front.url(scheme, "/large"))
    assert curl(front, scheme, *OLD, front.url(scheme, "/small")) == said
    for path in ("large", "chunked"):
        curl(front, scheme, *OLD, "-o", tmp_path / "old", front.url(scheme, f"/{path}"))
        assert (tmp_path / "old").read_bytes() == whole
    words = ["-r", "1-3", "-o", tmp_path / "out", "-w", "%{http_code}", front.url(scheme, "/large")]
    assert curl(front, scheme, *words) == "206"


@schemes
@pytest.mark.parametrize("chunked", [False, True], ids=["by length", "chunked"])
def test_what_curl_uploads_nginx_gets(
    front: Front, curl: Curl, folder: Path, tmp_path: Path, scheme: str, chunked: bool
) -> None:
    """Both sizes, the large one after an `Expect: 100-continue` that nginx answers."""
    framing = ["-H", "Transfer-Encoding: chunked"] if chunked else []
    for name, content in (("one", b"x"), ("large", (folder / "large").read_bytes())):
        path = f"/put/{scheme}-{chunked}-{name}"
        (tmp_path / "up").write_bytes(content)
        words = ["-v", "--stderr", "-", "-H", "Expect: 100-continue", *framing, "-T", tmp_path / "up"]
        said = curl(front, scheme, *words, front.url(scheme, path))
        assert said.index("HTTP/1.1 100 Continue") < said.index("HTTP/1.1 201 Created")
        assert (folder / path[1:]).read_bytes() == content


@schemes
def test_a_python_app_learns_who_asks(app: Front, curl: Curl, scheme: str) -> None:
    url = app.url(scheme, "/show?y=1")
    told = json.loads(curl(app, scheme, "-H", "X-Forwarded-For: 6.6.6.6", "-d", "hello", url))
    assert (told["asked"], told["body"]) == (["POST", "/show", "y=1"], "hello")
    fields, port = told["fields"], str(app.ports[scheme])
    assert fields["host"] == fields["x-forwarded-host"] == f"localhost:{port}"
    assert fields["x-forwarded-for"] == fields["x-real-ip"] == "127.0.0.1"
    assert (fields["x-forwarded-proto"], fields["x-forwarded-port"]) == (scheme, port)
    assert fields["x-original-uri"] == "/show?y=1"
    for method in ("PUT", "DELETE", "PROPFIND", "BREW"):
        assert json.loads(curl(app, scheme, "-X", method, url))["asked"][0] == method


@schemes
def test_a_python_apps_answers_arrive_as_they_are(app: Front, curl: Curl, scheme: str) -> None:
    lines = "".join(f"line {number}\n" for number in range(1000))
    assert curl(app, scheme, app.url(scheme, "/lines")) == lines
    assert curl(app, scheme, *OLD, app.url(scheme, "/lines")) == lines
    moved = json.loads(curl(app, scheme, "-L", app.url(scheme, "/moved")))
    assert moved["asked"] == ["GET", "/show", "after=moving"]
    cookies = curl(app, scheme, "-i", app.url(scheme, "/cookies")).splitlines()
    assert cookies[0] == "HTTP/1.1 204 No Content"
    kept = [line for line in cookies if line.lower().startswith("set-cookie: ")]
    assert [line.partition(": ")[2] for line in kept] == ["a=1", "b=2; HttpOnly"]
    assert curl(app, scheme, "-w", " %{http_code}", app.url(scheme, "/broken")) == "oops 500"


@schemes
@pytest.mark.parametrize("path", ["/small", "/close", "/none"])
def test_wrk_sees_no_error_before_nginx(front: Front, peer: Peer, scheme: str, path: str) -> None:
    counted = load(peer("wrk"), front.url(scheme, path), 2 if path == "/small" else 1)
    assert counted.requests > 500
    assert (counted.errors, counted.bad) == (0, 0)


@schemes
def test_wrk_sees_no_error_before_a_python_app(app: Front, peer: Peer, scheme: str) -> None:
    counted = load(peer("wrk"), app.url(scheme, "/show"), 1, connections=16)
    assert counted.requests > 50
    assert (counted.errors, counted.bad) == (0, 0)


@pytest.fixture
def mortal(programs: Programs, small: tuple[Front, str]) -> Front:
    """A proxy of the test's own, before the same nginx."""
    return Front(programs, location(int(small[1].rpartition(" ")[2])))


@schemes
def test_a_stop_under_load_ends_requests_and_not_in_the_middle(
    mortal: Front, peer: Peer, scheme: str
) -> None:
    stopper = threading.Timer(1.0, mortal.proxy.signal, (signal.SIGTERM,))
    stopper.start()
    counted = load(peer("wrk"), mortal.url(scheme, "/small"), 2)
    stopper.join()
    assert mortal.proxy.ended() == 0
    assert counted.bad == 0
    assert "were cut off" not in mortal.proxy.log


@schemes
def test_idle_clients_do_not_hold_a_stop_up(mortal: Front, scheme: str) -> None:
    idle, used = mortal.connect(scheme), mortal.connect(scheme)
    used.sendall(b"GET /small HTTP/1.1\r\nHost: a.test\r\n\r\n")
    used.recv(1 << 16)
    with ThreadPoolExecutor(2) as pool:
        left = pool.map(until_the_end, (idle, used))  # who never answers a TLS goodbye costs some seconds
        mortal.proxy.signal(signal.SIGTERM)
        assert mortal.proxy.ended(3) == 0
        assert list(left) == [b"", b""]


def until_the_end(client: socket.socket) -> bytes:
    with client:
        return all_of(client)


# -- peers that speak TLS


def test_the_end_of_a_tls_peers_stream_ends_a_body_without_length(
    programs: Programs, serving: Serving, certificate: Certificate
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
    with Front(programs, upstream).connect("http") as client:
        client.sendall(b"GET / HTTP/1.0\r\nHost: a.test\r\n\r\n")
        answer = all_of(client)
    assert answer.endswith(b"\r\n\r\nall of it")


def test_a_peer_whose_certificate_is_not_believed_is_passed_over(
    programs: Programs, serving: Serving, certificate: Certificate
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
    front = Front(
        programs,
        f'{{ location = "127.0.0.1:{secret.port}", tls = true }}, {plain.location}',
        entry="load_balance = 'primary_backup'",
    )
    for _ in range(2):
        with front.connect("http") as client:
            client.sendall(
                b"POST / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            )
            assert all_of(client).endswith(b"\r\n\r\nok")
