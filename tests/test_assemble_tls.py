"""The TLS half of assemble: which certificates an app shows, and what ends its TLS connections."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from rproxy.assemble_tls import Endings, certificate_places
from rproxy.config.load import parse
from rproxy.config.schema import Configuration
from rproxy.deadlines import Deadlines
from rproxy.errors import StartError
from rproxy.interfaces import Arrival
from rproxy.wire.address import inet
from rproxy.wire.clienthello import ClientHello
from tests.tlspeers import make

CLIENT = inet("192.0.2.1", 999)


class Reactor(Clock):
    """A clock with a thread pool that never does anything."""

    def getThreadPool(self) -> Any:
        return self

    def callInThreadWithCallback(self, *_: Any) -> None:
        pass


class World:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.reactor, self.parent = Reactor(), MultiService()
        self.endings = Endings(self.reactor, self.parent, Deadlines(self.reactor), Random(1))

    def config(self, *names: str, acme: str = "", tls: str = "{ acme = true }") -> Configuration:
        text = "listen_port_tls = 443\n"
        for name in names:
            text += f'[apps."{name}"]\nserver_name = ["{name}"]\ntls = {tls}\n'
            text += 'reverse_proxy = { location = "demo:" }\n'
        text += f'[acme]\nemail = "a@example.org"\ndir_url = "https://127.0.0.1:1/dir"\n{acme}\n'
        return parse(text, str(self.directory / "rproxy.toml"))

    def build(self, config: Configuration) -> None:
        self.endings.begin()
        for key, app in config.apps.items():
            self.endings.ending(config, key, app)

    def use(self, config: Configuration) -> None:
        self.build(config)
        self.endings.forget_unused()

    @property
    def issuing(self) -> list[Any]:
        return [each for each in self.parent if type(each).__name__ == "IssuingService"]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    world.parent.startService()
    yield world
    world.parent.stopService()


def test_it_begins_when_the_tables_are_used_and_not_before(world: World) -> None:
    config = world.config("a.example", "b.example")
    world.build(config)
    assert world.issuing == []
    world.endings.forget_unused()
    (service,) = world.issuing
    assert service.running
    assert service._wanted == {"a.example": ("a.example",), "b.example": ("b.example",)}
    assert not (world.directory / "acme_registry").exists(), "nothing is written before it is needed"


def test_a_reload_changes_what_is_wanted_and_keeps_the_service(world: World) -> None:
    world.use(world.config("a.example"))
    (before,) = world.issuing
    world.use(world.config("b.example"))
    assert world.issuing == [before]
    assert before._wanted == {"b.example": ("b.example",)}


def test_a_refused_reload_changes_nothing_and_leaves_nothing(world: World) -> None:
    world.use(world.config("a.example"))
    (before,) = world.issuing
    world.build(world.config("b.example", acme='key_type = "p384"'))
    assert before._wanted == {"a.example": ("a.example",)}
    world.use(world.config("c.example"))
    assert world.issuing == [before]
    assert before._wanted == {"c.example": ("c.example",)}


def test_other_settings_make_another_service(world: World) -> None:
    world.use(world.config("a.example"))
    (before,) = world.issuing
    world.use(world.config("a.example", acme='key_type = "p384"'))
    (after,) = world.issuing
    assert after is not before
    assert not before.running
    assert after.running


def test_without_apps_that_want_it_there_is_none(world: World) -> None:
    world.use(world.config("a.example"))
    world.use(world.config("a.example", tls="{ self_signed = true }"))
    assert world.issuing == []
    world.use(world.config("a.example"))
    assert len(world.issuing) == 1


def test_it_is_given_up_once_and_for_all_before_the_ports_are_closed(world: World) -> None:
    world.use(world.config("a.example"))
    (service,) = world.issuing
    world.endings.stop_renewing()
    assert not service.running
    assert world.issuing == []
    world.endings.stop_renewing()


def test_a_challenge_has_a_route_while_it_is_pending(world: World) -> None:
    hello = ClientHello("a.example", (b"acme-tls/1",), (0x0304,))
    arrival = Arrival("l", CLIENT, CLIENT, hello=hello)
    assert world.endings.challenge(arrival) is None
    world.use(world.config("a.example"))
    assert world.endings.challenge(arrival) is None

    class Response:
        key_authorization = "x.y"

    world.endings._renewal._responder.start_responding("a.example", None, Response)
    assert world.endings.challenge(arrival) is not None


def test_roots_that_cannot_be_read_are_a_mistake_at_the_start(world: World) -> None:
    with pytest.raises(StartError, match=r"app a\.example: cannot read .*/no\.pem"):
        world.build(world.config("a.example", acme='ca_file = "no.pem"'))


def test_a_txacme_that_is_missing_is_told_in_one_line(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *more: Any) -> Any:
        if name == "rproxy.services.acme_service":
            raise ImportError("No module named 'txacme'")
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(StartError) as caught:
        world.build(world.config("a.example"))
    assert str(caught.value) == (
        "app a.example: tls.acme needs txacme, which cannot be imported (No module named 'txacme');"
        " `pip install txacme==0.9.3`"
    )
    world.use(world.config("a.example", tls="{ self_signed = true }"))


def test_places_are_named_for_every_kind_of_certificate(world: World) -> None:
    make("c.example").write(world.directory, "c")
    acme = world.config("a.example")
    (place,) = certificate_places(acme, ())
    assert (place.source, place.certificate) == (
        "acme",
        world.directory / "acme_registry" / "certificates" / "a.example.pem",
    )
    assert place.record == place.certificate.with_suffix(".json")
    own = world.config("b.example", tls="{ self_signed = true }")
    assert certificate_places(own, ())[0].source == "self-signed"
    files = world.config("c.example", tls='{ tls_cert_path = "c.pem", tls_cert_key_path = "c.key" }')
    (place,) = certificate_places(files, ())
    assert (place.source, place.certificate, place.key) == (
        "files",
        world.directory / "c.pem",
        world.directory / "c.key",
    )
    assert not (world.directory / "acme_registry").exists()
    assert not (world.directory / "rproxy-state").exists()


def test_places_of_services_are_told_with_where_they_listen(world: World) -> None:
    make("c.example").write(world.directory, "c")
    text = """
        listen_port_tls = 443
        [apps.site]
        server_name = "a.example"
        tls.self_signed = true
        reverse_proxy = { location = "demo:" }
        [l4.db]
        listen = [":5000", ":5001"]
        tls = { tls_cert_path = "c.pem", tls_cert_key_path = "c.key" }
        upstream = [{ location = "10.0.0.7:1" }]
        [l4.own]
        listen = ":5002"
        server_name = ["b.example"]
        tls = { acme = true }
        upstream = [{ location = "10.0.0.7:1" }]
        [l4.plain]
        listen = ":5003"
        upstream = [{ location = "10.0.0.7:1" }]
        [acme]
        email = "a@example.org"
        """
    found = certificate_places(parse(text, str(world.directory / "rproxy.toml")), ["tcp:443"])
    assert [(each.app, each.names, each.source, each.listeners) for each in found] == [
        ("site", ("a.example",), "self-signed", ("tcp:443",)),
        ("l4.db", (), "files", ("tcp:5000", "tcp:5001")),
        ("l4.own", ("b.example",), "acme", ("tcp:5002",)),
    ]
    assert found[2].certificate.name == "b.example.pem"


def test_the_place_of_a_self_signed_certificate_is_where_it_is_made(world: World) -> None:
    config = world.config("b.example", tls="{ self_signed = true }")
    world.use(config)
    (place,) = certificate_places(config, ())
    assert place.certificate.exists()


def test_threads_are_the_reactors(world: World) -> None:
    world.use(world.config("a.example"))
    (service,) = world.issuing
    assert isinstance(service._in_thread(len, ()), Deferred)
