"""Certificates that ACME writes: none at first, then served at once, and never taken away again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock

from rproxy.deadlines import Deadlines
from rproxy.downstream.terminate import HTTP1, NoCertificate, Terminate
from rproxy.interfaces import Arrival, arrival_of
from rproxy.services.certificates import LOOK_EVERY, Certificates, Issued, Site
from rproxy.wire.clienthello import ClientHello
from tests.fakes import LogLines
from tests.tlspeers import Inners, Made, days, make

OLD, NEW = make("a.example"), make("a.example", number=7)


def put(path: Path, made: Made) -> None:
    path.write_bytes(made.key_pem + made.pem)
    path.chmod(0o600)


@pytest.fixture
def source(tmp_path: Path) -> Issued:
    return Issued(tmp_path / "a.pem")


@pytest.fixture
def watch() -> Certificates:
    return Certificates(Clock(), lambda: days(0))


def test_before_the_first_certificate_a_connection_is_refused_with_the_right_alert(source: Issued) -> None:
    site = Site("a", source.load())
    inners = Inners()
    route = Terminate(site, inners, (HTTP1,), Deadlines(Clock()))
    hello = ClientHello("a.example", (b"http/1.1",), (0x0304,))
    plain = arrival_of(IPv4Address("TCP", "192.0.2.7", 1))
    with pytest.raises(NoCertificate) as caught:
        route.buildProtocol(Arrival("l", plain.peer, plain.client, hello=hello))
    assert (caught.value.alert, caught.value.reason) == (80, "no_certificate")
    assert inners.built == [], "nothing was begun for a connection that is refused"


def test_what_has_been_written_is_served_when_it_is_told(watch: Certificates, source: Issued) -> None:
    site = watch.site("a", source, ["a.example"])
    other = watch.site("b", Issued(source.path.with_name("b.pem")), [])
    put(source.path, OLD)
    with LogLines() as log:
        watch.look_at(Issued(source.path))
    assert site.pairs[0].leaf == OLD.certificate
    assert site.context((HTTP1,))
    assert other.pairs == ()
    (line,) = log.texts("rproxy.services.certificates")
    assert line.startswith("a has a new certificate: a.example until ")


def test_it_is_found_without_being_told(watch: Certificates, source: Issued) -> None:
    site = watch.site("a", source, ["a.example"])
    watch.startService()
    put(source.path, OLD)
    watch._reactor.advance(LOOK_EVERY)
    assert site.pairs[0].leaf == OLD.certificate
    watch.stopService()


@pytest.mark.parametrize("broken", [None, b"", b"oops", NEW.pem])
def test_a_file_that_is_gone_or_damaged_takes_nothing_away(
    watch: Certificates, source: Issued, broken: bytes | None
) -> None:
    put(source.path, OLD)
    site = watch.site("a", source, ["a.example"])
    context = site.context((HTTP1,))
    source.path.unlink() if broken is None else source.path.write_bytes(broken)
    watch.look_at(source)
    assert site.context((HTTP1,)) is context
    put(source.path, NEW)
    watch.look_at(source)
    assert site.pairs[0].leaf == NEW.certificate


def test_a_damaged_file_does_not_keep_the_proxy_from_starting(watch: Certificates, source: Issued) -> None:
    source.path.write_bytes(b"oops")
    with LogLines() as log:
        assert watch.site("a", source, ["a.example"]).pairs == ()
    assert "holds no certificate" in log.texts("rproxy")[0]


def test_how_long_it_lasts_is_for_its_own_service_to_say(watch: Certificates, source: Issued) -> None:
    put(source.path, make("a.example", ends=days(1)))
    with LogLines() as log:
        watch.site("a", source, ["a.example", "b.example"])
    assert log.texts("rproxy") == [f"certificate of a: {source.path} is not good for b.example"]


def test_equal_sources_are_one(source: Issued) -> None:
    places: dict[Any, int] = {source: 1, Issued(source.path): 2}
    assert len(places) == 1
