"""From an app's `tls` to a route that ends it, from an upstream's to TLS with a peer; mistakes are text."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.application.service import MultiService

from rproxy.assemble_parts import Parts
from rproxy.assemble_tls import client_tls
from rproxy.config.load import parse
from rproxy.config.schema import Configuration
from rproxy.deadlines import Deadlines
from rproxy.errors import StartError
from rproxy.interfaces import Arrival
from rproxy.wire.address import Inet
from tests.fakes import Loop
from tests.tlspeers import Inners, MemoryClient, Pipe, converse, make, whole

CLIENT = Inet("192.0.2.7", 4711)
ARRIVAL = Arrival("tcp:443", CLIENT, CLIENT, Inet("192.0.2.1", 443))
GOOD = make("a.test", "*.a.test")


class Machine(Loop):
    nameResolver: Any = None


@pytest.fixture
def parts() -> Iterator[Parts]:
    journal: Any = None
    parts = Parts(Machine(), journal, MultiService())
    yield parts
    parts.close()


def config_of(
    tls: str, names: str = '"a.test"', upstream: str = '{ location = "127.0.0.1" }'
) -> Configuration:
    text = (
        "listen_port_tls = 443\nstate_directory = 'state'\n[apps.a]\n"
        f"server_name = [{names}]\n{tls}\n[[apps.a.reverse_proxy]]\nupstream = [{upstream}]\n"
    )
    return parse(text, "x.toml", rows=())


def files(directory: Path, names: str = '"a.test"') -> Configuration:
    GOOD.write(directory, "a")
    return config_of(
        f'tls = {{ tls_cert_path = "{directory}/a.pem", tls_cert_key_path = "{directory}/a.key" }}', names
    )


def spoken(route: Any, client: MemoryClient) -> tuple[Any, Pipe]:
    """A connection to a route on which TLS has come about."""
    server, pipe = route.buildProtocol(ARRIVAL), Pipe()
    server.makeConnection(pipe)
    converse(client, server, pipe, whole)
    assert client.done
    return server, pipe


# -- TLS that ends here


def test_an_apps_tls_ends_with_its_certificate_and_what_is_inside_goes_on(
    parts: Parts, tmp_path: Path
) -> None:
    config, inners, client = files(tmp_path), Inners(), MemoryClient("a.test", "http/1.1")
    route = parts.ending(config, "a", config.apps["a"]).around(inners)
    server, _ = spoken(route, client)
    assert ssl.DER_cert_to_PEM_cert(client.tls.getpeercert(True)).encode() == GOOD.pem
    assert client.tls.selected_alpn_protocol() == "http/1.1"
    server.dataReceived(client.send(b"a request"))
    (inner,) = inners.built
    assert (inner.octets, inner.arrival.client) == (b"a request", CLIENT)


def test_a_client_that_names_no_protocol_is_served(parts: Parts, tmp_path: Path) -> None:
    config, client = files(tmp_path), MemoryClient("a.test")
    spoken(parts.ending(config, "a", config.apps["a"]).around(Inners()), client)
    assert client.tls.selected_alpn_protocol() is None


@pytest.mark.parametrize(
    ("name", "covered"),
    [("a.test", True), ("x.a.test", True), ("x.y.a.test", False), ("b.test", False)],
)
def test_an_app_covers_what_its_certificate_does(
    parts: Parts, tmp_path: Path, name: str, covered: bool
) -> None:
    """Not all that the app is called: a client may use the connection for these names only."""
    config = files(tmp_path, '"a.test", "*.a.test", "b.test"')
    assert parts.ending(config, "a", config.apps["a"]).covers(name) is covered


def test_two_apps_with_one_certificate_share_no_tickets(parts: Parts, tmp_path: Path) -> None:
    """A session of one app must not open the other, which may ask for client certificates."""
    config = files(tmp_path)
    one, two = (parts.ending(config, key, config.apps["a"]) for key in "ab")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    first = MemoryClient("a.test", context=context)
    spoken(one.around(Inners()), first)
    for ending, reused in ((one, True), (two, False)):
        again = MemoryClient("a.test", context=context)
        again.tls.session = first.tls.session
        spoken(ending.around(Inners()), again)
        assert again.tls.session_reused is reused


def test_a_self_signed_certificate_is_for_all_names_and_from_the_state_directory(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = config_of("tls = { self_signed = true }", '"a.test", "*.b.test"')
    ending = parts.ending(config, "a", config.apps["a"])
    spoken(ending.around(Inners()), MemoryClient("x.b.test"))
    assert (ending.covers("a.test"), ending.covers("x.b.test")) == (True, True)
    assert (tmp_path / "state" / "ca.pem").exists()


@pytest.mark.parametrize("broken", ["missing", "nonsense", "another key"])
def test_files_that_cannot_be_used_are_named_with_their_app(
    parts: Parts, tmp_path: Path, broken: str
) -> None:
    config = files(tmp_path)
    match broken:
        case "missing":
            (tmp_path / "a.pem").unlink()
        case "nonsense":
            (tmp_path / "a.pem").write_text("nonsense")
        case _:
            (tmp_path / "a.key").write_bytes(make("a.test", number=1).key_pem)
    with pytest.raises(StartError, match=rf"^app a: .*{tmp_path}/a\.(pem|key)"):
        parts.ending(config, "a", config.apps["a"])


# -- TLS with a peer


def asked(upstream: str) -> Any:
    """How TLS is spoken to the only upstream."""
    tls, clock = "tls = { self_signed = true }", Loop()
    (entry,) = config_of(tls, upstream=f"{{ tls = true, {upstream} }}").apps["a"].reverse_proxy
    return client_tls("a", entry.upstream[0], Deadlines(clock))


@pytest.mark.parametrize(
    ("upstream", "name", "insecure"),
    [
        ('location = "db.test:8443"', "db.test", False),
        ('location = "10.0.0.1"', "10.0.0.1", False),
        ('location = "[2001:db8::1]:1"', "2001:db8::1", False),
        ('location = "10.0.0.1", tls_server_name = "db.test"', "db.test", False),
        ('location = "unix:/run/a.sock", tls_server_name = "db.test"', "db.test", False),
        ('location = "10.0.0.1", tls_insecure = true', "10.0.0.1", True),
    ],
)
def test_a_peer_is_verified_by_the_name_that_the_file_gives(upstream: str, name: str, insecure: bool) -> None:
    options = asked(upstream)
    assert (options.name, options.insecure) == (name, insecure)
    assert options.deadlines is not None, "or a peer that is silent in the handshake would hold a request"


@pytest.mark.parametrize(
    ("upstream", "said"),
    [
        ('location = "db.test", tls_ca_path = "/nonexistent/ca.pem"', "cannot read /nonexistent/ca.pem"),
        (
            'location = "db.test", tls_client_cert_path = "/nonexistent/c", tls_client_key_path = "/x"',
            "/nonexistent/c",
        ),
        ('location = "unix:/run/a.sock"', "tls_server_name says which"),
    ],
)
def test_what_cannot_be_used_is_told_with_app_and_upstream(upstream: str, said: str) -> None:
    location = upstream.split('"')[1]
    with pytest.raises(StartError, match=f"^app a: upstream {location}.*: .*{said}"):
        asked(upstream)
