"""What routes share and what outlives a reload: a peer stays itself as long as its line in the file does."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.application.service import MultiService
from twisted.internet.address import IPv4Address

from rproxy.assemble_parts import Parts, probing
from rproxy.config.apps import HealthCheck
from rproxy.config.load import parse
from rproxy.errors import StartError
from rproxy.services.certificates import Certificates
from rproxy.services.demo import Demo
from rproxy.upstream.health import Probing
from rproxy.upstream.peer import Peer
from tests.fakes import Loop
from tests.tlspeers import Pipe, make

HEAD = 'listen_port = 80\nlisten_port_tls = 443\n[apps.a]\nserver_name = "a.test"\n'


class Resolver:
    """Answers every question at once."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def resolveHostName(self, receiver: Any, host: str, *rest: object) -> None:
        self.asked.append(host)
        receiver.addressResolved(IPv4Address("TCP", "192.0.2.1", 0))
        receiver.resolutionComplete()


class Machine(Loop):
    def __init__(self) -> None:
        super().__init__()
        self.nameResolver = Resolver()


class Probes:
    """Stands for `upstream.health.Health`."""

    def __init__(self) -> None:
        self.used: dict[Peer, Probing] = {}

    def use(self, wanted: dict[Peer, Probing]) -> None:
        self.used = wanted


class House:
    """Parts, and files to use them with."""

    def __init__(self) -> None:
        self.machine, self.services = Machine(), MultiService()
        journal: Any = None
        self.parts = Parts(self.machine, journal, self.services)
        self.probes: Any = Probes()
        self.parts.health = self.probes

    def build(self, text: str) -> list[Peer]:
        """The peers of a file that is read and perhaps refused then."""
        config, parts = parse(text, "x.toml", rows=()), self.parts
        parts.begin()
        peers: list[Peer] = []
        for key, app in config.apps.items():
            if app.passthrough is not None:
                peers += [parts.peer(key, upstream) for upstream in app.passthrough.upstream]
            for entry in app.reverse_proxy:
                tuned = config.tuned(entry)
                peers += [parts.http_peer(key, entry, upstream, tuned) for upstream in entry.upstream]
        return peers

    def load(self, text: str) -> list[Peer]:
        """The peers of a file that is in use from now on."""
        peers = self.build(text)
        self.parts.forget_unused()
        return peers

    def stream(self, *locations: str, more: str = "") -> list[Peer]:
        return self.load(HEAD + stream_of(*locations, more=more))

    def requests(self, location: str, more: str = "", about: str = "") -> Any:
        (peer,) = self.load(HEAD + entry_of(location, more, about))
        return peer


def stream_of(*locations: str, more: str = "") -> str:
    peers = ", ".join(f'{{ location = "{location}"{more} }}' for location in locations)
    return f"passthrough = {{ upstream = [{peers}] }}\n"


def entry_of(location: str, more: str = "", about: str = "") -> str:
    return f'[[apps.a.reverse_proxy]]\nupstream = [{{ location = "{location}"{more} }}]\n{about}\n'


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    yield house
    house.parts.close()


class Idle:
    """A connection to a peer that has been kept, if the peer keeps any."""

    def __init__(self, peer: Any) -> None:
        client, self._pipe = peer.protocol(Loop(), lambda client: None), Pipe()
        client.makeConnection(self._pipe)
        self.kept = peer.put_idle(client, Loop())

    @property
    def closed(self) -> bool:
        return self._pipe.disconnecting


# -- the same peer, or another


def test_the_peer_of_a_stream_stays_itself_while_its_line_does(house: House) -> None:
    first, second = house.stream("10.0.0.1:443", "10.0.0.2:443")
    first.open = 7
    assert house.stream("10.0.0.2:443", "10.0.0.1:443") == [second, first]
    (heavier,) = house.stream("10.0.0.1:443", more=", weight = 2")
    assert heavier is not first
    assert (heavier.weight, heavier.open) == (2, 0)


def test_two_apps_never_share_a_peer(house: House) -> None:
    other = HEAD.partition("[")[0] + '[apps.b]\nserver_name = "b.test"\n'
    (of_a,) = house.stream("10.0.0.1:443")
    (of_b,) = house.load(other + stream_of("10.0.0.1:443"))
    assert of_a is not of_b


CHANGES = [
    (", weight = 2", ""),
    (", tls = true, tls_insecure = true", ""),
    ("", "keepalive = 1"),
    ("", "upstream_keepalive_timeout = 1"),
    ("", "connect_timeout = 1"),
    ("", "max_fails = 7"),
    ("", "fail_timeout = 7"),
    ("", "health_check = true"),
]


@pytest.mark.parametrize(("more", "about"), CHANGES)
def test_a_peer_for_requests_is_another_once_a_setting_of_it_is(house: House, more: str, about: str) -> None:
    before = house.requests("10.0.0.1:80")
    assert house.requests("10.0.0.1:80") is before
    assert house.requests("10.0.0.1:80", "", 'path = "/other"') is before, "that is not about the peer"
    assert house.requests("10.0.0.1:80", more, about) is not before


def test_a_peer_for_requests_has_the_settings_of_its_entry(house: House) -> None:
    about = "keepalive = 3\nupstream_keepalive_timeout = 4\nmax_fails = 5\nfail_timeout = 6"
    peer = house.requests("10.0.0.1:80", ", weight = 7", about)
    assert (peer.name, peer.keep, peer.keep_idle) == ("10.0.0.1:80", 3, 4.0)
    assert (peer.max_fails, peer.fail_timeout, peer.weight, peer.tls) == (5, 6.0, 7, None)


def test_a_peer_that_no_route_has_any_more_keeps_nothing(house: House) -> None:
    gone = house.requests("10.0.0.1:80")
    idle = Idle(gone)
    stays = house.requests("10.0.0.2:80")
    assert (idle.closed, gone.keep, stays.keep) == (True, 0, 256)
    assert not Idle(gone).kept
    assert house.requests("10.0.0.1:80") is not gone, "what comes back later is another"


def test_a_refused_file_takes_nothing_away_and_leaves_nothing_behind(house: House) -> None:
    before = house.requests("10.0.0.1:80")
    idle = Idle(before)
    refused = house.build(HEAD + entry_of("10.0.0.9:80") + entry_of("10.0.0.8:80", about='path = "/b"'))
    assert not idle.closed
    assert house.requests("10.0.0.1:80") is before
    assert house.build(HEAD + entry_of("10.0.0.9:80"))[0] not in refused


def test_a_location_that_cannot_be_used_is_refused_each_time(house: House) -> None:
    for _ in range(2):
        with pytest.raises(StartError, match='app a: Twisted cannot use the endpoint "nonesuch:there"'):
            house.build(HEAD + stream_of("nonesuch:there"))
    assert len(house.stream("10.0.0.1:443")) == 1


def test_at_the_end_idle_connections_and_pipes_are_closed(house: House) -> None:
    idle = Idle(house.requests("10.0.0.1:80"))
    closed: list[bool] = []
    pipes: Any = type("Pipes", (), {"close": lambda self: closed.append(True)})()
    house.parts.pipes = pipes
    house.parts.close()
    assert (idle.closed, closed) == (True, [True])


# -- where a peer is, and what it is called


@pytest.mark.parametrize(
    ("location", "targets"),
    [
        ("10.0.0.1:8443", ((socket.AF_INET, ("10.0.0.1", 8443)),)),
        ("10.0.0.1", ((socket.AF_INET, ("10.0.0.1", 443)),)),
        ("[2001:db8::1]:8443", ((socket.AF_INET6, ("2001:db8::1", 8443, 0, 0)),)),
        ("[fe80::1%lo]:1", ((socket.AF_INET6, ("fe80::1", 1, 0, socket.if_nametoindex("lo"))),)),
        ("unix:/run/a.sock", ((socket.AF_UNIX, "/run/a.sock"),)),
    ],
)
def test_a_location_is_an_address_to_connect_to(house: House, location: str, targets: object) -> None:
    (peer,) = house.stream(location)
    assert (peer.targets(), peer.host, peer.endpoint) == (targets, "", None)


def test_an_interface_that_this_machine_has_not_is_text(house: House) -> None:
    with pytest.raises(StartError, match=r'app a: "\[fe80::1%none0\]:443": this machine has no such network'):
        house.stream("[fe80::1%none0]:443")


def test_a_name_is_asked_for_ahead_and_as_long_as_it_is_used(house: House) -> None:
    (peer,) = house.stream("db.test:5432")
    asked = house.machine.nameResolver.asked
    assert (asked, peer.host) == ([], "db.test")
    house.parts.look_up()
    assert (asked, peer.targets()) == (["db.test"], ((socket.AF_INET, ("192.0.2.1", 5432)),))
    house.stream("10.0.0.1:1")
    house.stream("db.test:5432")
    house.parts.look_up()
    assert asked == ["db.test"] * 2, "forgotten in between"


def test_an_endpoint_is_connected_to_by_twisted(house: House) -> None:
    (peer,) = house.stream("tcp:127.0.0.1:1:timeout=3")
    assert peer.endpoint is not None
    assert peer.targets() == ()


def test_there_is_one_demo_however_often_it_is_a_location(house: House) -> None:
    (first,) = house.stream("demo:")
    second = house.requests("demo:")
    assert first.targets() == second.targets()
    assert [type(each) for each in house.services].count(Demo) == 1


@pytest.mark.parametrize(
    ("location", "more", "authority"),
    [
        ("10.0.0.1", "", b"10.0.0.1"),
        ("10.0.0.1:80", "", b"10.0.0.1"),
        ("10.0.0.1:443", "", b"10.0.0.1:443"),
        ("10.0.0.1:443", ", tls = true, tls_insecure = true", b"10.0.0.1"),
        ("10.0.0.1:80", ", tls = true, tls_insecure = true", b"10.0.0.1:80"),
        ("backend.test:8080", "", b"backend.test:8080"),
        ("[2001:db8::1]", "", b"[2001:db8::1]"),
        ("[2001:db8::1]:8080", "", b"[2001:db8::1]:8080"),
        ("unix:/run/a.sock", "", b"localhost"),
    ],
)
def test_a_peer_is_called_by_its_host_and_a_port_that_is_not_the_usual_one(
    house: House, location: str, more: str, authority: bytes
) -> None:
    peer = house.requests(location, more)
    assert (peer.authority, peer.tls is not None) == (authority, bool(more))


# -- health checks


@pytest.mark.parametrize(
    ("check", "wanted"),
    [
        ({}, Probing(None, 200, 10.0, 5.0, 3, 2)),
        (
            {"type": "http", "path": "/ok", "expected_status": 204, "interval": 4, "timeout": 3},
            Probing(b"/ok", 204, 4.0, 3.0, 3, 2),
        ),
        ({"path": "/only/connects"}, Probing(None, 200, 10.0, 5.0, 3, 2)),
        ({"unhealthy_threshold": 7, "healthy_threshold": 8}, Probing(None, 200, 10.0, 5.0, 7, 8)),
    ],
)
def test_a_check_in_the_file_is_a_probe(check: dict[str, object], wanted: Probing) -> None:
    """R-HC-1."""
    assert probing(HealthCheck.model_validate(check)) == wanted


def test_the_peers_that_are_probed_are_those_of_the_file_in_use(house: House) -> None:
    checked = house.requests("10.0.0.1:80", about="health_check = { interval = 9 }")
    assert {peer: probe.interval for peer, probe in house.probes.used.items()} == {checked: 9.0}
    house.build(HEAD + entry_of("10.0.0.2:80", about="health_check = true"))
    assert list(house.probes.used) == [checked], "not before it is used"
    house.requests("10.0.0.1:80")
    assert house.probes.used == {}


# -- certificates


def test_certificates_are_watched_by_one_service_that_comes_with_the_first_app(
    house: House, tmp_path: Any
) -> None:
    files = make("a.test").write(tmp_path, "a")
    tls = f'tls = {{ tls_cert_path = "{files[0]}", tls_cert_key_path = "{files[1]}" }}\n'
    config = parse(HEAD + tls + entry_of("10.0.0.1:80"), "x.toml", rows=())
    house.stream("10.0.0.1:443")
    assert [each for each in house.services if isinstance(each, Certificates)] == []
    endings = [house.parts.ending(config, key, config.apps["a"]) for key in ("a", "b")]
    assert [ending.covers("a.test") for ending in endings] == [True, True]
    (service,) = [each for each in house.services if isinstance(each, Certificates)]
    house.parts.forget_unused()
    assert len(service._watched) == 2
    house.stream("10.0.0.1:443")
    assert len(service._watched) == 0, "nothing that no app has is looked at"
