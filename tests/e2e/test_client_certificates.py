"""Client certificates over sockets: who gets in, with which alert the others are told, and no way around it.

The clients are OpenSSL's s_client, curl, and the stdlib.
"""

from __future__ import annotations

import re
import ssl
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.clientcerts import SERVER, authority, revoking, signed, together
from tests.e2e.attackers import Answer, Origin, all_of, answers_of, ask
from tests.e2e.conftest import Peer
from tests.e2e.peers import Certificate, self_signed
from tests.e2e.programs import Programs, Proxy, free_port, run
from tests.e2e.streams import connect
from tests.tlspeers import Made, days

ROOT, OTHER = authority("Root", 1), authority("Other", 2)
BETWEEN = authority("Between", 3, ROOT)
BOB = signed("bob@admin", ROOT)
NAMES = ["open.test", "closed.test", "maybe.test", "other.test", "admins.test"]
VERSIONS = {"-tls1_2": ssl.TLSVersion.TLSv1_2, "-tls1_3": ssl.TLSVersion.TLSv1_3}

CLIENTS: dict[str, tuple[Made, ...]] = {
    "good": (BOB,),
    "good through an intermediate": (signed("ann@admin", BETWEEN), BETWEEN),
    "of no group": (signed("ann", ROOT),),
    "of another authority": (signed("bob@admin", OTHER),),
    "self-signed with the same subject": (signed("bob@admin", None, number=9),),
    "expired": (signed("bob@admin", ROOT, ends=days(-1)),),
    "not yet valid": (signed("bob@admin", ROOT, begins=days(1)),),
    "for servers": (signed("bob@admin", ROOT, usage=SERVER),),
    "revoked": (signed("eve@admin", ROOT),),
    "of a missing intermediate": (signed("ann@admin", BETWEEN),),
}
ALERTS = {
    "none": (40, 116),
    "of another authority": (48, 48),
    "self-signed with the same subject": (48, 48),
    "expired": (45, 45),
    "not yet valid": (42, 42),
    "for servers": (43, 43),
    "revoked": (44, 44),
    "of a missing intermediate": (48, 48),
}
"""Their numbers in TLS 1.2 and in TLS 1.3; `certificate_required` is new there."""
WHY = {
    "none": "peer did not return a certificate",
    "of another authority": "unable to get local issuer certificate: CN=bob@admin, issued by CN=Other",
    "self-signed with the same subject": "self-signed certificate: CN=bob@admin",
    "expired": "certificate has expired: CN=bob@admin",
    "not yet valid": "certificate is not yet valid",
    "for servers": "unsuitable certificate purpose: CN=bob@admin",
    "revoked": "certificate revoked: CN=eve@admin, issued by CN=Root",
    "of a missing intermediate": "unable to get local issuer certificate: CN=ann@admin",
}


@dataclass
class World:
    """A proxy with apps that want certificates and apps that do not, all behind one port and one origin."""

    programs: Programs
    server: Certificate
    folder: Path
    general: str = ""
    origin: Origin = field(default_factory=lambda: Origin("origin"))

    def __post_init__(self) -> None:
        for name, chain in CLIENTS.items():
            chain[0].write(self.folder, name, *chain[1:])
        together(self.folder / "root.crt", ROOT)
        together(self.folder / "other.crt", OTHER)
        (self.folder / "root.crl").write_bytes(self.lists())
        self.clear = free_port()
        self.proxy: Proxy = self.programs.rproxy(
            f"listen_port = {self.clear}\naccess_log = {{ format = 'json' }}\n{self.general}\n"
            + self.app("open", "", "https_redirection = false")
            + self.app("closed", self.asks(), "")
            + self.app("maybe", self.asks('client_auth = "optional"', "client_cert_header = true"), "")
            + self.app("other", f', client_ca_cert_path = "{self.folder}/other.crt"', "")
            + self.app("admins", self.asks(), 'authorized_groups = "admin"')
        )

    def lists(self, **more: Any) -> bytes:
        return revoking(ROOT, CLIENTS["revoked"][0], **more) + revoking(BETWEEN)

    def asks(self, *more: str) -> str:
        files = (
            f'client_ca_cert_path = "{self.folder}/root.crt"',
            f'client_crl_path = "{self.folder}/root.crl"',
        )
        return "".join(f", {each}" for each in (*files, *more))

    def app(self, key: str, tls: str, more: str) -> str:
        files = f'tls_cert_path = "{self.server.certificate}", tls_cert_key_path = "{self.server.key}"'
        return (
            f'[apps.{key}]\nserver_name = "{key}.test"\ntls = {{ {files}{tls} }}\n{more}\n'
            f"reverse_proxy = [{{ upstream = [{self.origin.backend.location}] }}]\n"
        )

    def end(self) -> None:
        self.origin.backend.end()

    def context(self, who: str | None, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """A client that trusts the proxy and shows this certificate."""
        context = ssl.create_default_context(cafile=self.server.certificate)
        context.set_alpn_protocols(["http/1.1"])
        if version is not None:
            context.minimum_version = context.maximum_version = version
        if who is not None:
            context.load_cert_chain(self.folder / f"{who}.pem", self.folder / f"{who}.key")
        return context

    def say(self, name: str, data: bytes, who: str | None = None, **more: Any) -> list[Answer]:
        """What comes back on a connection for `name`, until the proxy closes."""
        with self.context(who, **more).wrap_socket(connect(self.proxy.port), server_hostname=name) as client:
            client.sendall(data)
            return answers_of(all_of(client))

    def get(self, name: str, who: str | None = None, *fields: bytes, **more: Any) -> int:
        """The status of a good request, or 0 if the handshake fails."""
        request = ask(b"/x", b"Connection: close", *fields, host=name.encode())
        try:
            (answer,) = self.say(name, request, who, **more)
        except (ssl.SSLError, ConnectionResetError):
            return 0
        return answer.status

    def s_client(self, openssl: str, name: str, *more: Any, who: str | None = None) -> str:
        """What `openssl s_client` says about a connection on which it asks for something."""
        words = [openssl, "s_client", "-connect", f"127.0.0.1:{self.proxy.port}", "-servername", name]
        if who is not None:
            pem = self.folder / f"{who}.pem"
            words += ["-cert", pem, "-cert_chain", pem, "-key", self.folder / f"{who}.key"]
        request = ask(b"/s", b"Connection: close", host=name.encode()).decode()
        ended = run([*words, "-ign_eof", *more], stdin=None, input=request)
        return ended.stdout + ended.stderr

    def failures(self) -> list[str]:
        """The lines of the log about handshakes that failed."""
        return [line for line in self.proxy.log.splitlines() if "TLS handshake of" in line]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return self_signed(tmp_path_factory.mktemp("server"), *NAMES, "nobody.test")


@pytest.fixture(scope="module")
def world(
    lasting_programs: Programs, server: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("clients")
    general = 'ignore_sni_consistency = true\ndefault_app = "closed"'
    made = World(lasting_programs, server, folder, general)
    yield made
    made.end()


@pytest.fixture
def own(programs: Programs, server: Certificate, tmp_path: Path) -> Iterator[World]:
    """A world of one test, which may change its files."""
    made = World(programs, server, tmp_path)
    yield made
    made.end()


# -- who gets in


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("who", ALERTS)
def test_who_has_no_good_certificate_is_refused_with_the_alert_that_says_why(
    world: World, peer: Peer, who: str, version: str
) -> None:
    before = len(world.failures())
    shown = None if who == "none" else who
    said = world.s_client(peer("openssl"), "closed.test", version, who=shown)
    assert f"SSL alert number {ALERTS[who][version == '-tls1_3']}" in said
    assert "HTTP/1.1" not in said
    (line,) = world.failures()[before:]
    assert WHY[who] in line
    assert "(name closed.test, listener" in line


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("who", ["good", "good through an intermediate", "of no group"])
def test_who_has_a_good_one_is_served(world: World, peer: Peer, who: str, version: str) -> None:
    assert "HTTP/1.1 200" in world.s_client(peer("openssl"), "closed.test", version, who=who)


@pytest.mark.parametrize("version", VERSIONS.values())
def test_where_it_is_optional_none_is_as_good_as_a_good_one_and_a_bad_one_is_refused(
    world: World, version: ssl.TLSVersion
) -> None:
    assert world.get("maybe.test", version=version) == 200
    assert world.get("maybe.test", "good", version=version) == 200
    for who in ("expired", "revoked", "of another authority", "for servers"):
        assert world.get("maybe.test", who, version=version) == 0


def test_curl_is_served_in_both_versions_of_http(world: World, peer: Peer) -> None:
    for version in ("--http1.1", "--http2"):
        status = curl(world, peer, "closed.test", version, who="good")
        assert status == (200, version[6:] if version == "--http1.1" else "2")
        assert curl(world, peer, "closed.test", version)[0] == 0


def curl(world: World, peer: Peer, name: str, *more: Any, who: str | None = None) -> tuple[int, str]:
    """Status and HTTP version of the answer that curl gets; 0 if there is none."""
    where = ["--resolve", f"{name}:{world.proxy.port}:127.0.0.1", "--cacert", world.server.certificate]
    if who is not None:
        where += ["--cert", world.folder / f"{who}.pem", "--key", world.folder / f"{who}.key"]
    words = [peer("curl"), "-s", "-o", world.folder / "body", "-w", "%{http_code} %{http_version}"]
    ended = run([*words, *where, *more, f"https://{name}:{world.proxy.port}/c"])
    status, _, version = ended.stdout.partition(" ")
    return int(status), version


def test_a_hello_in_pieces_is_asked_for_a_certificate_all_the_same(world: World) -> None:
    """The name is read from the whole hello, however it is cut: nothing falls back to another app."""
    for size in (1, 50, 200):
        got, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = world.context(None).wrap_bio(got, out, server_hostname="closed.test")
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"), connect(world.proxy.port) as client:
            while True:
                try:
                    tls.do_handshake()
                    tls.read(1)
                except ssl.SSLWantReadError:
                    sent = out.read()
                    for at in range(0, len(sent), size):
                        client.sendall(sent[at : at + size])
                    got.write(client.recv(1 << 16) or b"")


# -- who is authorised


def test_who_is_in_no_group_that_may_gets_403_and_no_backend_hears_of_it(world: World) -> None:
    assert world.get("admins.test", "good") == 200
    assert world.get("admins.test", "good through an intermediate") == 200
    world.origin.forget()
    connections = len(world.origin.backend.connections)
    assert world.get("admins.test", "of no group") == 403
    assert world.origin.targets == []
    assert len(world.origin.backend.connections) == connections
    world.proxy.says('"app":"admins","reason":"not_authorised","client_subject":"CN=ann"')


# -- what backends are told


FORGED = [
    b"X-Client-Cert-Subject: CN=root@admin",
    b"x_client_cert_subject: CN=root@admin",
    b"X-CLIENT_CERT-subject: CN=root@admin",
    b"Client-Cert: :AAAA:",
    b"client_cert: :AAAA:",
    b"Client-Cert-Chain: :AAAA:, :AAAA:",
    b"CLIENT_CERT_CHAIN: :AAAA:",
    b"X-Client-Cert: 1",
    b"X-Client-Cert-Chain: 1",
    b"X-Client-Cert-Anything: 1",
    b"Connection: close, x-client-cert-subject, client-cert",
]


def told(world: World) -> dict[bytes, list[bytes]]:
    """The fields about certificates of the last request, however they are spelled."""
    asked = world.origin.last(b"/x")
    found: dict[bytes, list[bytes]] = {}
    for name, value in asked.fields:
        if re.search(rb"(?i)client[-_]cert", name):
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("name", ["open.test", "maybe.test"])
def test_without_a_certificate_nothing_is_told_whatever_the_client_claims(world: World, name: str) -> None:
    for forged in FORGED:
        world.origin.forget()
        assert world.get(name, None, forged) == 200
        assert told(world) == {}, forged


def test_the_verified_subject_is_told_and_nothing_that_the_client_claims(world: World) -> None:
    for forged in FORGED:
        world.origin.forget()
        assert world.get("closed.test", "good", forged) == 200
        assert told(world) == {b"X-Client-Cert-Subject": [b"CN=bob@admin"]}, forged


def test_the_whole_certificate_is_told_where_it_is_wanted(world: World) -> None:
    world.origin.forget()
    assert world.get("maybe.test", "good", b"Client-Cert: :AAAA:") == 200
    found = told(world)
    assert found[b"X-Client-Cert-Subject"] == [b"CN=bob@admin"]
    (value,) = found[b"Client-Cert"]
    assert re.fullmatch(rb":[A-Za-z0-9+/]+=*:", value)
    assert b64decode(value[1:-1]) == BOB.certificate.public_bytes(Encoding.DER)
    assert set(found) == {b"X-Client-Cert-Subject", b"Client-Cert"}


@pytest.mark.parametrize("name", ["open.test", "closed.test"])
def test_trailers_tell_nothing_about_certificates(world: World, name: str) -> None:
    for forged in FORGED[:-1]:
        world.origin.forget()
        head = ask(b"/x", b"Transfer-Encoding: chunked", host=name.encode(), method=b"POST")
        answers = world.say(name, head + b"1\r\nx\r\n0\r\n" + forged + b"\r\n\r\n", "good")
        assert [answer.status for answer in answers] == [400], forged
        assert b"root@admin" not in world.origin.raw


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_the_same_is_told_in_either_version_of_http(world: World, peer: Peer, version: str) -> None:
    world.origin.forget()
    forged = ["-H", "X-Client-Cert-Subject: CN=root@admin", "-H", "client_cert: x"]
    assert curl(world, peer, "closed.test", version, *forged, who="good")[0] == 200
    asked = world.origin.last(b"/c")
    assert asked.all(b"x-client-cert-subject") == [b"CN=bob@admin"]
    assert asked.all(b"client-cert") == []


# -- no session crosses over


def session_of(world: World, openssl: str, name: str, version: str, who: str | None) -> Path | None:
    """A file with a session of a connection that was served; None if the proxy has given none."""
    file = world.folder / "session"
    file.unlink(missing_ok=True)
    said = world.s_client(openssl, name, version, "-sess_out", file, who=who)
    assert "HTTP/1.1 200" in said
    return file if file.exists() else None


@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_of_an_app_that_asks_nothing_is_good_there_and_nowhere_else(
    world: World, peer: Peer, version: str
) -> None:
    """nginx CVE-2025-23419."""
    openssl = peer("openssl")
    session = session_of(world, openssl, "open.test", version, None)
    assert session is not None
    again = world.s_client(openssl, "open.test", version, "-sess_in", session)
    assert "Reused, TLSv1." in again, "the session is of no use to this test"
    assert "HTTP/1.1 200" in again
    for name in ("closed.test", "other.test", "admins.test"):
        said = world.s_client(openssl, name, version, "-sess_in", session)
        assert "Reused" not in said
        assert f"SSL alert number {ALERTS['none'][version == '-tls1_3']}" in said
        assert "HTTP/1.1" not in said


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["closed.test", "maybe.test"])
def test_a_session_of_a_client_with_a_certificate_is_good_nowhere(
    world: World, peer: Peer, name: str, version: str
) -> None:
    openssl = peer("openssl")
    session = session_of(world, openssl, name, version, "good")
    if session is None:
        assert version == "-tls1_2"  # in TLS 1.3 OpenSSL always sends one, though nobody remembers it
        return
    for other in ("closed.test", "other.test", "admins.test"):
        said = world.s_client(openssl, other, version, "-sess_in", session)
        assert "Reused" not in said
        assert "SSL alert number" in said
        assert "HTTP/1.1" not in said
    said = world.s_client(openssl, "open.test", version, "-sess_in", session)
    assert "Reused" not in said
    assert "HTTP/1.1 200" in said
    again = world.s_client(openssl, name, version, "-sess_in", session, who="good")
    assert "Reused" not in again
    assert "HTTP/1.1 200" in again


# -- no connection crosses over


@pytest.mark.parametrize("made_for", ["open.test", "maybe.test", "other.test"])
def test_a_connection_for_one_app_reaches_no_other_by_its_host(world: World, made_for: str) -> None:
    """The checks of names are off here, and the second request comes on a connection that was served."""
    who = "of another authority" if made_for == "other.test" else None
    world.origin.forget()
    good = ask(b"/good", host=made_for.encode())
    for wanted in (b"closed.test", b"CLOSED.test", b"closed.test:443", b"admins.test"):
        first, second = world.say(made_for, good + ask(b"/stolen", b"Connection: close", host=wanted), who)
        assert (first.status, second.status) == (200, 421), wanted
    assert b"/stolen" not in world.origin.targets


def test_nor_does_one_whose_client_has_shown_a_certificate_reach_an_app_that_has_not_asked(
    world: World,
) -> None:
    """Its backend would be told of a subject that only another app's authority has vouched for."""
    for name, who in (("closed.test", "good"), ("other.test", "of another authority")):
        request = ask(b"/stolen", b"Connection: close", host=b"open.test")
        (answer,) = world.say(name, request, who)
        assert answer.status == 421
    assert b"/stolen" not in world.origin.targets


def test_apps_of_the_same_authority_are_two_all_the_same(world: World) -> None:
    (answer,) = world.say("closed.test", ask(b"/s", b"Connection: close", host=b"admins.test"), "good")
    assert answer.status == 421


def test_nor_by_the_authority_of_http_2(world: World, peer: Peer) -> None:
    for name, who in (("open.test", None), ("maybe.test", None), ("other.test", "of another authority")):
        assert curl(world, peer, name, "--http2", "-H", "Host: closed.test", who=who) == (421, "2")
    assert curl(world, peer, "open.test", "--http2", "-H", "Host: maybe.test") == (421, "2")


def test_nor_by_being_the_default(world: World) -> None:
    """`closed` is the default app here."""
    (answer,) = world.say("open.test", ask(b"/stolen", b"Connection: close", host=b"nobody.test"))
    assert answer.status == 404
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        world.say("nobody.test", ask(b"/stolen", b"Connection: close", host=b"closed.test"))
    assert b"/stolen" not in world.origin.targets


@pytest.mark.parametrize("host", [b"closed.test", b"nobody.test", b"admins.test", b"maybe.test"])
def test_nor_in_clear_text(world: World, host: bytes) -> None:
    with connect(world.clear) as client:
        client.sendall(ask(b"/stolen", b"Connection: close", host=host))
        (answer,) = answers_of(all_of(client))
    assert answer.status == 301
    assert b"/stolen" not in world.origin.targets


# -- files that change


def write(world: World, name: str, octets: bytes) -> None:
    fresh = world.folder / f".{name}"
    fresh.write_bytes(octets)
    fresh.rename(world.folder / name)


def changed(world: World, name: str, octets: bytes, said: str) -> None:
    """Replace a file, and wait until the proxy has said so."""
    times = world.proxy.log.count(said)
    write(world, name, octets)
    world.proxy.says(said, times + 1, seconds=20)


def test_a_new_list_counts_from_the_next_connection_on_and_no_old_session_helps(
    own: World, peer: Peer
) -> None:
    openssl = peer("openssl")
    session = session_of(own, openssl, "closed.test", "-tls1_3", "good")
    assert session is not None
    plain = connect(own.proxy.port)
    with own.context("good").wrap_socket(plain, server_hostname="closed.test") as client:
        client.sendall(ask(b"/1", host=b"closed.test"))
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
        changed(own, "root.crl", revoking(ROOT, BOB) + revoking(BETWEEN), "closed has a new client CA")
        said = own.s_client(openssl, "closed.test", "-tls1_3", "-sess_in", session, who="good")
        assert "SSL alert number 44" in said
        client.sendall(ask(b"/2", b"Connection: close", host=b"closed.test"))
        assert all_of(client).startswith(b"HTTP/1.1 200"), "an open connection goes on"
    assert own.get("closed.test", "revoked") == 200  # this one is no longer listed
    assert own.get("open.test") == 200


def test_broken_new_files_keep_the_old_ones_and_are_told(own: World) -> None:
    write(own, "other.crt", OTHER.pem[:-40])
    changed(own, "root.crl", own.lists()[:-200], "the new client CA of closed is not used")
    own.proxy.says("the new client CA of other is not used")
    assert own.get("other.test", "of another authority") == 200
    assert own.get("closed.test", "good") == 200
    assert own.get("closed.test", "revoked") == 0


def test_another_authority_counts_and_a_list_that_is_out_of_date_refuses_everybody(own: World) -> None:
    write(own, "other.crt", ROOT.pem)
    late = own.lists(begins=days(-9), ends=days(-1))
    changed(own, "root.crl", late, "client CA of closed:")
    assert f"{own.folder}/root.crl: the list of CN=Root has expired on " in own.proxy.log
    assert own.get("closed.test", "good") == 0
    assert "CRL has expired: CN=bob@admin, issued by CN=Root; see " in own.failures()[-1]
    assert own.get("maybe.test") == 200
    own.proxy.says("other has a new client CA: CN=Root")
    assert own.get("other.test", "good") == 200
    assert own.get("other.test", "of another authority") == 0
