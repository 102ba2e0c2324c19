"""Limits per client with real connections: tokens, open connections, requests, lists."""

from __future__ import annotations

import socket
import time

import pytest

from rproxy.wire.address import Inet
from rproxy.wire.proxyheader import encode_v2
from tests.e2e.conftest import Peer, Serving
from tests.e2e.peers import Certificate, nginx
from tests.e2e.programs import Programs, Proxy, free_port, run, until
from tests.e2e.streams import Backend, all_of, ask, call, client_hello, connect, echo, exactly, reset, saying

TRUSTED = 'accept_proxy_protocol = { from = ["127.0.0.1"] }\n'
ACCESS_DENIED = b"\x15\x03\x03\x00\x02\x02\x31"


def app(backend: Backend, more: str = "") -> str:
    return f'[apps.a]\nserver_name = "a.test"\n{more}passthrough = {{ upstream = [{backend.location}] }}\n'


def header(client: str) -> bytes:
    return encode_v2(Inet(client, 4711), Inet("127.0.0.1", 443))


def behind(port: int, client: str, payload: bytes = b"") -> bytes:
    """All that a client gets whom a PROXY header names."""
    with connect(port) as stream:
        stream.sendall(header(client) + client_hello("a.test") + payload)
        return all_of(stream)


@pytest.mark.parametrize("place", ["every listener", "the app"])
def test_a_burst_is_served_and_then_one_per_fill_rate(
    programs: Programs, serving: Serving, place: str
) -> None:
    backend, limit = serving(saying(b"hello")), 'rate_limit = { capacity = 3, fill_rate = "1s" }\n'
    top, own = (limit, "") if place == "every listener" else ("", limit)
    proxy = programs.rproxy(top + app(backend, own))
    assert [ask(proxy.port, "a.test") for _ in range(5)] == [b"hello"] * 3 + [b""] * 2
    assert ask(proxy.port, "a.test", source="127.0.0.77") == b"hello"
    time.sleep(1.0)
    assert [ask(proxy.port, "a.test") for _ in range(2)] == [b"hello", b""]
    assert backend.served == 5


@pytest.mark.parametrize("place", ["every listener", "the app"])
def test_open_connections_are_counted_until_they_end_however_they_end(
    programs: Programs, serving: Serving, place: str
) -> None:
    backend, limit = serving(echo), "rate_limit = { max_connections = 2 }\n"
    top, own = (limit, "") if place == "every listener" else ("", limit)
    proxy = programs.rproxy(top + app(backend, own))
    for ended in (socket.socket.close, reset, socket.socket.close):
        one, two = call(proxy.port, "a.test", b"one"), call(proxy.port, "a.test", b"two")
        assert (exactly(one, 3), exactly(two, 3)) == (b"one", b"two")
        assert ask(proxy.port, "a.test") == b""
        with call(proxy.port, "a.test", b"other", source="127.0.0.77") as other:
            assert exactly(other, 5) == b"other"
        lines = len(proxy.ends())
        ended(one)
        ended(two)
        until(lambda lines=lines: len(proxy.ends()) >= lines + 2, "both have ended")
    assert "rate_limit" in proxy.log


def test_a_reload_changes_the_limit_and_keeps_the_count(programs: Programs, serving: Serving) -> None:
    backend = serving(saying(b"hello"))
    limit = 'rate_limit = {{ capacity = {}, fill_rate = "1h" }}\n'
    proxy = programs.rproxy(limit.format(2) + app(backend))
    assert [ask(proxy.port, "a.test") for _ in range(3)] == [b"hello", b"hello", b""]
    proxy.reload(limit.format(4) + app(backend))
    assert [ask(proxy.port, "a.test") for _ in range(3)] == [b"hello", b"hello", b""]
    proxy.reload(app(backend))
    assert ask(proxy.port, "a.test") == b"hello"


def test_the_real_client_is_counted_behind_a_proxy(programs: Programs, serving: Serving) -> None:
    backend = serving(saying(b"hello"))
    proxy = programs.rproxy(TRUSTED + 'rate_limit = { capacity = 1, fill_rate = "1h" }\n' + app(backend))
    clients = ["192.0.2.7", "192.0.2.7", "192.0.2.8", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"]
    answers = []
    for client in clients:
        with connect(proxy.port) as stream:
            local = Inet("127.0.0.1" if "." in client else "::1", 443)
            stream.sendall(encode_v2(Inet(client, 4711), local) + client_hello("a.test"))
            answers.append(all_of(stream))
    assert answers == [b"hello", b"", b"hello", b"hello", b"", b"hello"]
    until(lambda: [end["reason"] for end in proxy.ends()].count("rate_limited") == 2, "two lines in the log")


def test_who_may_come_is_asked_about_the_real_client(programs: Programs, serving: Serving) -> None:
    backend = serving(saying(b"hello"))
    lists = 'allow = ["192.0.2.0/24"]\ndeny = "192.0.2.8"\n'
    proxy = programs.rproxy(TRUSTED + lists + app(backend))
    answers = [behind(proxy.port, client) for client in ("192.0.2.7", "192.0.2.8", "198.51.100.1")]
    assert answers == [b"hello", ACCESS_DENIED, ACCESS_DENIED]
    proxy.reload(TRUSTED + app(backend, lists))
    answers = [behind(proxy.port, client) for client in ("192.0.2.7", "192.0.2.8", "198.51.100.1")]
    assert answers == [b"hello", ACCESS_DENIED, ACCESS_DENIED]
    assert ask(proxy.port, "a.test") == ACCESS_DENIED
    proxy.reload('deny = "127.0.0.77"\n' + app(backend))
    assert ask(proxy.port, "a.test") == b"hello"
    assert ask(proxy.port, "a.test", source="127.0.0.77") == b""


# -- Requests -----------------------------------------------------------------------------------------------


class Site:
    """An app with HTTP in clear text and behind TLS, and nginx behind it."""

    def __init__(
        self, programs: Programs, peer: Peer, certificate: Certificate, top: str = "", own: str = ""
    ) -> None:
        backend, self.port = free_port(), free_port()
        server = f'server {{ listen 127.0.0.1:{backend}; location / {{ return 200 "ok\\n"; }} }}'
        nginx(programs, peer("nginx"), server, ("127.0.0.1", backend))
        self._curl = peer("curl")
        location = f'location = "127.0.0.1:{backend}"\n'
        first, _, more = own.partition("---")
        self.text = (
            f'listen_port = {self.port}\n{top}[apps.a]\nserver_name = "a.test"\nhttps_redirection = false\n'
            f'tls.tls_cert_path = "{certificate.certificate}"\ntls.tls_cert_key_path = "{certificate.key}"\n'
            f"{first}[[apps.a.reverse_proxy]]\n{location}{more.replace('LOCATION', location)}"
        )
        self.proxy: Proxy = programs.rproxy(self.text)

    def get(
        self, path: str = "/", *more: str, client: str = "127.0.0.1", tls: bool = False
    ) -> tuple[str, str]:
        """The status, and the value of Retry-After."""
        words = [self._curl, "--silent", "--insecure", "--output", "/dev/null", "--max-time", "10"]
        words += ["--write-out", "%{http_code} %header{retry-after}", "--noproxy", "*", "--interface", client]
        port = self.proxy.port if tls else self.port
        scheme = "https" if tls else "http"
        words += ["--resolve", f"a.test:{port}:127.0.0.1", *more, f"{scheme}://a.test:{port}{path}"]
        status, _, after = run(words).stdout.partition(" ")
        return status, after


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_too_many_requests_are_told_when_to_come_back(
    programs: Programs, peer: Peer, certificate: Certificate, version: str
) -> None:
    own = 'request_limit = { capacity = 3, fill_rate = "30s" }\n'
    site = Site(programs, peer, certificate, own=own)
    answers = [site.get("/", version, tls=True) for _ in range(4)]
    assert [status for status, _ in answers] == ["200", "200", "200", "429"]
    assert 25 <= int(answers[3][1]) <= 30
    assert site.get("/", version)[0] == "429"  # the same client in clear text
    assert site.get("/", version, client="127.0.0.77", tls=True)[0] == "200"
    until(lambda: site.proxy.log.count(" 429 Too Many Requests ") == 2, "both in the access log")


def test_a_path_is_limited_besides_its_app(programs: Programs, peer: Peer, certificate: Certificate) -> None:
    own = (
        'request_limit = { capacity = 4, fill_rate = "1h" }\n---[[apps.a.reverse_proxy]]\npath = "/login"\n'
        'LOCATIONrequest_limit = { capacity = 1, fill_rate = "1h" }\n'
    )
    site = Site(programs, peer, certificate, own=own)
    paths = ["/login", "/login", "/", "/x", "/y", "/z"]
    assert [site.get(path)[0] for path in paths] == ["200", "429", "200", "200", "200", "429"]


def test_requests_are_counted_by_whom_a_trusted_proxy_speaks_for(
    programs: Programs, peer: Peer, certificate: Certificate
) -> None:
    top = 'trusted_forwarded_proxies = "127.0.0.1"\n'
    site = Site(programs, peer, certificate, top, 'request_limit = { capacity = 1, fill_rate = "1h" }\n')

    def get(client: str, source: str = "127.0.0.1") -> str:
        return site.get("/", "--header", f"X-Forwarded-For: {client}", client=source)[0]

    assert [get("192.0.2.7"), get("192.0.2.7"), get("192.0.2.8")] == ["200", "429", "200"]
    stranger = "127.0.0.77"
    assert [get(f"192.0.2.{n}", stranger) for n in (20, 21)] == ["200", "429"]


def test_lists_hold_for_whom_a_trusted_proxy_speaks_for(
    programs: Programs, peer: Peer, certificate: Certificate
) -> None:
    top = 'trusted_forwarded_proxies = "127.0.0.1"\nallow = "192.0.2.0/24"\n'
    site = Site(programs, peer, certificate, top, 'deny = "192.0.2.9"\n')
    statuses = {
        client: site.get("/", "--header", f"X-Forwarded-For: {client}")[0]
        for client in ("192.0.2.7", "192.0.2.9", "198.51.100.1")
    }
    assert statuses == {"192.0.2.7": "200", "192.0.2.9": "403", "198.51.100.1": "403"}
    assert site.get(client="127.0.0.77")[0] == "000"
    until(lambda: site.proxy.log.count(" 403 Forbidden ") == 2, "both in the access log")
