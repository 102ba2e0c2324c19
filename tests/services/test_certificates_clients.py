"""Sites that ask for client certificates: whose files change, and which contexts end with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from OpenSSL import SSL
from twisted.internet.task import Clock

from rproxy.services.certificates import FRESH_KEYS_EVERY, LOOK_EVERY, Certificates, Files, Site
from rproxy.services.clientca import ClientFiles
from tests.clientcerts import authority, revoking, signed
from tests.fakes import LogLines
from tests.tlspeers import days, make

ROOT, OTHER = authority("Root", 1), authority("Other", 2)
BOB, SERVER = signed("bob@admin", ROOT), make("example.org")
H1 = (b"http/1.1",)


@dataclass
class Eye:
    clock: Clock
    service: Certificates
    files: Files
    clients: ClientFiles
    site: Site
    log: LogLines
    folder: Path
    days_on: float = 0

    def look(self, times: int = 1) -> list[str]:
        """What is said during some looks."""
        for _ in range(times):
            self.clock.advance(LOOK_EVERY)
        texts = self.log.texts("rproxy.services.certificates")
        self.log.events.clear()
        return texts


@pytest.fixture
def eye(tmp_path: Path) -> Iterator[Eye]:
    clock, files = Clock(), Files((SERVER.write(tmp_path, "server"),))
    (tmp_path / "ca.crt").write_bytes(ROOT.pem)
    (tmp_path / "ca.crl").write_bytes(revoking(ROOT))
    clients = ClientFiles(tmp_path / "ca.crt", tmp_path / "ca.crl")
    made: list[Eye] = []
    service = Certificates(clock, lambda: days(0) + timedelta(days=made[0].days_on if made else 0))
    with LogLines() as log:
        site = service.site("app", files, ["example.org"], clients)
        service.startService()
        made.append(Eye(clock, service, files, clients, site, log, tmp_path))
        assert made[0].look() == []
        yield made[0]
    service.stopService()


def mode_of(context: SSL.Context) -> int:
    return context.get_verify_mode()


def test_a_site_asks_for_certificates_if_it_knows_authorities(eye: Eye) -> None:
    asking = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
    assert mode_of(eye.site.context(H1)) == mode_of(eye.site.context(())) == asking
    optional = ClientFiles(eye.clients.authorities, required=False)
    assert mode_of(eye.service.site("b", eye.files, [], optional).context(H1)) == SSL.VERIFY_PEER
    assert mode_of(eye.service.site("c", eye.files, []).context(H1)) == SSL.VERIFY_NONE


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("ca.crt", OTHER.pem + ROOT.pem, "CN=Other, CN=Root; revoked certificates: 0"),
        ("ca.crl", revoking(ROOT, BOB), "CN=Root; revoked certificates: 1"),
    ],
)
def test_a_new_file_is_used_at_the_next_look_with_new_contexts(
    eye: Eye, name: str, content: bytes, said: str
) -> None:
    """New contexts have new ticket keys: nothing from before is resumed."""
    before = eye.site.context(H1)
    (eye.folder / name).write_bytes(content)
    assert eye.site.context(H1) is before
    assert f"app has a new client CA: {said}" in eye.look()
    assert eye.site.context(H1) is not before
    assert mode_of(eye.site.context(H1)) == mode_of(before)


def test_a_new_certificate_of_the_server_changes_nothing_about_clients(eye: Eye) -> None:
    known, before = eye.site.clients, eye.site.context(H1)
    make("example.org", number=7).write(eye.folder, "server")
    (line,) = eye.look()
    assert line.startswith("app has a new certificate")
    assert eye.site.clients is known
    assert eye.site.context(H1) is not before
    assert mode_of(eye.site.context(H1)) == mode_of(before)


@pytest.mark.parametrize("name", ["ca.crt", "ca.crl"])
@pytest.mark.parametrize("content", [b"", b"-----BEGIN X509 CRL-----\nMIIB", BOB.pem, b"\0" * 50])
def test_a_broken_new_file_keeps_the_old_one_and_is_told_once(eye: Eye, name: str, content: bytes) -> None:
    before = eye.site.context(H1)
    (eye.folder / name).write_bytes(content)
    (line,) = eye.look(5)
    assert line.startswith("the new client CA of app is not used: ")
    assert f"{eye.folder}/{name}" in line
    assert line.endswith("; the old one stays")
    assert eye.site.context(H1) is before


def test_a_file_that_is_gone_keeps_the_old_one_and_is_told(eye: Eye) -> None:
    before = eye.site.context(H1)
    (eye.folder / "ca.crl").unlink()
    (line,) = eye.look(3)
    assert "cannot read" in line
    assert eye.site.context(H1) is before


def test_authorities_and_lists_that_are_written_one_after_the_other_are_used_together(eye: Eye) -> None:
    (eye.folder / "ca.crt").write_bytes(OTHER.pem)
    (eye.folder / "ca.crl").write_bytes(revoking(OTHER, by=ROOT))
    assert eye.look() == []
    (eye.folder / "ca.crl").write_bytes(revoking(OTHER))
    assert eye.look() == ["app has a new client CA: CN=Other; revoked certificates: 0"]


def test_what_keeps_clients_out_is_told_at_once_and_once_a_day(eye: Eye) -> None:
    (eye.folder / "ca.crt").write_bytes(ROOT.pem + OTHER.pem)
    told = eye.look()
    concern = f"client CA of app: {eye.folder}/ca.crl has no list of CN=Other: its clients are refused"
    assert told.count(concern) == 1
    assert concern not in eye.look(20)
    eye.clock.advance(FRESH_KEYS_EVERY)
    assert eye.look(3).count(concern) == 1


def test_a_list_that_goes_out_of_date_is_told_when_it_does(eye: Eye) -> None:
    assert eye.look(3) == []
    eye.days_on = 8
    (line,) = eye.look(3)
    assert line.startswith(f"client CA of app: {eye.folder}/ca.crl: the list of CN=Root has expired on ")
    assert line.endswith("its clients are refused until there is a new one")


def test_the_same_files_keep_the_site_over_a_reload_and_others_do_not(eye: Eye) -> None:
    eye.service.forget_unused()
    again = ClientFiles(eye.folder / "ca.crt", eye.folder / "ca.crl")
    assert eye.service.site("app", eye.files, ["example.org"], again) is eye.site
    for other in (None, ClientFiles(again.authorities), ClientFiles(again.authorities, again.revoked, False)):
        assert eye.service.site("app", eye.files, ["example.org"], other) is not eye.site


def test_a_file_that_is_wrong_at_the_start_is_the_callers_trouble(eye: Eye) -> None:
    (eye.folder / "bad.crt").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"bad\.crt holds no certificate"):
        eye.service.site("new", eye.files, [], ClientFiles(eye.folder / "bad.crt"))
