"""HTTP/2 to nginx, in clear text and in TLS, for clients of both versions; and to servers without it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Peer
from tests.e2e.fronts import SCHEMES, Front, location
from tests.e2e.peers import nginx, self_signed
from tests.e2e.programs import Programs, free_port
from tests.e2e.streams import all_of

HTTP2 = 'upstream_options = ["force_http2_upstream"]'
VERSIONS = ["1.1", "2"]
LARGE = bytes(range(256)) * 40000
schemes = pytest.mark.parametrize("scheme", SCHEMES)
versions = pytest.mark.parametrize("version", VERSIONS)


def site(listen: str, folder: Path, more: str = "") -> str:
    """A server that says which version it was asked in, takes uploads and has a large file."""
    return f"""server {{
        listen {listen}; root {folder}; {more}
        keepalive_requests 1000000; client_max_body_size 0;
        location = /small {{ return 200 "$server_protocol $scheme $host $http_x_forwarded_for"; }}
        location = /empty {{ return 204; }}
        location = /away {{ return 302 /small; }}
        location /put/ {{ dav_methods PUT; create_full_put_path on; }}
    }}"""


class World:
    """A proxy before nginx in clear text, and one before nginx in TLS."""

    def __init__(self, programs: Programs, program: str) -> None:
        self.folder = folder = programs.folder
        (folder / "large").write_bytes(LARGE)
        clear, tls, old = free_port(), free_port(), free_port()
        signed = self_signed(folder / "certificate", "localhost")
        files = f"ssl_certificate {signed.certificate}; ssl_certificate_key {signed.key};"
        servers = [
            site(f"127.0.0.1:{clear} http2 backlog=1024", folder),
            site(f"127.0.0.1:{tls} ssl http2", folder, files),
            site(f"127.0.0.1:{old} ssl", folder, files),
        ]
        nginx(programs, program, "".join(servers), ("127.0.0.1", clear))
        trust = f', tls = true, tls_server_name = "localhost", tls_ca_path = "{signed.certificate}"'
        self.clear = Front(programs, location(clear), entry=HTTP2)
        self.tls = Front(programs, location(tls, trust), entry=HTTP2)
        self.old = Front(programs, location(old, trust), entry=HTTP2)


@pytest.fixture(scope="module")
def world(lasting_programs: Programs, peer: Peer) -> World:
    peer("curl")
    return World(lasting_programs, peer("nginx"))


def curl(front: Front, scheme: str, version: str, path: str, *words: Any) -> str:
    flags = {"1.1": ["--http1.1"], "2": ["--http2-prior-knowledge" if scheme == "http" else "--http2"]}
    command = ["curl", "-sS", *flags[version], "--cacert", front.authority, *words, front.url(scheme, path)]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@schemes
@versions
def test_the_peer_is_asked_in_http2(world: World, scheme: str, version: str) -> None:
    for front, inner in ((world.clear, "http"), (world.tls, "https")):
        said = curl(front, scheme, version, "/small", "-w", " %{http_version}")
        assert said == f"HTTP/2.0 {inner} localhost 127.0.0.1 {version}"


@schemes
@versions
def test_large_bodies_go_both_ways(world: World, scheme: str, version: str, tmp_path: Path) -> None:
    (tmp_path / "sent").write_bytes(LARGE)
    for front in (world.clear, world.tls):
        path = f"/put/{scheme}{version}{front.proxy.port}"
        curl(front, scheme, version, path, "-f", "-T", tmp_path / "sent")
        assert (world.folder / path[1:]).read_bytes() == LARGE
        curl(front, scheme, version, "/large", "-f", "-o", tmp_path / "got")
        assert (tmp_path / "got").read_bytes() == LARGE


@versions
def test_bodies_of_unknown_length_go_on(world: World, version: str) -> None:
    words = ["curl", "-sS", "-T", "-", "--cacert", world.tls.authority]
    words += ["--http1.1"] if version == "1.1" else []
    path = f"/put/streamed{version}"
    subprocess.run([*words, world.tls.url("https", path)], input=LARGE, timeout=60, check=True)
    assert (world.folder / path[1:]).read_bytes() == LARGE


@versions
def test_answers_without_a_body_and_those_of_other_kinds(world: World, version: str) -> None:
    status = ["-o", "/dev/null", "-w", "%{http_code} %{size_download}"]
    assert curl(world.clear, "http", version, "/empty", *status) == "204 0"
    assert curl(world.clear, "http", version, "/nothing", "--head", *status) == "404 0"
    assert curl(world.clear, "http", version, "/large", "--head", *status) == "200 0"
    assert curl(world.clear, "http", version, "/away", "-w", "%{http_code}")[-3:] == "302"
    assert curl(world.clear, "http", version, "/large", "-r", "0-9", *status) == "206 10"


def test_many_clients_share_few_connections(world: World, peer: Peer) -> None:
    words = [peer("h2load"), "-n", 4000, "-c", 10, "-m", 50, world.clear.url("http", "/small")]
    said = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=70, check=True).stdout
    found = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", said)
    assert found is not None
    assert found.groups() == ("4000", "0", "0")
    assert "status codes: 4000 2xx" in said
    assert 1 <= sockets_to_peers(world.clear) <= 8


def sockets_to_peers(front: Front) -> int:
    """Connections of the proxy to its peer."""
    port = re.search(r"location = \"127.0.0.1:(\d+)\"", front.proxy.config.read_text())
    assert port is not None
    hexed, owned = f":{int(port[1]):04X}", Path(f"/proc/{front.proxy.pid}/net/tcp").read_text()
    return sum(
        line.split()[2].endswith(hexed) and line.split()[3] == "01" for line in owned.split("\n")[1:-1]
    )


def test_a_slow_client_does_not_hold_up_the_others(world: World) -> None:
    slow = [world.clear.connect("http", receive_buffer=4096) for _ in range(20)]
    for client in slow:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
    for _ in range(5):
        assert curl(world.clear, "http", "1.1", "/large", "-w", "%{size_download}", "-o", "/dev/null")
    assert sockets_to_peers(world.clear) <= 8
    for client in slow:
        client.close()


def test_a_head_that_the_peer_does_not_take_ends_nobody_elses_request(world: World) -> None:
    """nginx ends a whole connection for a field above 8 KiB."""
    with world.clear.connect("http", receive_buffer=4096) as slow:
        slow.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        status = ["-o", "/dev/null", "-w", "%{http_code}"]
        large = ["-H", f"X-Large: {'x' * 20000}"]
        for version in VERSIONS:
            assert curl(world.clear, "http", version, "/small", *status, *large) == "431"
        assert curl(world.clear, "http", "2", "/small", *status, "-H", f"X-Large: {'x' * 6000}") == "200"
        assert all_of(slow).partition(b"\r\n\r\n")[2] == LARGE
    assert "is down" not in world.clear.proxy.log


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_server_that_renews_its_connections_loses_nothing(
    programs: Programs, peer: Peer, method: str
) -> None:
    port = free_port()
    answers = f"""server {{
        listen 127.0.0.1:{port} http2 backlog=1024; keepalive_requests 50;
        location / {{ return 200 "ok"; }}
    }}"""
    nginx(programs, peer("nginx"), answers, ("127.0.0.1", port))
    front = Front(programs, location(port), entry=HTTP2)
    (programs.folder / "body").write_bytes(b"x" * 1000)
    words = [peer("h2load"), "-n", 3000, "-c", 5, "-m", 20, front.url("http", "/")]
    words += ["-d", programs.folder / "body"] if method == "POST" else []
    said = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=70, check=True).stdout
    assert "status codes: 3000 2xx, 0 3xx, 0 4xx, 0 5xx" in said
    assert "is down" not in front.proxy.log


def test_a_peer_without_http2_in_tls_is_named(world: World) -> None:
    status = ["-o", "/dev/null", "-w", "%{http_code}"]
    assert curl(world.old, "https", "2", "/small", *status) == "502"
    world.old.proxy.says("takes no HTTP/2")
    world.old.proxy.says('without "force_http2_upstream" in upstream_options it is spoken to in HTTP/1.1')


def test_a_peer_without_http2_in_clear_text_is_named(programs: Programs, peer: Peer) -> None:
    port = free_port()
    nginx(programs, peer("nginx"), site(f"127.0.0.1:{port}", programs.folder), ("127.0.0.1", port))
    front = Front(programs, location(port), entry=HTTP2)
    assert curl(front, "http", "1.1", "/small", "-o", "/dev/null", "-w", "%{http_code}") == "502"
    front.proxy.says("the peer answers in HTTP/1.1 to HTTP/2")


def test_health_checks_speak_it_too(programs: Programs, peer: Peer) -> None:
    port = free_port()
    answers = site(f"127.0.0.1:{port} http2", programs.folder)
    running = nginx(programs, peer("nginx"), answers, ("127.0.0.1", port))
    check = '{ type = "http", path = "/empty", expected_status = 204, interval = "300ms", timeout = "200ms" }'
    front = Front(programs, location(port), entry=f"{HTTP2}\nhealth_check = {check}")
    assert curl(front, "http", "1.1", "/small").startswith("HTTP/2.0")
    assert "is unhealthy" not in front.proxy.log
    running.end()
    front.proxy.says("is unhealthy")


def test_a_reload_leaves_requests_and_closes_what_is_idle(programs: Programs, peer: Peer) -> None:
    port = free_port()
    nginx(programs, peer("nginx"), site(f"127.0.0.1:{port} http2", programs.folder), ("127.0.0.1", port))
    front = Front(programs, location(port), entry=HTTP2)
    assert curl(front, "http", "1.1", "/small").startswith("HTTP/2.0")
    assert sockets_to_peers(front) == 1
    text = front.proxy.config.read_text().split("\n", 2)[2]
    front.proxy.reload(text.replace("force_http2_upstream", "force_http11_upstream"))
    assert sockets_to_peers(front) == 0
    front.proxy.reload(text)
    assert curl(front, "http", "1.1", "/small").startswith("HTTP/2.0")
