"""`[l4.<name>]` with real programs: who is let in, who is told what, and what an upstream is told."""

from __future__ import annotations

import socket
import ssl

import pytest

from rproxy.wire.address import Inet
from rproxy.wire.proxyheader import ALPN, AUTHORITY, SSL, ProxyHeaderReader, encode_v2
from tests.e2e.conftest import Peer, Serving
from tests.e2e.identities import Identities, Service, alert_in, echo
from tests.e2e.programs import Programs, free_port, until
from tests.e2e.streams import CHUNK, Backend, connect


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return Identities(tmp_path_factory.mktemp("identities"))


GROUPS = 'authorized_groups = ["admin"]\n'


# -- Who may ------------------------------------------------------------------------------------------------

REFUSED = {
    "no certificate": (None, (), 116, "certificate_required", None),
    "another authority": ("stranger", (), 48, "unknown_ca", None),
    "expired": ("expired", (), 45, "certificate_expired", None),
    "revoked": ("revoked", (), 44, "certificate_revoked", None),
    "TLS 1.2": ("bob", ("-tls1_2",), 70, "protocol_version", None),
    "another group": ("eve", (), 49, "not_authorised", "eve@staff"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_s_client_is_told_why_it_is_refused_and_no_upstream_hears_of_it(
    programs: Programs, serving: Serving, identities: Identities, peer: Peer, case: str
) -> None:
    """G-3, G-5: the right alert, one line that says who and why."""
    peer("openssl")
    file, options, alert, reason, user = REFUSED[case]
    backend = serving(echo)
    service = Service(programs, [backend], GROUPS + identities.tls)
    said = identities.s_client(service.port, file, *options)
    assert alert_in(said.stderr) == alert, said.stderr
    end = service.ended()
    assert (end["reason"], end.get("user"), end["app"], end["peer"]) == (reason, user, "db", "-")
    assert end["client"].startswith("127.0.0.1:")
    if file in ("expired", "revoked", "stranger"):
        assert "CN=mallory@admin" in service.proxy.log or "CN=bob@admin" in service.proxy.log
    assert backend.served == 0


def test_the_name_of_a_client_cannot_forge_a_line(
    programs: Programs, serving: Serving, identities: Identities
) -> None:
    identities.client("forger", "a b\n reason=ok@admin")
    service = Service(programs, [serving(echo)], 'authorized_groups = ["x"]\n' + identities.tls)
    with pytest.raises(OSError, match=r"(?i)access.denied"):
        identities.connect(service.port, "forger").recv(1)
    assert service.ended()["user"] == "a\\x20b\\x0a\\x20reason=ok@admin"


# -- How often ----------------------------------------------------------------------------------------------


def test_each_client_has_its_own_limits(programs: Programs, serving: Serving, identities: Identities) -> None:
    """G-6: the cap is asked first, who is refused loses no token, and a place is given back."""
    identities.client("carol", "carol@admin")
    limit = 'rate_limit = { capacity = 3, fill_rate = "1h", max_connections = 2 }\n'
    backend = serving(echo)
    service = Service(programs, [backend], limit + identities.tls)

    def served(file: str) -> ssl.SSLSocket:
        client = identities.connect(service.port, file)
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        return client

    first, second = served("bob"), served("bob")
    with pytest.raises(OSError, match=r"(?i)internal.error"):
        served("bob")  # two are open
    served("carol").close()
    first.close()
    service.ended(3)
    served("bob").close()  # the third token: the refusal took none
    service.ended(4)
    with pytest.raises(OSError, match=r"(?i)internal.error"):
        served("bob")  # there is none left
    second.close()
    until(lambda: len(service.proxy.ends()) == 6, "all lines")
    refused = [end["reason"] for end in service.proxy.ends() if end["peer"] == "-"]
    assert refused == ["too_many", "rate_limited"]
    assert backend.served == 4


# -- Names, protocols, headers ------------------------------------------------------------------------------


def test_services_on_one_port_are_told_apart_by_name(
    programs: Programs, serving: Serving, identities: Identities
) -> None:
    """A name that nobody has goes to the one without a name, if there is one."""

    def saying(text: bytes) -> Backend:
        return serving(lambda stream: stream.sendall(text))

    port = free_port()
    tables = [
        f'[l4.{name}]\nlisten = "127.0.0.1:{port}"\nupstream = [{saying(name.encode()).location}]\n{more}'
        for name, more in (
            ("a", 'server_name = "a.test"\nauthorized_groups = "admin"\n' + identities.tls),
            ("b", 'server_name = "b.test"\n' + identities.tls),
        )
    ]
    proxy = programs.rproxy("".join(tables))
    assert identities.connect(port, "bob", "a.test").recv(9) == b"a"
    assert identities.connect(port, "eve", "b.test").recv(9) == b"b"
    with pytest.raises(OSError, match=r"(?i)access.denied"):
        identities.connect(port, "eve", "a.test").recv(9)
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        identities.connect(port, "bob", "localhost")
    until(lambda: len(proxy.ends()) == 4, "four lines")
    assert sorted((end["app"], end["name"]) for end in proxy.ends()) == [
        ("-", "localhost"),
        ("a", "a.test"),
        ("a", "a.test"),
        ("b", "b.test"),
    ]


def test_the_protocol_inside_is_agreed_on(
    programs: Programs, serving: Serving, identities: Identities
) -> None:
    """As psql with sslnegotiation=direct insists."""
    service = Service(programs, [serving(echo)], 'alpn = ["postgresql"]\n' + identities.tls)
    for offered, agreed in ((["postgresql"], "postgresql"), (["x", "postgresql"], "postgresql"), ([], None)):
        context = identities.context("bob")
        if offered:
            context.set_alpn_protocols(offered)
        with context.wrap_socket(connect(service.port), server_hostname="localhost") as client:
            assert client.selected_alpn_protocol() == agreed
    context = identities.context("bob")
    context.set_alpn_protocols(["imap"])
    with pytest.raises(ssl.SSLError):
        context.wrap_socket(connect(service.port), server_hostname="localhost")


def test_who_the_client_is_is_told_to_the_upstream(
    programs: Programs, serving: Serving, identities: Identities
) -> None:
    """PROXY v2 in from a front proxy, and out with name, protocol and the certificate's common name."""
    seen: list[bytes] = []

    def serve(stream: socket.socket) -> None:
        seen.append(stream.recv(CHUNK))
        stream.sendall(b"ok")

    service = Service(
        programs, [serving(serve)], 'proxy_protocol = "v2"\nalpn = "postgresql"\n' + identities.tls
        + '[accept_proxy_protocol]\nfrom = ["127.0.0.1"]\n',
    )  # fmt: skip
    client, server = Inet("192.0.2.7", 1234), Inet("198.51.100.1", 5000)
    plain = connect(service.port)
    plain.sendall(encode_v2(client, server, [(0x05, b"unique"), (SSL, b"\1\0\0\0\0")]))
    context = identities.context("bob")
    context.set_alpn_protocols(["postgresql"])
    with context.wrap_socket(plain, server_hostname="a.test") as stream:
        stream.sendall(b"x")
        assert stream.recv(2) == b"ok"
    header = ProxyHeaderReader().feed(seen[0])
    assert header is not None
    assert (header.source, header.destination) == (client, server)
    assert (header.tlv(ALPN), header.tlv(AUTHORITY), header.tlv(0x05)) == (
        b"postgresql",
        b"a.test",
        b"unique",
    )
    told = header.tlv(SSL)
    assert told is not None
    assert told[:5] == b"\x07\0\0\0\0"
    assert b"\x22\0\x09bob@admin" in told
    assert b"\x21\0\x07TLSv1.3" in told
    end = service.ended()
    assert (end["client"], end["user"]) == ("192.0.2.7:1234", "bob@admin")
