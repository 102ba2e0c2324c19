"""Sites and the eye on their files: what changes is used when it is whole, and never disturbs what lives."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from OpenSSL import SSL
from twisted.internet.task import Clock

from rproxy.keypair import KeyPair
from rproxy.services.certificates import FRESH_KEYS_EVERY, LOOK_EVERY, Certificates, Files, Site, check
from tests.fakes import LogLines
from tests.tlspeers import age, days, make

OLD, NEW = make("example.org"), make("example.org", number=7)


@dataclass
class Eye:
    """A running `Certificates` with the site of one app."""

    clock: Clock
    service: Certificates
    files: Files
    site: Site
    log: LogLines

    def look(self) -> None:
        self.clock.advance(LOOK_EVERY)

    def told(self) -> list[str]:
        texts = self.log.texts("rproxy.services.certificates")
        self.log.events.clear()
        return texts

    @property
    def serial(self) -> int:
        return self.site.pairs[0].leaf.serial_number


@pytest.fixture
def eye(tmp_path: Path) -> Iterator[Eye]:
    clock, files = Clock(), Files((OLD.write(tmp_path, "a"),))
    service = Certificates(clock, lambda: days(0))
    with LogLines() as log:
        site = service.site("app", files, ["example.org"])
        service.startService()
        yield Eye(clock, service, files, site, log)
    service.stopService()
    assert clock.getDelayedCalls() == []


def test_a_renewed_certificate_is_used_at_the_next_look(eye: Eye, tmp_path: Path) -> None:
    before = eye.site.context((b"http/1.1",))
    NEW.write(tmp_path, "a")
    assert eye.serial == OLD.certificate.serial_number
    eye.look()
    assert eye.serial == NEW.certificate.serial_number
    assert eye.site.context((b"http/1.1",)) is not before
    (line,) = eye.told()
    assert line.startswith("app has a new certificate: example.org until ")


def test_contexts_are_made_once_per_choice_of_protocols(eye: Eye) -> None:
    h1, h2 = eye.site.context((b"http/1.1",)), eye.site.context((b"h2",))
    eye.look()
    assert eye.site.context((b"http/1.1",)) is h1
    assert eye.site.context((b"h2",)) is h2
    assert h1 is not h2


def test_nothing_is_read_while_nothing_changes(
    eye: Eye, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Files] = []
    load = Files.load
    monkeypatch.setattr(Files, "load", lambda files: (reads.append(files), load(files))[1])
    eye.look()
    assert len(reads) == 0
    age(tmp_path / "a.pem", 9)
    eye.look()
    eye.look()
    assert len(reads) == 1


def test_a_touched_file_with_the_same_certificate_keeps_the_contexts(eye: Eye, tmp_path: Path) -> None:
    before = eye.site.context(())
    age(tmp_path / "a.pem", 9)
    eye.look()
    assert eye.site.context(()) is before
    assert eye.told() == []


def test_a_certificate_whose_key_is_not_yet_written_waits_for_it_in_silence(eye: Eye, tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_bytes(NEW.pem)
    eye.look()
    assert eye.serial == OLD.certificate.serial_number
    (tmp_path / "a.key").write_bytes(NEW.key_pem)
    eye.look()
    assert eye.serial == NEW.certificate.serial_number
    assert [line for line in eye.told() if "not used" in line] == []


def test_a_key_written_within_the_same_clock_tick_is_found_later(eye: Eye, tmp_path: Path) -> None:
    """The fingerprint need not change again for a pair that did not fit: it is read at every look."""
    (tmp_path / "a.pem").write_bytes(NEW.pem)
    state = os.stat(tmp_path / "a.key")
    eye.look()
    (tmp_path / "a.key").write_bytes(NEW.key_pem)
    os.utime(tmp_path / "a.key", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert os.stat(tmp_path / "a.key").st_mtime_ns == state.st_mtime_ns
    eye.look()
    assert eye.serial == NEW.certificate.serial_number


def test_a_broken_new_file_keeps_the_old_one_and_is_told_once(eye: Eye, tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_bytes(b"oops")
    for _ in range(9):
        eye.look()
    assert eye.serial == OLD.certificate.serial_number
    assert eye.told() == [
        f"the new certificate of app is not used: {tmp_path}/a.pem holds no certificate in PEM form"
        " (-----BEGIN CERTIFICATE-----); the old one stays"
    ]
    NEW.write(tmp_path, "a")
    eye.look()
    assert eye.serial == NEW.certificate.serial_number
    (tmp_path / "a.pem").write_bytes(b"oops")
    eye.look()
    eye.look()
    assert [line for line in eye.told() if "not used" in line], "trouble of another time is told again"


def test_a_file_that_is_gone_is_told_and_found_again(eye: Eye, tmp_path: Path) -> None:
    content = (tmp_path / "a.pem").read_bytes()
    (tmp_path / "a.pem").unlink()
    eye.look()
    eye.look()
    (line,) = eye.told()
    assert "No such file or directory" in line
    (tmp_path / "a.pem").write_bytes(content)
    before = eye.site.context(())
    eye.look()
    assert eye.site.context(()) is before


def test_symlinks_renamed_one_after_the_other_are_followed(tmp_path: Path) -> None:
    """As certbot does: live/ has links into archive/, each replaced by itself."""
    archive, live = tmp_path / "archive", tmp_path / "live"
    archive.mkdir()
    live.mkdir()
    OLD.write(archive, "1")
    NEW.write(archive, "2")
    for end in ("pem", "key"):
        (live / f"a.{end}").symlink_to(f"../archive/1.{end}")
    clock, files = Clock(), Files(((live / "a.pem", live / "a.key"),))
    service = Certificates(clock, lambda: days(0))
    site = service.site("app", files, [])
    service.startService()
    for end in ("key", "pem"):
        (live / "new").symlink_to(f"../archive/2.{end}")
        (live / "new").rename(live / f"a.{end}")
        clock.advance(LOOK_EVERY)
    assert site.pairs[0].leaf == NEW.certificate
    service.stopService()


def test_ticket_keys_are_made_anew_every_day(eye: Eye) -> None:
    before = eye.site.context(())
    eye.clock.pump([LOOK_EVERY] * int(FRESH_KEYS_EVERY / LOOK_EVERY - 1))
    assert eye.site.context(()) is before
    eye.look()
    after = eye.site.context(())
    assert after is not before
    eye.look()
    assert eye.site.context(()) is after


def test_an_uncovered_name_is_warned_about_at_start(tmp_path: Path) -> None:
    files = Files((OLD.write(tmp_path, "a"),))
    with LogLines() as log:
        Certificates(Clock(), lambda: days(0)).site("app", files, ["example.org", "www.example.org", "*.org"])
    assert log.texts("rproxy.services.certificates") == [
        f"certificate of app: {tmp_path}/a.pem is not good for www.example.org, *.org"
    ]


def test_what_a_pair_is_concerned_about_is_warned_about(tmp_path: Path) -> None:
    files = Files((make("example.org", begins=days(-9), ends=days(-2)).write(tmp_path, "a"),))
    with LogLines() as log:
        Certificates(Clock(), lambda: days(0)).site("app", files, [])
    (line,) = log.texts("rproxy.services.certificates")
    assert "has expired on" in line


def test_a_reload_with_the_same_files_keeps_the_site(eye: Eye) -> None:
    assert eye.service.site("app", Files(eye.files.pairs), []) is eye.site
    eye.service.forget_unused()
    assert eye.service.site("app", Files(eye.files.pairs), []) is eye.site


def test_a_reload_with_other_files_makes_a_site_and_lets_the_old_one_go(eye: Eye, tmp_path: Path) -> None:
    eye.service.forget_unused()
    other = Files((NEW.write(tmp_path, "b"),))
    site = eye.service.site("app", other, [])
    assert site is not eye.site
    eye.service.forget_unused()
    NEW.write(tmp_path, "a")
    OLD.write(tmp_path, "b")
    eye.look()
    assert site.pairs[0].leaf == OLD.certificate
    assert eye.serial == OLD.certificate.serial_number, "nobody looks for the old site any more"


def test_a_refused_reload_leaves_the_old_site_watched(eye: Eye, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot read"):
        eye.service.site("app", Files(((tmp_path / "no", tmp_path / "no"),)), [])
    NEW.write(tmp_path, "a")
    eye.look()
    assert eye.serial == NEW.certificate.serial_number


def test_two_apps_with_the_same_files_have_sites_of_their_own(eye: Eye) -> None:
    assert eye.service.site("other", eye.files, []) is not eye.site


class Sometimes:
    """A source with a bug in it."""

    broken = False

    def fingerprint(self) -> int:
        if self.broken:
            raise RuntimeError("a bug")
        return 1

    def load(self) -> tuple[KeyPair, ...]:
        return ()


def test_a_mistake_in_one_source_does_not_keep_others_from_being_looked_at(tmp_path: Path) -> None:
    clock, source = Clock(), Sometimes()
    service = Certificates(clock, lambda: days(0))
    service.site("bad", source, [])
    site = service.site("good", Files((OLD.write(tmp_path, "a"),)), [])
    service.startService()
    source.broken = True
    NEW.write(tmp_path, "a")
    with LogLines() as log:
        clock.advance(LOOK_EVERY)
    assert site.pairs[0].leaf == NEW.certificate
    assert "looking at the certificates of bad failed" in log.texts("rproxy.services.certificates")
    service.stopService()


def test_openssl_has_the_last_word() -> None:
    class Refused:
        chain, certificate_path = b"-----BEGIN CERTIFICATE-----\n", "x.pem"

    with pytest.raises(ValueError, match=r"^x\.pem is not usable: "):
        check("app", [Refused()])  # type: ignore[list-item]


def test_a_site_covers_what_all_its_certificates_cover(tmp_path: Path) -> None:
    site = Site(
        "app",
        (make("a.org", "b.org").pair(tmp_path, "a"), make("a.org", key="rsa").pair(tmp_path, "b")),
    )
    assert site.covers("a.org")
    assert not site.covers("b.org")


def test_contexts_are_frozen_by_their_first_connection(eye: Eye) -> None:
    context = eye.site.context((b"http/1.1",))
    SSL.Connection(context)
    with pytest.raises(ValueError, match="cannot be mutated"):
        context.set_timeout(1)


def test_what_is_in_use_is_known_by_app_and_why_a_newer_one_is_not(eye: Eye, tmp_path: Path) -> None:
    assert eye.service.in_use("app") == (eye.site.pairs, "")
    assert eye.service.in_use("other") is None
    (tmp_path / "a.pem").write_bytes(b"oops")
    for _ in range(3):
        eye.look()
    found = eye.service.in_use("app")
    assert found is not None
    assert found[0][0].leaf.serial_number == OLD.certificate.serial_number
    assert "holds no certificate" in found[1]
