"""TLS to peers, in memory: who is believed, what is said about those who are not, and what leaves when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.deadlines import Deadlines
from rproxy.errors import PeerTimeout, PeerUnreachable
from rproxy.services.certificates import server_context
from rproxy.tls import HANDSHAKE, TLSTransport
from rproxy.upstream.tls import NO_HTTP2, client_options
from rproxy.wire.clienthello import HelloReader
from tests.tlspeers import CLIENT_ONLY, OLD, PKCS8, Inner, Made, Pipe, days, key_of, key_pem, make

ROOT = make(ca=True, number=1)
OTHER_ROOT = make(ca=True, number=2)


class Asking(Protocol):
    """Asks at once, as `http_client` does."""

    transport: Any

    def __init__(self) -> None:
        self.octets = b""
        self.lost: list[Any] = []

    def connectionMade(self) -> None:
        self.transport.write(b"secret")

    def dataReceived(self, data: bytes) -> None:
        self.octets += data

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.lost.append(reason.value)


class Meeting:
    """Our client and a server in memory."""

    def __init__(self, options: Any, context: SSL.Context, asking: Any = None) -> None:
        connection = SSL.Connection(context)
        connection.set_accept_state()
        self.asking, self.inner = asking or Asking(), Inner()
        self.client: Any = options.wrap(self.asking)
        self.server = TLSTransport(self.inner, connection, None, 0)
        self.near, self.far = Pipe(), Pipe()
        self.server.makeConnection(self.far)
        self.client.makeConnection(self.near)

    def run(self) -> Meeting:
        while self.near.value() or self.far.value():
            for pipe, receiver in ((self.near, self.server), (self.far, self.client)):
                octets = pipe.value()
                pipe.clear()
                if octets and not receiver.transport.disconnected:
                    receiver.dataReceived(octets)
            if self.near.disconnecting or self.far.disconnecting:
                break
        return self

    def lose(self) -> BaseException:
        """The transport's end; what the protocol is told."""
        self.client.connectionLost(Failure(ConnectionDone()))
        (told,) = self.asking.lost
        assert isinstance(told, BaseException)
        return told

    @property
    def works(self) -> bool:
        return self.asking.octets == b"SECRET"


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_bytes(ROOT.pem)
    return path


def serving(tmp_path: Path, made: Made, *chain: Made, protocols: tuple[bytes, ...] = ()) -> SSL.Context:
    return server_context("peer", (made.pair(tmp_path, "peer", *chain),), protocols)


NO_ALPN = "tlsv1 alert no application protocol"
GOOD = make("api.internal", "*.wild.internal", "192.0.2.7", "2001:db8::7", issuer=ROOT)


@pytest.mark.parametrize(
    "hostname",
    ["api.internal", "API.internal", "api.internal.", "x.wild.internal", "192.0.2.7", "2001:db8::7"],
)
def test_a_peer_with_the_right_name_is_asked(tmp_path: Path, ca: Path, hostname: str) -> None:
    meeting = Meeting(client_options(hostname, ca_path=ca), serving(tmp_path, GOOD)).run()
    assert meeting.works
    assert meeting.inner.octets == b"secret"


@pytest.mark.parametrize(
    ("hostname", "sent"),
    [
        ("API.internal", b"api.internal"),
        ("bücher.example", b"xn--bcher-kva.example"),
        ("my_service", b"my_service"),
        ("192.0.2.7", None),
        ("2001:db8::7", None),
        ("fe80::1%lo", None),
    ],
)
def test_names_are_sent_and_addresses_are_not(tmp_path: Path, hostname: str, sent: bytes | None) -> None:
    meeting = Meeting(client_options(hostname, insecure=True), serving(tmp_path, GOOD)).run()
    assert meeting.server._tlsConnection.get_servername() == sent


def test_server_name_is_sent_and_verified_instead(tmp_path: Path, ca: Path) -> None:
    options = client_options("10.0.0.5", ca_path=ca, server_name="api.internal")
    meeting = Meeting(options, serving(tmp_path, GOOD)).run()
    assert meeting.works
    assert meeting.server._tlsConnection.get_servername() == b"api.internal"


def test_http1_is_offered(tmp_path: Path, ca: Path) -> None:
    context = serving(tmp_path, GOOD, protocols=(b"h2", b"http/1.1"))
    meeting = Meeting(client_options("api.internal", ca_path=ca), context).run()
    assert meeting.client.negotiatedProtocol == b"http/1.1"


def test_something_else_can_be_offered(tmp_path: Path, ca: Path) -> None:
    context = serving(tmp_path, GOOD, protocols=(b"h2", b"http/1.1"))
    options = client_options("api.internal", ca_path=ca)
    assert Meeting(options.offering(b"h2"), context).run().client.negotiatedProtocol == b"h2"
    assert Meeting(options, context).run().client.negotiatedProtocol == b"http/1.1"


@pytest.mark.parametrize("protocols", [(), (b"http/1.1",), (b"x", b"y")])
def test_the_hello_lists_what_is_offered_and_has_no_alpn_where_that_is_nothing(
    tmp_path: Path, ca: Path, protocols: tuple[bytes, ...]
) -> None:
    options = client_options("api.internal", ca_path=ca, protocols=protocols)
    meeting = Meeting(options, serving(tmp_path, GOOD, protocols=protocols))
    hello = HelloReader().feed(meeting.near.value())
    assert hello is not None
    assert hello.alpn == protocols
    assert meeting.run().works


@pytest.mark.parametrize(("offered", "told"), [(b"h2", NO_HTTP2), (b"http/1.1", NO_ALPN)])
def test_a_server_that_takes_nothing_of_it_is_named(offered: bytes, told: str) -> None:
    """pyOpenSSL has no server that sends this alert; nginx is one, see tests/e2e/test_http2_upstream.py."""
    peer: Any = client_options("api.internal", insecure=True).offering(offered).wrap(Asking())
    assert str(peer.handshake_failed(NO_ALPN, SSL.Error())) == f"TLS: {told}"


def test_all_connections_share_a_context(tmp_path: Path, ca: Path) -> None:
    options = client_options("api.internal", ca_path=ca)
    for _ in range(2):
        meeting = Meeting(options, serving(tmp_path, GOOD)).run()
        assert meeting.works
        assert meeting.client._tlsConnection.get_context() is options.context


def test_an_intermediate_in_the_chain_is_used(tmp_path: Path, ca: Path) -> None:
    middle = make(ca=True, number=3, issuer=ROOT)
    leaf = make("api.internal", issuer=middle)
    options = client_options("api.internal", ca_path=ca)
    assert Meeting(options, serving(tmp_path, leaf, middle)).run().works
    meeting = Meeting(options, serving(tmp_path, leaf)).run()
    assert str(meeting.lose()) == "TLS: certificate is signed by an unknown authority"


REFUSED = {
    "expired": (
        make("api.internal", issuer=ROOT, begins=days(-9), ends=days(-2)),
        "certificate has expired",
    ),
    "early": (make("api.internal", issuer=ROOT, begins=days(2)), "certificate is not yet valid"),
    "self-signed": (make("api.internal"), "certificate is self-signed"),
    "stranger": (
        make("api.internal", issuer=OTHER_ROOT),
        "certificate is signed by an unknown authority",
    ),
    "purpose": (
        make("api.internal", issuer=ROOT, usage=CLIENT_ONLY),
        "certificate is not one for servers",
    ),
    "name": (make("web.internal", issuer=ROOT), "name mismatch: certificate is for web.internal"),
    "names": (
        make("a.b", "*.c.d", "192.0.2.9", "e.f", issuer=ROOT),
        "name mismatch: certificate is for a.b, *.c.d, e.f, …",
    ),
    "wildcard of a top level": (
        make("*.internal", issuer=ROOT),
        "certificate has no name that can be verified",
    ),
    "wildcard one label short": (
        make("*.api.internal", issuer=ROOT),
        "name mismatch: certificate is for *.api.internal",
    ),
    "address": (make("192.0.2.9", issuer=ROOT), "name mismatch: certificate is for 192.0.2.9"),
    "nothing": (make(number=4, issuer=ROOT), "certificate has no name that can be verified"),
    "no authority": (
        make("api.internal", issuer=make("x", number=5, issuer=ROOT)),
        "certificate is signed by an unknown authority",
    ),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_a_peer_that_is_not_the_right_one_is_asked_nothing(tmp_path: Path, ca: Path, case: str) -> None:
    made, words = REFUSED[case]
    meeting = Meeting(client_options("api.internal", ca_path=ca), serving(tmp_path, made)).run()
    assert meeting.inner.octets == b""
    assert meeting.near.disconnecting
    told = meeting.lose()
    assert type(told) is PeerUnreachable
    assert str(told) == f"TLS: {words}"
    assert told.other_peer


def test_a_chain_with_the_wrong_link_is_refused(tmp_path: Path, ca: Path) -> None:
    """A certificate that is no authority's signs another."""
    middle = make("middle", number=6, issuer=ROOT)
    leaf = make("api.internal", issuer=middle)
    meeting = Meeting(client_options("api.internal", ca_path=ca), serving(tmp_path, leaf, middle)).run()
    assert meeting.inner.octets == b""
    assert str(meeting.lose()).startswith("TLS: certificate is signed by ")


def test_an_address_is_not_a_name(tmp_path: Path, ca: Path) -> None:
    meeting = Meeting(client_options("192.0.2.8", ca_path=ca), serving(tmp_path, GOOD)).run()
    assert "name mismatch" in str(meeting.lose())


def test_names_of_the_peer_are_escaped(tmp_path: Path, ca: Path) -> None:
    made = make("evil\n2026 all is well\x1b[31m", issuer=ROOT)
    meeting = Meeting(client_options("api.internal", ca_path=ca), serving(tmp_path, made)).run()
    words = str(meeting.lose())
    assert r"evil\n2026 all is well\x1b[31m" in words
    assert words.isprintable()


def test_insecure_takes_any_certificate(tmp_path: Path) -> None:
    expired = make("whoever", begins=days(-9), ends=days(-2))
    assert Meeting(client_options("api.internal", insecure=True), serving(tmp_path, expired)).run().works


def test_the_systems_authorities_are_the_default(tmp_path: Path) -> None:
    options = client_options("api.internal")
    assert options.context.get_verify_mode() & SSL.VERIFY_PEER
    meeting = Meeting(options, serving(tmp_path, GOOD)).run()
    assert "unknown authority" in str(meeting.lose())


@pytest.mark.parametrize(
    "octets",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"220 welcome\r\n" * 9,
        b"\x00" * 99,
        b"\x17\x03\x03\x00\x05hello",
    ],
)
def test_plaintext_before_the_handshake_is_an_error(ca: Path, octets: bytes) -> None:
    asking, pipe = Asking(), Pipe()
    client: Any = client_options("api.internal", ca_path=ca).wrap(asking)
    client.makeConnection(pipe)
    client.dataReceived(octets)
    assert pipe.disconnecting
    assert asking.octets == b""
    assert b"secret" not in pipe.value()
    client.connectionLost(Failure(ConnectionDone()))
    (told,) = asking.lost
    assert isinstance(told, PeerUnreachable)


def test_plaintext_behind_the_hello_of_the_peer_is_an_error(tmp_path: Path, ca: Path) -> None:
    meeting = Meeting(client_options("api.internal", ca_path=ca), serving(tmp_path, GOOD))
    meeting.server.dataReceived(meeting.near.value())
    meeting.client.dataReceived(meeting.far.value()[:-20] + b"HTTP/1.1 200 OK\r\n\r\ninjected")
    assert meeting.asking.octets == b""
    assert meeting.near.disconnecting
    assert isinstance(meeting.lose(), PeerUnreachable)


def test_a_peer_that_leaves_during_the_handshake_is_told(ca: Path) -> None:
    asking = Asking()
    client: Any = client_options("api.internal", ca_path=ca).wrap(asking)
    client.makeConnection(Pipe())
    client.connectionLost(Failure(ConnectionDone()))
    (told,) = asking.lost
    assert isinstance(told, PeerUnreachable)
    assert str(told) == "TLS: the other side left"


def test_a_peer_that_never_answers_is_a_timeout(ca: Path) -> None:
    clock, asking, pipe = Clock(), Asking(), Pipe()
    client: Any = client_options("api.internal", ca_path=ca, deadlines=Deadlines(clock)).wrap(asking)
    client.makeConnection(pipe)
    clock.pump([0.25] * int(HANDSHAKE / 0.25 - 1))
    assert not pipe.aborted
    clock.pump([0.25] * 4)
    assert pipe.aborted
    client.connectionLost(Failure(ConnectionDone()))
    (told,) = asking.lost
    assert isinstance(told, PeerTimeout)
    assert str(told) == "TLS: it took more than 10 s"


def test_a_loss_after_the_handshake_is_an_ordinary_one(tmp_path: Path, ca: Path) -> None:
    meeting = Meeting(client_options("api.internal", ca_path=ca), serving(tmp_path, GOOD)).run()
    assert not isinstance(meeting.lose(), PeerUnreachable)


@implementer(IHalfCloseableProtocol)
class Halves(Asking):
    """As the clients of HTTP, which go by halves where there is no TLS."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = 0

    def readConnectionLost(self) -> None:
        self.ended += 1

    def writeConnectionLost(self) -> None:
        pass


@pytest.mark.parametrize("by_halves", [False, True])
def test_the_goodbye_of_a_peer_ends_both_directions_but_for_a_relay(
    tmp_path: Path, ca: Path, by_halves: bool
) -> None:
    """An idle connection to an HTTP server that says it will not be used again."""

    class Options:
        def wrap(self, asking: Any) -> Any:
            return client_options("api.internal", ca_path=ca).wrap(asking, by_halves=by_halves)

    meeting = Meeting(Options(), serving(tmp_path, GOOD), Halves()).run()
    assert meeting.works
    meeting.server.loseWriteConnection()
    meeting.client.dataReceived(meeting.far.value())
    assert meeting.near.disconnecting == (not by_halves)
    assert meeting.asking.ended == by_halves


# Client certificates


def asking_for_certificates(tmp_path: Path) -> SSL.Context:
    context = serving(tmp_path, GOOD)
    store = context.get_cert_store()
    assert store is not None
    from OpenSSL.crypto import X509

    store.add_cert(X509.from_cryptography(ROOT.certificate))
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *args: bool(args[-1]))
    return context


def test_the_client_certificate_is_shown(tmp_path: Path, ca: Path) -> None:
    mine = make("me", issuer=ROOT, usage=CLIENT_ONLY)
    certificate, key = mine.write(tmp_path, "me")
    options = client_options("api.internal", ca_path=ca, client_cert=certificate, client_key=key)
    meeting = Meeting(options, asking_for_certificates(tmp_path)).run()
    assert meeting.works
    shown = meeting.server._tlsConnection.get_peer_certificate(as_cryptography=True)
    assert shown == mine.certificate


def test_the_client_certificate_and_its_key_may_be_in_one_file(tmp_path: Path, ca: Path) -> None:
    mine = make("me", issuer=ROOT)
    both = tmp_path / "both.pem"
    both.write_bytes(mine.pem + key_pem(mine.key, OLD))
    options = client_options("api.internal", ca_path=ca, client_cert=both)
    assert Meeting(options, asking_for_certificates(tmp_path)).run().works


def test_without_one_such_a_peer_ends_the_connection(tmp_path: Path, ca: Path) -> None:
    meeting = Meeting(client_options("api.internal", ca_path=ca), asking_for_certificates(tmp_path)).run()
    assert not meeting.works
    assert meeting.inner.octets == b""


def test_a_wrong_peer_never_sees_the_client_certificate(tmp_path: Path, ca: Path) -> None:
    certificate, key = make("me", issuer=ROOT).write(tmp_path, "me")
    options = client_options("web.internal", ca_path=ca, client_cert=certificate, client_key=key)
    context = asking_for_certificates(tmp_path)
    seen: list[Any] = []
    context.set_verify(SSL.VERIFY_PEER, lambda *args: bool(seen.append(args)) or True)
    meeting = Meeting(options, context).run()
    assert "name mismatch" in str(meeting.lose())
    assert seen == []


# Mistakes of configuration


def _mistakes(tmp_path: Path) -> dict[str, tuple[dict[str, Any], str]]:
    mine, other = make("me", issuer=ROOT), make("me", number=7)
    certificate, key = mine.write(tmp_path, "me")
    _, other_key = other.write(tmp_path, "other")
    secret = tmp_path / "secret"
    secret.write_bytes(key_pem(key_of("ec"), PKCS8, b"x"))
    text = tmp_path / "text"
    text.write_bytes(b"hello")
    none = tmp_path / "none"
    return {
        "no ca": ({"ca_path": none}, f"cannot read {none}: No such file or directory"),
        "ca text": ({"ca_path": text}, f"{text} holds no certificate of an authority in PEM form"),
        "ca key": ({"ca_path": key}, f"{key} holds no certificate of an authority in PEM form"),
        "no certificate": (
            {"client_cert": none, "client_key": key},
            f"cannot read {none}: No such file or directory",
        ),
        "no key": (
            {"client_cert": certificate, "client_key": none},
            f"cannot read {none}: No such file or directory",
        ),
        "key alone": (
            {"client_key": key},
            f"there is a client key, {key}, but no client certificate for it",
        ),
        "text": (
            {"client_cert": text, "client_key": key},
            f"{text} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)",
        ),
        "mismatch": (
            {"client_cert": certificate, "client_key": other_key},
            f"the key in {other_key} does not belong to the certificate in {certificate}",
        ),
        "encrypted": (
            {"client_cert": certificate, "client_key": secret},
            f"the key in {secret} is encrypted; `openssl pkey -in {secret}` prints it decrypted",
        ),
        "unix": (
            {"hostname": ""},
            "there is no host name to verify; tls_server_name says which one the certificate has",
        ),
        "impossible": ({"hostname": "a b"}, "'a b' is no name that a certificate can have"),
    }


MISTAKES = (
    "no ca",
    "ca text",
    "ca key",
    "no certificate",
    "no key",
    "key alone",
    "text",
    "mismatch",
    "encrypted",
    "unix",
    "impossible",
)


@pytest.mark.parametrize("case", MISTAKES)
def test_what_cannot_be_used_is_told_in_one_sentence(tmp_path: Path, case: str) -> None:
    options, sentence = _mistakes(tmp_path)[case]
    with pytest.raises(ValueError) as raised:
        client_options(**{"hostname": "api.internal", **options})
    assert str(raised.value) == sentence


def test_every_mistake_has_its_test(tmp_path: Path) -> None:
    assert set(_mistakes(tmp_path)) == set(MISTAKES)


def test_a_unix_socket_may_have_a_name_or_be_insecure(ca: Path) -> None:
    assert client_options("", server_name="api.internal", ca_path=ca).name == "api.internal"
    assert client_options("", insecure=True).name == ""
