"""TLS with client certificates: who is let in, what the others are told, and that no peer hears of them."""

from __future__ import annotations

import gc
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from OpenSSL import SSL
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.deadlines import Deadlines
from rproxy.downstream.handshake import FAILURES, TROUBLES
from rproxy.downstream.mutual import Mutual
from rproxy.downstream.peek import LINGER, LINGER_BYTES
from rproxy.errors import NotAuthorised, TooMany
from rproxy.interfaces import Arrival
from rproxy.policy.identity import Authorized, ClientPolicy
from rproxy.services.certificates import Site
from rproxy.services.clientca import ClientFiles
from rproxy.wire.address import Inet
from rproxy.wire.alert import alert_record
from rproxy.wire.clienthello import ClientHello
from rproxy.wire.sealedalert import CIPHERS, sealed_alert
from tests.fakes import Journal, LogLines
from tests.tlspeers import PEM, Made, MemoryClient, Pipe, days, make

CLIENT = Inet("192.0.2.7", 1234)
HELLO = ClientHello("db.example", (), (0x0304,))
AUTHORITY = make(ca=True, number=1)
STRANGER = make(ca=True, number=2)
SERVER = make("db.example", issuer=AUTHORITY, number=3)


@implementer(IHalfCloseableProtocol)
class End(Protocol):
    """What a client that was let in talks to."""

    transport: Any

    def __init__(self, arrival: Arrival) -> None:
        self.arrival, self.octets, self.said = arrival, b"", list[str]()
        self.reason: type | None = None

    def connectionMade(self) -> None:
        self.said.append("made")

    def dataReceived(self, data: bytes) -> None:
        self.octets += data
        self.transport.write(data.upper())

    def left(self) -> None:
        self.said.append("left")

    def readConnectionLost(self) -> None:
        self.said.append("read lost")

    def writeConnectionLost(self) -> None:
        pass

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.said.append("lost")
        self.reason = reason.type


class Service:
    """Stands for the `ServiceFactory`: remembers who came so far."""

    app = "db"

    def __init__(self, clock: Clock, journal: Journal) -> None:
        self.reactor, self.journal = clock, journal
        self.ends = list[End]()
        self.full = False

    def buildProtocol(self, arrival: Arrival) -> Any:
        if self.full:
            raise TooMany("db")
        self.ends.append(End(arrival))
        return self.ends[-1]


class Lower(Pipe):
    """A transport whose half can be shut, as those of TCP."""

    half_closed = False

    def loseWriteConnection(self) -> None:
        self.half_closed = True


class House:
    """A service with client certificates, and everything that its clients may be."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.clock, self.journal = directory, Clock(), Journal()
        self.service = Service(self.clock, self.journal)
        (directory / "ca.pem").write_bytes(AUTHORITY.pem)
        self.revoked = directory / "revoked.pem"
        self.pair = SERVER.pair(directory, "server")
        self.protocols: tuple[bytes, ...] = ()
        self.access: Authorized | None = Authorized(frozenset(("admin",)), frozenset(("eve@staff",)))
        """None: no certificates are asked for."""
        self.lower = Lower()
        self.secured: Any = None

    def revoke(self, *made: Made) -> None:
        now = x509.CertificateRevocationListBuilder().issuer_name(AUTHORITY.certificate.subject)
        builder = now.last_update(days(-1)).next_update(days(1))
        for each in made:
            gone = x509.RevokedCertificateBuilder().serial_number(each.certificate.serial_number)
            builder = builder.add_revoked_certificate(gone.revocation_date(days(-1)).build())
        self.revoked.write_bytes(builder.sign(AUTHORITY.key, hashes.SHA256()).public_bytes(PEM))

    def accept(self, hello: ClientHello | None = HELLO) -> None:
        policy, site = None, Site("l4.db", (self.pair,))
        if self.access is not None:
            files = ClientFiles(self.directory / "ca.pem", self.revoked if self.revoked.exists() else None)
            policy = ClientPolicy("l4.db", files, authorized=self.access)
            site = Site("l4.db", (self.pair,), files.load())
        service: Any = self.service
        factory = Mutual(site, service, policy, self.protocols, Deadlines(self.clock), WeakSet())
        self.secured = factory.buildProtocol(Arrival("l", CLIENT, CLIENT, hello=hello))
        self.secured.makeConnection(self.lower)

    def client(self, made: Made | None, **limits: Any) -> MemoryClient:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        for name, value in limits.items():
            setattr(context, name, value)
        if made is not None:
            context.load_cert_chain(*made.write(self.directory, "client"))
            (self.directory / "client.pem").unlink()
            (self.directory / "client.key").unlink()
        if self.protocols:
            context.set_alpn_protocols(["xmpp-client"])
        self.accept()
        return MemoryClient("db.example", context=context)

    def talk(self, client: MemoryClient, first: bytes = b"") -> str:
        """Until both are silent; what the client was told at the end, empty for nothing."""
        try:
            while True:
                sent = client.out()
                if client.done and first:
                    sent, first = sent + client.send(first), b""
                if sent:
                    self.secured.dataReceived(sent)
                answer = self.lower.value()
                self.lower.clear()
                client.take(answer)
                if not sent and not answer:
                    return ""
        except ssl.SSLError as problem:
            return str(problem.reason)

    def refused(self, client: MemoryClient, first: bytes = b"") -> str:
        """The same, where the client must not get in; the alert's name."""
        told = self.talk(client, first)
        assert self.service.ends == []
        return told.partition("ALERT_")[2]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def bob(name: str = "bob@admin", **more: Any) -> Made:
    return make(name, issuer=more.pop("issuer", AUTHORITY), number=more.pop("number", 9), **more)


@pytest.mark.parametrize("name", ["bob@admin", "a@b@admin", "eve@staff"])
def test_who_is_in_a_group_or_of_a_name_that_may_is_let_in(house: House, name: str) -> None:
    """G-4, G-5: the group is what is behind the last @."""
    client = house.client(bob(name))
    assert house.talk(client, b"hello") == ""
    assert client.got == b"HELLO"
    (end,) = house.service.ends
    assert (end.arrival.shown.identity.key, end.arrival.client) == (name, CLIENT)
    assert house.journal.ends == []


@pytest.mark.parametrize("name", ["bob@staff", "admin", "admin@", "@admin", "bob@admin@staff", "bob@Admin"])
def test_who_is_known_and_may_not_is_told_so(house: House, name: str) -> None:
    """G-5: refused before the service, and with it any peer, hears of the client."""
    assert house.refused(house.client(bob(name)), b"SELECT 1") == "ACCESS_DENIED"
    end = house.journal.end
    assert (end.app, end.peer, end.reason, end.received, end.sent) == ("db", "-", "not_authorised", 0, 0)
    assert end.arrival.shown.identity.key == name


@pytest.mark.parametrize("cipher", sorted(CIPHERS))
def test_every_cipher_has_an_alert_for_who_may_not(house: House, cipher: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("rproxy.services.certificates.CIPHERS_13", cipher.encode())
    assert house.refused(house.client(bob("bob@staff"))) == "ACCESS_DENIED"


def test_without_groups_and_names_every_verified_client_is_let_in(house: House) -> None:
    house.access = Authorized()
    assert house.talk(house.client(bob("anybody")), b"x") == ""
    assert house.service.ends[0].octets == b"x"


def test_a_client_without_a_certificate(house: House) -> None:
    """G-3: it is mandatory."""
    assert house.refused(house.client(None), b"SELECT 1") == "CERTIFICATE_REQUIRED"
    assert house.journal.end.reason == "certificate_required"


REFUSED = [
    (lambda: bob(issuer=STRANGER), "UNKNOWN_CA", "unknown_ca"),
    (lambda: make("bob@admin", number=9), "UNKNOWN_CA", "unknown_ca"),
    (lambda: bob(begins=days(-9), ends=days(-1)), "CERTIFICATE_EXPIRED", "certificate_expired"),
    (lambda: bob(begins=days(1), ends=days(9)), "BAD_CERTIFICATE", "bad_certificate"),
    (
        lambda: bob(usage=x509.ExtendedKeyUsageOID.SERVER_AUTH),
        "UNSUPPORTED_CERTIFICATE",
        "bad_certificate",
    ),
]


@pytest.mark.parametrize(("made", "alert", "reason"), REFUSED, ids=[f"{row[1]}" for row in REFUSED])
def test_a_certificate_that_is_not_good(
    house: House, made: Callable[[], Made], alert: str, reason: str
) -> None:
    with LogLines() as log:
        assert house.refused(house.client(made()), b"SELECT 1") == alert
    end = house.journal.end
    assert (end.reason, end.app, end.arrival.client) == (reason, "db", CLIENT)
    assert end.arrival.shown is None, "who is not verified is nobody"
    (line,) = log.texts("rproxy.downstream.mutual")
    assert "192.0.2.7:1234" in line
    assert "l4.db" in line
    assert "CN=bob@admin" in line, "what it claims to be is for the log"


def test_a_certificate_that_was_revoked(house: House) -> None:
    gone, good = bob(), bob("bob@admin", number=10)
    house.revoke(gone)
    assert house.refused(house.client(gone)) == "CERTIFICATE_REVOKED"
    assert house.journal.end.reason == "certificate_revoked"
    assert house.talk(house.client(good), b"x") == ""
    assert len(house.service.ends) == 1


def test_tls_1_2_is_too_old(house: House) -> None:
    """G-3."""
    client = house.client(bob(), maximum_version=ssl.TLSVersion.TLSv1_2)
    assert house.refused(client) == "PROTOCOL_VERSION"
    assert house.journal.end.reason == "protocol_version"


def test_what_openssl_says_is_what_the_journals_words_are_made_of() -> None:
    """A library that says something else would make every refusal a "handshake_failed"."""
    assert {"certificate_expired", "certificate_revoked", "unknown_ca"} <= set(TROUBLES.values())
    assert {"certificate_required", "protocol_version", "client_left"} <= set(FAILURES.values())


def test_a_client_that_has_had_its_share_is_told_that_it_is_no_fault_of_tls(house: House) -> None:
    """G-6: refused when it is known who it is, before any peer is asked."""
    house.service.full = True
    assert house.refused(house.client(bob())) == "INTERNAL_ERROR"
    end = house.journal.end
    assert end.reason == TooMany.reason
    assert end.arrival.shown.identity.key == "bob@admin"


def test_the_alert_is_not_overtaken_by_a_reset(house: House) -> None:
    """Who has sent more than we have read would be reset by a close, and never see the alert."""
    client = house.client(bob("bob@staff"))
    assert house.refused(client, b"x" * 5000) == "ACCESS_DENIED"
    assert house.lower.half_closed
    assert not house.lower.disconnecting
    house.secured.dataReceived(b"more that nobody reads")
    house.secured.readConnectionLost()
    assert house.lower.disconnecting


@pytest.mark.parametrize("name", ["bob@staff", ""])
def test_who_was_refused_and_stays_is_cut_off(house: House, name: str) -> None:
    house.talk(house.client(bob(name) if name else None))
    house.clock.pump([LINGER - 0.1])
    assert not house.lower.aborted
    house.clock.pump([0.2])
    assert house.lower.aborted


def test_who_was_refused_and_sends_on_and_on_is_cut_off(house: House) -> None:
    house.talk(house.client(bob("bob@staff")))
    house.secured.dataReceived(bytes(LINGER_BYTES))
    assert not house.lower.aborted
    house.secured.dataReceived(b"!")
    assert house.lower.aborted


def test_who_was_refused_gets_no_session(house: House) -> None:
    client = house.client(bob("bob@staff"))
    house.talk(client)
    assert client.tls.session is None or not client.tls.session.has_ticket


def test_the_alert_is_all_that_who_was_refused_gets(house: House) -> None:
    """Session tickets, which OpenSSL has ready by then, would come ahead of it or behind."""
    client = house.client(bob("bob@staff"))
    house.secured.dataReceived(client.out())
    client.take(house.lower.value())
    house.lower.clear()
    house.secured.dataReceived(client.out())
    assert len(house.lower.value()) == len(sealed_alert("TLS_AES_128_GCM_SHA256", bytes(32), 49))


def test_no_session_is_resumed(house: House) -> None:
    """A ticket would be good after the certificate has expired or was revoked."""
    house.access = Authorized()
    client = house.client(bob())
    house.talk(client, b"x")
    session = client.tls.session
    again = house.client(bob())
    again.tls = client.tls.context.wrap_bio(
        again._in, again._out, session=session, server_hostname="db.example"
    )
    house.talk(again, b"x")
    assert len(house.service.ends) == 2
    assert not again.tls.session_reused


def test_a_client_that_does_not_finish_its_handshake(house: House) -> None:
    client = house.client(bob())
    house.secured.dataReceived(client.out())
    house.clock.pump([0.25] * 50)
    assert house.lower.aborted
    assert house.journal.end.reason == "too_slow"


def test_a_stop_does_not_wait_for_a_handshake(house: House) -> None:
    client = house.client(bob())
    house.secured.dataReceived(client.out())
    house.secured.wrappedProtocol.drain()
    assert house.lower.aborted


def test_a_client_that_is_cut_off_in_the_middle_of_its_handshake(house: House) -> None:
    client = house.client(bob())
    house.secured.dataReceived(client.out())
    house.secured.wrappedProtocol.ends_as("banned")
    house.secured.connectionLost(Failure(ConnectionAborted()))
    assert house.journal.end.reason == "banned"


@pytest.mark.parametrize("how", ["eof", "lost"])
def test_a_client_that_leaves_in_the_middle_of_its_handshake(house: House, how: str) -> None:
    client = house.client(bob())
    house.secured.dataReceived(client.out())
    if how == "eof":
        house.secured.readConnectionLost()
        assert house.lower.disconnecting
    house.secured.connectionLost(Failure(ConnectionResetError()))
    assert house.journal.end.reason == "client_left"
    assert not house.lower.half_closed, "nothing is done with a transport that is gone"


def test_no_secret_is_kept_of_a_client_that_was_let_in(house: House) -> None:
    house.talk(house.client(bob()), b"x")
    assert house.secured._facts.secret == b""


# -- The other half -----------------------------------------------------------------------------------------


def test_the_clients_goodbye_ends_its_half_only(house: House) -> None:
    """G-9: half-close is kept, RFC 8446 §6.1."""
    client = house.client(bob())
    house.talk(client, b"question")
    house.secured.dataReceived(client.goodbye())
    (end,) = house.service.ends
    assert end.said == ["made", "read lost"]
    assert not house.lower.disconnecting
    end.transport.write(b"the answer")
    client.take(house.lower.value())
    assert client.got == b"QUESTIONthe answer"
    house.lower.clear()
    end.transport.loseConnection()
    assert house.lower.disconnecting
    client.take(house.lower.value())
    assert client.closed


def test_a_goodbye_right_behind_the_handshake(house: House) -> None:
    """All in one piece, and the client has said all that it will say."""
    client = house.client(bob())
    house.secured.dataReceived(client.out())
    client.take(house.lower.value())
    house.lower.clear()
    last = client.out() + client.send(b"all") + client.goodbye()
    house.secured.dataReceived(last)
    (end,) = house.service.ends
    assert (end.octets, end.said) == (b"all", ["made", "read lost"])


def test_what_comes_behind_the_goodbye_is_not_heard(house: House) -> None:
    """RFC 8446 §6.1."""
    client = house.client(bob())
    house.talk(client, b"x")
    house.secured.dataReceived(client.goodbye())
    house.secured.dataReceived(b"\x17\x03\x03\0\x20" + bytes(32))
    assert house.service.ends[0].said == ["made", "read lost"]
    assert house.service.ends[0].octets == b"x"
    assert not house.lower.aborted
    house.secured.dataReceived(bytes(LINGER_BYTES))
    assert house.lower.aborted, "nothing of it is kept, and who sends on and on is cut off"


def test_the_end_of_tcp_behind_the_goodbye_says_nothing_new(house: House) -> None:
    client = house.client(bob())
    house.talk(client, b"x")
    house.secured.dataReceived(client.goodbye())
    house.secured.readConnectionLost()
    assert not house.lower.disconnecting
    assert house.service.ends[0].said == ["made", "read lost"]


def test_the_end_of_tcp_without_a_goodbye_is_the_end_of_both(house: House) -> None:
    """What came last may be missing (RFC 8446 §6.1), so it must not look whole."""
    house.talk(house.client(bob()), b"x")
    house.secured.readConnectionLost()
    assert house.lower.disconnecting
    house.secured.connectionLost(Failure(ConnectionResetError()))
    assert house.service.ends[0].said == ["made", "left", "lost"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_fatal_alert_is_no_goodbye(house: House, version: ssl.TLSVersion) -> None:
    """Else who flips a bit of what the server says could make half of what the client says look whole."""
    house.access = None
    client = house.client(None, minimum_version=version, maximum_version=version)
    house.talk(client, b"the first half")
    (end,) = house.service.ends
    end.transport.write(b"an answer")
    answer = bytearray(house.lower.value())
    answer[-1] ^= 1
    with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac"):
        client.take(bytes(answer))
    house.secured.dataReceived(client.out())
    assert house.lower.disconnecting
    house.secured.connectionLost(Failure(ConnectionDone()))
    assert (end.said, end.reason) == (["made", "lost"], SSL.Error)


def test_our_half_first_then_the_clients(house: House) -> None:
    client = house.client(bob())
    house.talk(client, b"x")
    (end,) = house.service.ends
    end.transport.loseWriteConnection()
    client.take(house.lower.value())
    assert client.closed
    house.lower.clear()
    house.secured.dataReceived(client.send(b"still here"))
    assert end.octets == b"xstill here"
    house.secured.dataReceived(client.goodbye())
    assert house.lower.disconnecting


# -- What is spoken inside ----------------------------------------------------------------------------------


def test_the_protocol_inside_is_agreed_on_where_the_service_has_one(house: House) -> None:
    house.protocols = (b"postgresql", b"xmpp-client")
    client = house.client(bob())
    house.talk(client, b"x")
    assert client.tls.selected_alpn_protocol() == "xmpp-client"
    assert house.service.ends[0].arrival.alpn == b"xmpp-client"


def test_a_client_that_wants_another_protocol(house: House) -> None:
    house.protocols = (b"postgresql",)
    client = house.client(bob())
    house.secured.dataReceived(client.out())
    assert house.lower.value() == alert_record(120)
    assert house.journal.end.reason == "no_common_alpn"


def test_without_client_certificates_older_clients_are_served_too(house: House) -> None:
    """Then it is TLS for what cannot speak it itself, and old mail programs know 1.2 only."""
    house.access = None
    client = house.client(None, maximum_version=ssl.TLSVersion.TLSv1_2)
    assert house.talk(client, b"helo") == ""
    assert client.got == b"HELO"
    arrival: Any = house.service.ends[0].arrival
    assert arrival.shown.identity is None


def test_in_tls_1_2_a_refusal_is_an_end_without_goodbye(house: House) -> None:
    house.access, house.service.full = None, True
    client = house.client(None, maximum_version=ssl.TLSVersion.TLSv1_2)
    house.talk(client)
    assert not client.closed
    assert house.lower.half_closed
    assert house.journal.end.reason == TooMany.reason


def test_a_refusal_says_nothing_that_the_client_chose() -> None:
    assert "@" not in str(NotAuthorised.reason)


def test_a_site_that_is_served_by_somebody_new_keeps_its_contexts(house: House) -> None:
    """As after a reload; OpenSSL takes no changes to a context that is in use."""
    site, prepared = Site("l4.db", (house.pair,)), WeakSet[Any]()
    service: Any = Service(house.clock, house.journal)

    def connect(*groups: str) -> None:
        policy = ClientPolicy("l4.db", None, authorized=Authorized(groups))
        made = Mutual(site, service, policy, (), Deadlines(house.clock), prepared)
        made.buildProtocol(Arrival("l", CLIENT, CLIENT))

    connect()
    connect("admin")
    assert len(prepared) == 1
    site.replace((house.pair,))
    connect("admin")
    gc.collect()
    assert list(prepared) == [site.context(())], "what is not in use any more is forgotten"
