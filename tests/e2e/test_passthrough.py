"""Two nginx behind one port, chosen by name; and what anybody else is told."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from tests.e2e.conftest import Peer
from tests.e2e.peers import Certificate, nginx, self_signed
from tests.e2e.programs import Programs, Proxy, free_port, run
from tests.e2e.streams import UNEXPECTED_MESSAGE, all_of, connect


class Site(NamedTuple):
    port: int
    certificate: Certificate


@pytest.fixture(scope="module")
def sites(
    lasting_programs: Programs, peer: Peer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Site]:
    """nginx twice, each with a certificate of its own, answering with its letter and what it was asked."""
    made = {}
    for letter, names in {"a": ["a.test"], "b": ["b.test", "*.wild.test"]}.items():
        site = made[letter] = Site(free_port(), self_signed(tmp_path_factory.mktemp(letter), *names))
        server = (
            f"server {{ listen 127.0.0.1:{site.port} ssl http2;"
            f" ssl_certificate {site.certificate.certificate}; ssl_certificate_key {site.certificate.key};"
            f' return 200 "{letter} $ssl_server_name $server_protocol\\n"; }}'
        )
        nginx(lasting_programs, peer("nginx"), server, ("127.0.0.1", site.port))
    return made


def routes(sites: dict[str, Site]) -> str:
    return f"""
    [apps.a]
    server_name = "a.test"
    passthrough = {{ upstream = [{{ location = "127.0.0.1:{sites["a"].port}" }}] }}
    [apps.b]
    server_name = ["b.test", "*.wild.test"]
    passthrough = {{ upstream = [{{ location = "127.0.0.1:{sites["b"].port}" }}] }}
    """


@pytest.fixture(scope="module")
def proxy(lasting_programs: Programs, sites: dict[str, Site]) -> Proxy:
    return lasting_programs.rproxy(routes(sites))


def curl(peer: Peer, port: int, name: str, site: Site, *more: str) -> str:
    """The body of `https://name/`, with the site's certificate verified."""
    words = [peer("curl"), "--silent", "--show-error", "--max-time", "10", "--noproxy", "*"]
    words += ["--resolve", f"{name}:{port}:127.0.0.1", "--cacert", str(site.certificate.certificate)]
    done = run([*words, *more, f"https://{name}:{port}/"])
    return done.stdout + done.stderr


def s_client(peer: Peer, port: int, *more: str) -> str:
    """What `openssl s_client` says after sending one request."""
    words = [peer("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", *more]
    done = run(words, stdin=None, input="GET / HTTP/1.0\r\n\r\n")
    return done.stdout + done.stderr


@pytest.mark.parametrize(("name", "letter"), [("a.test", "a"), ("b.test", "b"), ("x.wild.test", "b")])
def test_a_name_reaches_its_own_backend_with_its_own_certificate(
    proxy: Proxy, sites: dict[str, Site], peer: Peer, name: str, letter: str
) -> None:
    assert curl(peer, proxy.port, name, sites[letter]).startswith(f"{letter} {name} ")


def test_a_wildcard_covers_deeper_names_and_not_its_own_root(
    proxy: Proxy, sites: dict[str, Site], peer: Peer
) -> None:
    assert curl(peer, proxy.port, "x.y.wild.test", sites["b"], "--insecure").startswith("b x.y.wild.test")
    assert "unrecognized name" in curl(peer, proxy.port, "wild.test", sites["b"], "--insecure")


def test_capital_letters_in_a_name_do_not_matter(proxy: Proxy, peer: Peer) -> None:
    assert "CN = a.test" in s_client(peer, proxy.port, "-servername", "A.Test")


def test_client_and_backend_agree_on_alpn_between_themselves(
    proxy: Proxy, sites: dict[str, Site], peer: Peer
) -> None:
    assert curl(peer, proxy.port, "a.test", sites["a"], "--http1.1") == "a a.test HTTP/1.1\n"
    assert "ALPN protocol: h2" in s_client(peer, proxy.port, "-servername", "a.test", "-alpn", "h2")


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_each_version_of_tls_passes(proxy: Proxy, peer: Peer, version: str) -> None:
    assert "CN = b.test" in s_client(peer, proxy.port, "-servername", "b.test", version)


def test_an_unknown_name_is_answered_with_alert_112(proxy: Proxy, peer: Peer) -> None:
    said = s_client(peer, proxy.port, "-servername", "unknown.test")
    assert "unrecognized name" in said
    assert "SSL alert number 112" in said


def test_no_name_is_answered_with_alert_112(proxy: Proxy, peer: Peer) -> None:
    assert "SSL alert number 112" in s_client(peer, proxy.port, "-noservername")


def test_default_passthrough_serves_unknown_names_and_no_name(
    programs: Programs, sites: dict[str, Site], peer: Peer
) -> None:
    proxy = programs.rproxy('default_passthrough = "b"\n' + routes(sites))
    assert "CN = b.test" in s_client(peer, proxy.port, "-servername", "unknown.test")
    assert "CN = b.test" in s_client(peer, proxy.port, "-noservername")
    assert "CN = a.test" in s_client(peer, proxy.port, "-servername", "a.test")


def test_plain_http_is_answered_with_a_page_that_says_so(proxy: Proxy, peer: Peer) -> None:
    url = f"http://127.0.0.1:{proxy.port}/"
    done = run([peer("curl"), "--silent", "--max-time", "10", "--noproxy", "*", "--include", url])
    assert done.stdout.startswith("HTTP/1.1 400 Bad Request")
    assert "Use https://" in done.stdout


@pytest.mark.parametrize("garbage", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\x00" * 600, b"\xff\xfe"])
def test_garbage_is_answered_with_alert_10(proxy: Proxy, garbage: bytes) -> None:
    with connect(proxy.port) as client:
        client.sendall(garbage)
        assert all_of(client) == UNEXPECTED_MESSAGE
