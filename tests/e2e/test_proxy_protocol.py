"""The real client's address, from and to the programs that speak the PROXY protocol."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.e2e.conftest import Peer, Serving
from tests.e2e.peers import Certificate, haproxy, nginx
from tests.e2e.programs import Programs, free_port, run, until
from tests.e2e.streams import all_of, ask, call, client_hello, connect, exactly, read_hello, saying

CLIENT = "127.0.0.77"
"""A loopback address that nothing else in these tests uses."""


def app(port: int, version: str) -> str:
    peer = f'[{{ location = "127.0.0.1:{port}" }}]'
    return (
        '[apps.a]\nserver_name = "a.test"\n'
        f'passthrough = {{ upstream = {peer}, proxy_protocol = "{version}" }}\n'
    )


def curl(peer: Peer, port: int, source: str = CLIENT) -> str:
    words = [peer("curl"), "--silent", "--show-error", "--insecure", "--max-time", "10", "--noproxy", "*"]
    words += ["--interface", source, "--resolve", f"a.test:{port}:127.0.0.1", f"https://a.test:{port}/"]
    done = run(words)
    return done.stdout + done.stderr


def nginx_server(port: int, certificate: Certificate) -> str:
    return (
        f"server {{ listen 127.0.0.1:{port} ssl proxy_protocol; ssl_certificate {certificate.certificate};"
        f" ssl_certificate_key {certificate.key};"
        ' return 200 "$proxy_protocol_addr to $proxy_protocol_server_addr:$proxy_protocol_server_port\\n"; }'
    )


def haproxy_server(port: int, certificate: Certificate) -> str:
    seen = "%[src] %[fc_pp_authority] %[fc_pp_unique_id]"
    return (
        f"frontend behind\n  mode http\n  bind 127.0.0.1:{port} accept-proxy ssl crt {certificate.both}\n"
        f'  http-request return status 200 content-type text/plain lf-string "{seen}"\n'
    )


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_nginx_sees_the_client(
    programs: Programs, peer: Peer, certificate: Certificate, version: str
) -> None:
    port = free_port()
    nginx(programs, peer("nginx"), nginx_server(port, certificate), ("127.0.0.1", port))
    proxy = programs.rproxy(app(port, version))
    assert curl(peer, proxy.port) == f"{CLIENT} to 127.0.0.1:{proxy.port}\n"


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_haproxy_sees_the_client(
    programs: Programs, peer: Peer, certificate: Certificate, version: str
) -> None:
    port = free_port()
    haproxy(programs, peer("haproxy"), haproxy_server(port, certificate), port)
    proxy = programs.rproxy(app(port, version))
    assert curl(peer, proxy.port).startswith(CLIENT)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2"])
def test_the_client_of_a_haproxy_in_front_is_seen_by_the_nginx_behind(
    programs: Programs, peer: Peer, certificate: Certificate, send: str, version: str
) -> None:
    port, front = free_port(), free_port()
    nginx(programs, peer("nginx"), nginx_server(port, certificate), ("127.0.0.1", port))
    proxy = programs.rproxy('accept_proxy_protocol = { from = ["127.0.0.1"] }\n' + app(port, version))
    in_front = (
        f"listen front\n  mode tcp\n  bind 127.0.0.1:{front}\n  server r 127.0.0.1:{proxy.port} {send}\n"
    )
    haproxy(programs, peer("haproxy"), in_front, front)
    assert curl(peer, front) == f"{CLIENT} to 127.0.0.1:{front}\n"
    until(lambda: any(end["client"].startswith(CLIENT) for end in proxy.ends()), "the client in the log")


def test_authority_and_unique_id_travel_from_haproxy_to_haproxy(
    programs: Programs, peer: Peer, certificate: Certificate
) -> None:
    port, front = free_port(), free_port()
    haproxy(programs, peer("haproxy"), haproxy_server(port, certificate), port)
    proxy = programs.rproxy('accept_proxy_protocol = { from = ["127.0.0.1"] }\n' + app(port, "v2"))
    in_front = (
        f"listen front\n  mode tcp\n  bind 127.0.0.1:{front} ssl crt {certificate.both}\n"
        "  unique-id-format the-id-of-%ci\n"
        f"  server r 127.0.0.1:{proxy.port} send-proxy-v2 proxy-v2-options unique-id,authority,crc32c"
        " ssl verify none sni ssl_fc_sni\n"
    )
    haproxy(programs, peer("haproxy"), in_front, front)
    assert curl(peer, front) == f"{CLIENT} a.test the-id-of-{CLIENT}"


@pytest.mark.parametrize(("interface", "to", "family"), [("::1", "::1", "TCP6"), ("::", "127.0.0.1", "TCP4")])
def test_ipv6_leaves_as_tcp6_and_ipv4_on_a_shared_socket_as_tcp4(
    programs: Programs, serving: Serving, interface: str, to: str, family: str
) -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here")
    backend, port = serving(first_line), free_port()
    listen = f"tcp6:{port}:interface=" + interface.replace(":", "\\\\:")
    programs.rproxy(f'listen_tls = ["{listen}"]\n' + app(backend.port, "v1"))
    with socket.create_connection((to, port), timeout=10) as client:
        client.sendall(client_hello("a.test"))
        source = client.getsockname()[1]
        assert all_of(client).decode() == f"PROXY {family} {to} {to} {source} {port}\r\n"


def first_line(stream: socket.socket) -> None:
    line = b""
    while not line.endswith(b"\r\n"):
        line += exactly(stream, 1)
    read_hello(stream)
    stream.sendall(line)


def test_a_trusted_sender_may_leave_the_header_out(programs: Programs, serving: Serving) -> None:
    backend = serving(saying(b"served"))
    proxy = programs.rproxy('accept_proxy_protocol = { from = ["127.0.0.1"] }\n' + app(backend.port, "none"))
    assert ask(proxy.port, "a.test") == b"served"


def test_a_header_from_anybody_else_closes(programs: Programs, serving: Serving) -> None:
    backend = serving(saying(b"served"))
    proxy = programs.rproxy('accept_proxy_protocol = { from = ["127.0.0.1"] }\n' + app(backend.port, "none"))
    with connect(proxy.port, CLIENT) as liar:
        liar.sendall(b"PROXY TCP4 8.8.8.8 127.0.0.1 53 443\r\n")
        assert liar.recv(100) == b""
    assert ask(proxy.port, "a.test", source=CLIENT) == b"served"
    until(lambda: "reason=bad_proxy_header" in proxy.log, "the refusal in the log")
    assert "8.8.8.8" not in proxy.log
    assert backend.served == 1


def test_a_required_header_that_is_missing_closes(programs: Programs, serving: Serving) -> None:
    backend = serving(saying(b"served"))
    accept = 'accept_proxy_protocol = { from = ["127.0.0.1"], required = true }\n'
    proxy = programs.rproxy(accept + app(backend.port, "none"))
    for source in ("127.0.0.1", CLIENT):
        assert ask(proxy.port, "a.test", source=source) == b""
    with call(proxy.port, None) as client:
        assert client.recv(100) == b""
    assert backend.served == 0


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 1.2.3.4 127.0.0.1 99999 443\r\n",
        b"PROXY " + b"A" * 200,
        b"\r\n\r\n\x00\r\nQUIT\n\x31\x11\x00\x0c" + bytes(12),
        b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff" + bytes(100),
    ],
    ids=["v1-port", "v1-endless", "v2-version", "v2-huge"],
)
def test_a_malformed_header_closes_and_costs_nobody_else_anything(
    programs: Programs, serving: Serving, header: bytes
) -> None:
    backend = serving(saying(b"served"))
    proxy = programs.rproxy('accept_proxy_protocol = { from = ["127.0.0.1"] }\n' + app(backend.port, "none"))
    with connect(proxy.port) as client:
        client.sendall(header)
        assert client.recv(100) == b""
    assert ask(proxy.port, "a.test") == b"served"
