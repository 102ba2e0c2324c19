"""Handshakes of apps that come to nothing stand in the journal with a code, where jails see them."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.task import Clock

from rproxy.deadlines import Deadlines
from rproxy.downstream.handshake import reason_of
from rproxy.downstream.terminate import HTTP1, Terminate
from rproxy.interfaces import Arrival
from rproxy.policy.bucket import Allowance
from rproxy.policy.identity import ClientPolicy
from rproxy.policy.networks import NetworkSet
from rproxy.services.bans import Bans
from rproxy.services.certificates import Site
from rproxy.services.clientca import ClientFiles
from rproxy.services.jails import Jails, Terms, Watched
from rproxy.tls import HANDSHAKE
from rproxy.wire.address import inet
from rproxy.wire.clienthello import ClientHello
from tests.clientcerts import authority, revoking, signed
from tests.fakes import Journal, LogLines
from tests.tlspeers import Inners, Made, MemoryClient, Pipe, converse, days, make, trusting_nobody, whole

ROOT, OTHER = authority("Root", 1), authority("Other", 2)
BOB, GONE = signed("bob@admin", ROOT), signed("gone@admin", ROOT)
EVE = signed("eve@admin", OTHER)
OLD = signed("old@admin", ROOT, begins=days(-9), ends=days(-1))
SERVER = make("example.org")
HELLO = ClientHello("example.org", (b"http/1.1",), (0x0304,))
CLIENT = inet("192.0.2.7", 4711)


class House:
    """An app that wants client certificates, its journal, and a jail that three failures fill."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock, self.journal, self.inners = folder, Clock(), Journal(), Inners()
        self.bans = Bans(self.clock)
        (folder / "ca.pem").write_bytes(ROOT.pem)
        (folder / "list.pem").write_bytes(revoking(ROOT, GONE))
        self.files = ClientFiles(folder / "ca.pem", folder / "list.pem")
        self.pair = SERVER.pair(folder, "server")

    def jail(self, *reasons: str, app: str = "site") -> None:
        terms = Terms(
            "it", frozenset(), frozenset(reasons), frozenset([app]), Allowance(2, 30.0), 60.0, NetworkSet()
        )
        self.journal: Any = Watched(self.journal, Jails(self.clock, self.bans, [terms]))

    def accept(self, *, asks: bool = True, journal: bool = True) -> tuple[Any, Pipe]:
        site = Site("site", (self.pair,), self.files.load() if asks else None)
        policy = ClientPolicy("site", self.files) if asks else None
        where: dict[str, Any] = {"journal": self.journal, "clock": self.clock} if journal else {}
        route = Terminate(site, self.inners, (HTTP1,), Deadlines(self.clock), clients=policy, **where)
        server: Any = route.buildProtocol(Arrival("tls", CLIENT, CLIENT, hello=HELLO))
        pipe = Pipe()
        server.makeConnection(pipe)
        return server, pipe

    def client(self, who: Made | None) -> MemoryClient:
        context = trusting_nobody("http/1.1")
        if who is not None:
            context.load_cert_chain(*who.write(self.folder, "client"))
        return MemoryClient("example.org", context=context)

    def knock(self, who: Made | None, **how: bool) -> None:
        """A handshake with this certificate, to its bad end."""
        server, pipe = self.accept(**how)
        with pytest.raises(ssl.SSLError):
            converse(self.client(who), server, pipe, whole)
        server.connectionLost(None)

    @property
    def told(self) -> list[str]:
        return [end.reason for end in self.journal.ends]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with LogLines() as log:
        yield House(tmp_path)
    assert not [event for event in log.events if "log_failure" in event], "there was a traceback"


@pytest.mark.parametrize(
    ("who", "reason"),
    [
        (None, "certificate_required"),
        (EVE, "unknown_ca"),
        (OLD, "certificate_expired"),
        (GONE, "certificate_revoked"),
    ],
    ids=["none", "of another authority", "expired", "revoked"],
)
def test_what_is_wrong_with_a_certificate_stands_in_the_journal(
    house: House, who: Made | None, reason: str
) -> None:
    house.knock(who)
    end = house.journal.end
    assert (end.reason, end.app, end.peer, end.received, end.sent) == (reason, "site", "-", 0, 0)
    assert (end.arrival.client, end.arrival.server_name) == (CLIENT, "example.org")


def test_a_handshake_that_succeeds_leaves_no_line(house: House) -> None:
    server, pipe = house.accept()
    client = house.client(BOB)
    converse(client, server, pipe, whole)
    assert client.done
    server.connectionLost(None)
    assert house.told == []


@pytest.mark.parametrize("asks", [True, False], ids=["with certificates", "without"])
def test_other_failures_do_too_with_their_time(house: House, asks: bool) -> None:
    server, _ = house.accept(asks=asks)
    house.clock.advance(3)
    server.connectionLost(None)
    server, _ = house.accept(asks=asks)
    server.dataReceived(b"\x16\x03\x01\x00\x05nonsense")
    server.connectionLost(None)
    server, _ = house.accept(asks=asks)
    house.clock.advance(HANDSHAKE + 1)
    server.connectionLost(None)
    assert house.told == ["client_left", "handshake_failed", "too_slow"]
    assert house.journal.ends[0].seconds == 3


def test_without_a_journal_nothing_is_written(house: House) -> None:
    house.knock(None, journal=False)
    assert house.told == []


def test_a_jail_bans_who_comes_without_a_certificate_again_and_again(house: House) -> None:
    house.jail("certificate_required", "unknown_ca")
    house.knock(None)
    house.knock(OLD)
    house.knock(EVE)
    assert not house.bans.banned("192.0.2.7")
    house.knock(None)
    assert house.bans.banned("192.0.2.7")


def test_a_jail_for_another_app_does_not_count_it(house: House) -> None:
    house.jail("certificate_required", app="other")
    for _ in range(5):
        house.knock(None)
    assert not house.bans.banned("192.0.2.7")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("peer did not return a certificate", "certificate_required"),
        ("unsupported protocol", "protocol_version"),
        ("no application protocol", "no_common_alpn"),
        ("the other side left", "client_left"),
        ("certificate verify failed", "bad_certificate"),
        ("whatever else OpenSSL says", "handshake_failed"),
    ],
)
def test_each_end_of_a_handshake_has_a_code(words: str, reason: str) -> None:
    connection = SSL.Connection(SSL.Context(SSL.TLS_SERVER_METHOD))
    assert reason_of(words, SSL.Error(), connection) == reason
    assert reason_of(words, None, connection) == "too_slow"
