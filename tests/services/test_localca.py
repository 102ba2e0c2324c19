"""The local authority: made once, kept private, and its certificates are good for what they say."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock

from rproxy.deadlines import Deadlines
from rproxy.downstream.terminate import Terminate
from rproxy.interfaces import arrival_of
from rproxy.keypair import KeyPair, load_pair
from rproxy.services.certificates import LOOK_EVERY, Certificates, Site
from rproxy.services.localca import LEAF_LIFE, LocalCA, make_private, write_private
from tests.fakes import LogLines
from tests.tlspeers import Inners, MemoryClient, Pipe, converse, days, whole

NAMES = ("example.org", "*.example.org", "127.0.0.1")


class Day:
    """A calendar to turn the leaves of."""

    number = 0.0

    def __call__(self) -> datetime:
        return days(self.number)


@pytest.fixture
def day() -> Day:
    return Day()


@pytest.fixture
def authority(tmp_path: Path, day: Day) -> Iterator[LocalCA]:
    old = os.umask(0)  # modes must not depend on it
    yield LocalCA(tmp_path / "state" / "ca", day)
    os.umask(old)


def only(pairs: tuple[KeyPair, ...]) -> KeyPair:
    (pair,) = pairs
    return pair


def test_the_certificate_is_good_for_all_names(authority: LocalCA) -> None:
    pair = only(authority.source(NAMES).load())
    assert all(pair.covers(name) for name in (*NAMES, "www.example.org"))
    assert pair.concerns(days(0)) == []
    assert isinstance(pair.key, ec.EllipticCurvePrivateKey)
    assert pair.key.curve.name == "secp256r1"


@pytest.mark.parametrize("name", ["example.org", "www.example.org", "127.0.0.1"])
def test_a_client_that_trusts_the_authority_connects(authority: LocalCA, name: str) -> None:
    certificates = Certificates(Clock(), lambda: days(0))
    site = certificates.site("app", authority.source(NAMES), NAMES)
    context = ssl.create_default_context(cafile=str(authority.certificate_path))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    assert _connects(site, MemoryClient(name, context=context))
    with pytest.raises(ssl.SSLCertVerificationError):
        _connects(site, MemoryClient("example.com", context=context))


def _connects(site: Site, client: MemoryClient) -> bool:
    route = Terminate(site, Inners(), (b"http/1.1",), Deadlines(Clock()))
    server, pipe = route.buildProtocol(arrival_of(IPv4Address("TCP", "127.0.0.1", 1))), Pipe()
    assert server is not None
    server.makeConnection(pipe)
    converse(client, server, pipe, whole)
    return client.done


def test_it_outlasts_a_restart(authority: LocalCA, day: Day) -> None:
    first = only(authority.source(NAMES).load())
    trusted = authority.certificate_path.read_bytes()
    again = LocalCA(authority.directory, day)
    assert only(again.source(tuple(reversed(NAMES))).load()) == first
    assert authority.certificate_path.read_bytes() == trusted


def test_other_names_get_another_certificate_of_the_same_authority(authority: LocalCA) -> None:
    first, second = only(authority.source(("a.org",)).load()), only(authority.source(("b.org",)).load())
    assert first.names == ("a.org",)
    assert second.names == ("b.org",)
    assert first.leaf.issuer == second.leaf.issuer


def test_everything_is_private_whatever_the_umask(authority: LocalCA) -> None:
    authority.directory.mkdir(parents=True, mode=0o755)
    authority.source(NAMES).load()
    assert authority.directory.stat().st_mode & 0o777 == 0o700
    modes = {path.name: path.stat().st_mode & 0o777 for path in authority.directory.iterdir()}
    assert len(modes) == 3
    assert set(modes.values()) == {0o600}


def test_making_an_authority_says_where_its_certificate_is(authority: LocalCA) -> None:
    with LogLines() as log:
        authority.source(NAMES).load()
        authority.source(("b.org",)).load()
    assert log.texts("rproxy.services.localca") == [
        f"made a local certificate authority; to trust it: {authority.certificate_path}"
    ]


def test_it_is_renewed_when_two_thirds_have_passed(authority: LocalCA, day: Day) -> None:
    source = authority.source(NAMES)
    first, seen = only(source.load()), source.fingerprint()
    day.number = 59
    assert source.fingerprint() == seen
    assert only(source.load()) == first
    day.number = 61
    assert source.fingerprint() != seen
    second = only(source.load())
    assert second != first
    assert second.leaf.not_valid_after_utc - days(61) > LEAF_LIFE - timedelta(minutes=1)


def test_a_renewal_reaches_the_site_by_itself(authority: LocalCA, day: Day) -> None:
    clock = Clock()
    certificates = Certificates(clock, day)
    site = certificates.site("app", authority.source(NAMES), NAMES)
    certificates.startService()
    first = site.pairs
    clock.advance(LOOK_EVERY)
    assert site.pairs == first
    day.number = 61
    clock.advance(LOOK_EVERY)
    second = site.pairs
    assert second != first
    clock.advance(LOOK_EVERY)
    assert site.pairs == second
    certificates.stopService()


@pytest.mark.parametrize("content", [b"", b"oops", None])
def test_a_damaged_certificate_is_made_anew(authority: LocalCA, content: bytes | None) -> None:
    first = only(authority.source(NAMES).load())
    path = Path(first.certificate_path)
    path.unlink() if content is None else path.write_bytes(content)
    second = only(authority.source(NAMES).load())
    assert second != first
    assert load_pair(path, path) == second


def test_a_certificate_of_an_authority_that_is_gone_is_made_anew(authority: LocalCA) -> None:
    first = only(authority.source(NAMES).load())
    for name in ("ca.pem", "ca-key.pem"):
        (authority.directory / name).unlink()
    second = only(authority.source(NAMES).load())
    assert second.leaf.issuer != first.leaf.issuer


def test_the_public_copy_is_restored(authority: LocalCA) -> None:
    authority.source(NAMES).load()
    trusted = authority.certificate_path.read_bytes()
    authority.certificate_path.unlink()
    authority.source(("b.org",)).load()
    assert authority.certificate_path.read_bytes() == trusted


def test_a_damaged_authority_is_not_replaced_behind_peoples_backs(authority: LocalCA) -> None:
    make_private(authority.directory)
    key = authority.directory / "ca-key.pem"
    key.write_bytes(b"oops")
    with pytest.raises(ValueError, match="remove it to have a new local authority made"):
        authority.source(NAMES).load()
    assert key.read_bytes() == b"oops"


def test_an_expired_authority_is_told(authority: LocalCA, day: Day) -> None:
    authority.source(NAMES).load()
    day.number = 3651
    with pytest.raises(ValueError, match="has expired"):
        authority.source(NAMES).load()


def test_no_certificate_outlives_its_authority(authority: LocalCA, day: Day) -> None:
    authority.source(NAMES).load()
    day.number = 3640
    pair = only(authority.source(NAMES).load())
    root = x509.load_pem_x509_certificate(authority.certificate_path.read_bytes())
    assert pair.leaf.not_valid_after_utc <= root.not_valid_after_utc


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path, day: Day) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match=r"cannot keep a local certificate in .*: Not a directory"):
        LocalCA(tmp_path / "file" / "ca", day).source(NAMES).load()


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    write_private(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_private(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_the_quicker_of_two_processes_wins(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_private(path, b"first", replace=False)
    write_private(path, b"second", replace=False)
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["a"]
