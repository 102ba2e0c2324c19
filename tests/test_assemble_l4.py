"""From `[l4.<name>]` to routes: which listener serves what, and what a reload leaves as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor

from rproxy.assemble import ProxyService, wanted
from rproxy.config.load import parse
from rproxy.config.schema import Configuration
from rproxy.downstream.mutual import Mutual
from rproxy.downstream.service import ServiceFactory
from rproxy.errors import Denied, NotAuthorised, StartError, TooMany, UnknownName
from rproxy.interfaces import Arrival, Lease
from rproxy.policy.balance import LeastConnections
from rproxy.policy.bucket import Allowance
from rproxy.policy.identity import Identity
from rproxy.wire.address import Inet
from rproxy.wire.clienthello import ClientHello
from tests.tlspeers import make

CLIENT = Inet("192.0.2.7", 1234)
AUTHORITY = make(ca=True, number=1)


class House:
    """A folder with certificates, and proxies made of texts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "ca.pem").write_bytes(AUTHORITY.pem)
        make("a.test", "b.test", issuer=AUTHORITY, number=2).write(directory, "server")
        files = 'tls_cert_path = "server.pem", tls_cert_key_path = "server.key"'
        self.tls = f"tls = {{ {files} }}\n"
        self.mutual = f'tls = {{ {files}, client_ca_cert_path = "ca.pem" }}\n'
        self.service: Any = None

    def service_of(self, key: str, *lines: str, listen: str = ":1", peers: str = "10.0.0.7:1") -> str:
        table = f'[l4.{key}]\nlisten = "{listen}"\nupstream = [{{ location = "{peers}" }}]\n'
        return table + "\n".join(lines) + "\n"

    def config(self, *parts: str) -> Configuration:
        return parse("\n".join(parts), str(self.directory / "x.toml"))

    def start(self, *parts: str) -> Any:
        self.service = ProxyService(reactor, self.config(*parts), bytearray().extend, signals=False)
        return self.service.l4

    def reload(self, *parts: str) -> None:
        """As `ProxyService.reload`, without listeners and file."""
        from rproxy.assemble import tables

        config = self.config(*parts)
        built = tables(config, self.service.parts, self.service.http, self.service.l4, self.service.guards)
        self.service._use(config, built)


def arrival(listener: str, name: str | None = None) -> Arrival:
    return Arrival(listener, CLIENT, CLIENT, hello=ClientHello(name, (), (0x0304,)))


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_a_service_without_tls_is_the_route_of_its_listener(house: House) -> None:
    services = house.start(house.service_of("mail", 'timeout = "1m"', 'connect_timeout = "2s"', listen=":25"))
    assert services.serves("tcp:25")
    assert not services.serves("tcp:26")
    route = services.clear("tcp:25")
    assert isinstance(route, ServiceFactory)
    assert (route.app, route.idle_timeout, route.connect_timeout) == ("mail", 60.0, 2.0)
    assert (route.tls, route.proxy_protocol) == ({}, "none")
    assert (route.limiter is services.limiters["mail"], route.limiter.allowance) == (True, Allowance())
    assert isinstance(route.group._balancer, LeastConnections)


def test_services_with_tls_are_told_apart_by_name(house: House) -> None:
    services = house.start(
        house.service_of("a", house.mutual, 'server_name = "a.test"', 'authorized_groups = "admin"'),
        house.service_of("b", house.tls, 'server_name = ["b.test", "*.b.test"]', 'alpn = "x"'),
    )
    assert services.clear("tcp:1") is None
    found = {name: services.choose(arrival("tcp:1", name)) for name in ("a.test", "b.test", "c.b.test")}
    assert {name: route.service.app for name, route in found.items()} == {
        "a.test": "a",
        "b.test": "b",
        "c.b.test": "b",
    }
    assert all(isinstance(route, Mutual) for route in found.values())
    assert (found["a.test"].site.name, found["a.test"].protocols) == ("l4.a", ())
    assert found["a.test"].clients.authorized.groups == frozenset(("admin",))
    assert (found["b.test"].clients, found["b.test"].protocols) == (None, (b"x",))
    for name in ("c.test", None):
        with pytest.raises(UnknownName):
            services.choose(arrival("tcp:1", name))


def test_a_service_without_a_name_takes_the_rest(house: House) -> None:
    services = house.start(
        house.service_of("a", house.tls, 'server_name = "a.test"'), house.service_of("rest", house.mutual)
    )
    apps = [services.choose(arrival("tcp:1", name)).service.app for name in ("a.test", "c.test", None)]
    assert apps == ["a", "rest", "rest"]


def test_listeners_are_opened_as_they_are_written(house: House) -> None:
    """R-G-3 is about the ports of HTTP; a service says itself where it listens."""
    config = house.config(
        "tcp_listen_backlog = 7\n" + house.service_of("a", listen="[::1]:5", peers="a:1"),
        house.service_of("b", house.tls, listen=":6")
        + house.service_of("c", house.tls, 'server_name = "c.test"', listen=":6"),
    )
    assert [(each.name, each.backlog, each.v6_only) for each in wanted(config)] == [
        ("tcp6:5:interface=\\:\\:1", 7, False),
        ("tcp:6", 7, False),
    ]


def test_peers_may_be_spoken_to_in_tls(house: House) -> None:
    services = house.start(
        '[l4.a]\nlisten = ":1"\nupstream = [{ location = "db.test:1", tls = true, tls_ca_path = "ca.pem" },'
        ' { location = "10.0.0.7:1" }]'
    )
    assert {name: how.name for name, how in services.clear("tcp:1").tls.items()} == {"db.test:1": "db.test"}


@pytest.mark.parametrize(
    ("line", "offered"), [("", ()), ('alpn = ["postgresql", "x"]', (b"postgresql", b"x"))]
)
def test_a_peer_behind_tls_is_offered_what_the_service_speaks_and_never_http(
    house: House, line: str, offered: tuple[bytes, ...]
) -> None:
    peer = 'upstream = [{ location = "db.test:1", tls = true, tls_ca_path = "ca.pem" }]'
    services = house.start(f'[l4.a]\nlisten = ":1"\n{peer}\n{line}\n{house.tls}')
    assert services.choose(arrival("tcp:1")).service.tls["db.test:1"].protocols == offered


def test_a_service_has_address_lists_of_its_own(house: House) -> None:
    lists = 'allow = ["192.0.2.0/24"]\ndeny = "192.0.2.66"'
    services = house.start(house.service_of("a", lists), house.service_of("b", house.tls, lists, listen=":2"))
    for route in (services.clear("tcp:1"), services.choose(arrival("tcp:2"))):
        for host in ("192.0.2.66", "198.51.100.1"):
            with pytest.raises(Denied):
                route.buildProtocol(Arrival("l", Inet(host, 1), Inet(host, 1)))
        assert route.buildProtocol(Arrival("l", CLIENT, CLIENT)) is not None


# -- Reload -------------------------------------------------------------------------------------------------

LIMIT = "rate_limit = { capacity = %d, fill_rate = '1s', max_connections = %d }"


def test_a_reload_keeps_what_limits_know(house: House) -> None:
    services = house.start(house.service_of("a", LIMIT % (2, 5)))
    before = services.clear("tcp:1").limiter
    before.admit("bob", Lease())
    house.reload(house.service_of("a", LIMIT % (3, 1)))
    after = services.clear("tcp:1").limiter
    assert after is before
    assert (after.open, after.allowance.max_connections) == (1, 1)
    house.reload(house.service_of("a"))
    assert services.clear("tcp:1").limiter.allowance == Allowance()


def test_who_is_open_counts_for_a_limit_that_a_reload_brings(house: House) -> None:
    services = house.start(house.service_of("a"))
    lease = Lease()
    services.clear("tcp:1").limiter.admit("bob", lease)
    house.reload(house.service_of("a", LIMIT % (9, 1)))
    with pytest.raises(TooMany):
        services.clear("tcp:1").limiter.admit("bob", Lease())
    lease.release()
    services.clear("tcp:1").limiter.admit("bob", Lease())


def test_a_reload_that_fails_changes_no_limit(house: House) -> None:
    services = house.start(house.service_of("a", LIMIT % (2, 5)))
    with pytest.raises(StartError):
        house.reload(
            house.service_of("a", LIMIT % (9, 9)),
            house.service_of("b", house.tls.replace("server.pem", "none.pem"), listen=":2"),
        )
    assert services.clear("tcp:1").limiter.allowance.capacity == 2


def test_a_reload_keeps_the_counts_of_peers(house: House) -> None:
    services = house.start(house.service_of("a"))
    (peer,) = services.clear("tcp:1").group.peers
    peer.open = 3
    house.reload(house.service_of("a", 'timeout = "1s"'))
    assert services.clear("tcp:1").group.peers == (peer,)


def test_a_listener_may_become_something_else(house: House) -> None:
    services = house.start(house.service_of("a"))
    house.reload(house.service_of("a", house.tls))
    assert services.clear("tcp:1") is None
    assert services.choose(arrival("tcp:1")).service.app == "a"
    house.reload("listen_tls = 'tcp:1'\nhosts.directory = '.'")
    assert not services.serves("tcp:1")


def test_a_peer_of_an_app_of_the_same_name_is_another_one(house: House) -> None:
    app = '[apps.a]\nserver_name = "a.test"\npassthrough.upstream = [{ location = "10.0.0.7:1" }]\n'
    house.start("listen_port_tls = 9\n" + app, house.service_of("a"))
    assert len({id(peer) for peer in house.service.parts._peers.values()}) == 2


# -- What only shows when it is built -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("server.pem", "none.pem", r"l4\.a: cannot read .*none\.pem: No such file"),
        ("server.key", "ca.pem", r"l4\.a: .*ca\.pem holds a certificate and no private key"),
        ("ca.pem", "server.key", r"l4\.a: .*server\.key "),
    ],
)
def test_files_that_cannot_be_used(house: House, old: str, new: str, message: str) -> None:
    with pytest.raises(StartError, match=message):
        house.start(house.service_of("a", house.mutual.replace(old, new)))


def test_a_peers_authority_that_cannot_be_read(house: House) -> None:
    with pytest.raises(StartError, match=r"l4\.a: upstream b:1: cannot read .*none"):
        house.start(
            '[l4.a]\nlisten = ":1"\nupstream = [{ location = "b:1", tls = true, tls_ca_path = "none" }]'
        )


BOB = Identity("CN=bob@admin", ("bob@admin",), ("admin",), "bob@admin")


def test_a_handshake_that_began_before_a_reload_is_judged_by_what_counts_after_it(house: House) -> None:
    def service(*lines: str) -> str:
        return house.service_of("db", 'authorized_groups = ["admin"]', *lines)

    services = house.start(service(house.mutual))
    begun = services.choose(arrival("tcp:1"))
    begun.authorise(BOB)
    house.reload(house.service_of("db", 'authorized_groups = ["staff"]', house.mutual))
    with pytest.raises(NotAuthorised):
        begun.authorise(BOB)
    house.reload(service(house.mutual))
    begun.authorise(BOB)
    (house.directory / "other.pem").write_bytes(make(ca=True, number=3).pem)
    house.reload(service(house.mutual.replace("ca.pem", "other.pem")))
    with pytest.raises(NotAuthorised, match="authorities"):
        begun.authorise(BOB)
    house.reload(house.service_of("db", house.tls))
    begun.authorise(None)
    house.reload(house.service_of("others", house.mutual))
    with pytest.raises(NotAuthorised, match="gone"):
        begun.authorise(BOB)


def test_who_began_a_handshake_without_a_certificate_needs_one_after_a_reload(house: House) -> None:
    services = house.start(house.service_of("db", house.tls))
    begun = services.choose(arrival("tcp:1"))
    begun.authorise(None)
    house.reload(house.service_of("db", house.mutual))
    with pytest.raises(NotAuthorised):
        begun.authorise(None)


def test_a_reload_that_comes_to_nothing_changes_nobodys_rights(house: House) -> None:
    services = house.start(house.service_of("db", 'authorized_groups = ["admin"]', house.mutual))
    begun = services.choose(arrival("tcp:1"))
    services.build(house.config(house.service_of("db", 'authorized_groups = ["staff"]', house.mutual)))
    begun.authorise(BOB)
