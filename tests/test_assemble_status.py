"""What the status tells: everything that is counted, for apps, streams, the hosts folder and services."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor

from rproxy.assemble import ProxyService
from rproxy.assemble_parts import http_key, stream_key
from rproxy.assemble_status import MOST_CLIENTS, status
from rproxy.config.load import parse
from rproxy.errors import TooMany
from rproxy.interfaces import Lease
from rproxy.upstream.http_client import HttpPeer
from rproxy.upstream.peer import Peer
from tests.tlspeers import make

NOW = 1_800_000_000.0
TEXT = """
listen_port = 80
listen_port_tls = 443
max_clients = 99
max_clients_per_ip = 7
ban_list = "bans.txt"
state_directory = "state"
[hosts]
directory = "."
hashed = true
[apps.site]
server_name = ["a.test", "*.b.test"]
rate_limit = { capacity = 1, fill_rate = 60, max_connections = 5 }
tls.self_signed = true
[[apps.site.reverse_proxy]]
upstream = [{ location = "10.0.0.5:80" }, { location = "10.0.0.6:80", weight = 3 }]
health_check = true
[[apps.site.reverse_proxy]]
path = "/api"
upstream = [{ location = "10.0.0.5:80" }]
[apps.both]
server_name = "s.test"
passthrough = { upstream = [{ location = "10.0.0.7" }] }
reverse_proxy = [{ upstream = [{ location = "10.0.0.7:80" }] }]
[l4.db]
listen = ":5000"
server_name = "db.test"
tls = { tls_cert_path = "db.pem", tls_cert_key_path = "db.key", client_ca_cert_path = "ca.pem" }
authorized_groups = ["admin"]
upstream = [{ location = "10.0.0.8:5432" }, { location = "10.0.0.9:5432", weight = 2 }]
rate_limit = { max_connections = 2 }
[l4.ssh]
listen = [":22", ":2222"]
upstream = [{ location = "10.0.0.10:22" }]
[[jail]]
match = "status 401"
rate = "10/1m"
ban = "1h"
app = "site"
"""


class House:
    """A proxy that was built and never started."""

    def __init__(self, folder: Path) -> None:
        authority = make(ca=True, number=1)
        (folder / "ca.pem").write_bytes(authority.pem)
        make("db.test", issuer=authority, number=2).write(folder, "db")
        self.config = parse(TEXT, str(folder / "x.toml"))
        self.service: Any = ProxyService(reactor, self.config, bytearray().extend, signals=False)

    @property
    def told(self) -> Any:
        """As it comes out of the socket."""
        return json.loads(json.dumps(status(self.service, NOW)))

    def asked(self, app: str, entry: int, number: int) -> HttpPeer:
        """The peer of an upstream of an app."""
        said = self.config.apps[app].reverse_proxy[entry]
        key = http_key(app, said, said.upstream[number], self.config.tuned(said))
        peer = self.service.parts.known(key)
        assert isinstance(peer, HttpPeer)
        return peer

    def joined(self, app: str, upstream: Any) -> Peer:
        peer = self.service.parts.known(stream_key(app, upstream))
        assert isinstance(peer, Peer)
        return peer


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.service.guards.bans.stopService()


def facts(peers: list[dict[str, Any]], *keys: str) -> list[tuple[Any, ...]]:
    return [tuple(peer[key] for key in keys) for peer in peers]


def test_connections_and_limits_for_all_are_told(house: House) -> None:
    told = house.told
    assert told["connections"] == {"open": 0, "most": 99, "most_per_client": 7}
    assert told["hosts"] == {"directory": str(house.config.hosts.directory), "hashed": True}  # type: ignore[union-attr]
    assert told["listeners"] == []  # none is open


def test_the_peers_of_an_app_are_told_by_path_with_health_and_counts(house: House) -> None:
    house.asked("site", 0, 0).open = 3
    house.asked("site", 0, 1).down_until = NOW + 5
    other = house.asked("site", 1, 0)
    other.down_until = NOW - 5
    other.idle.append(object())  # type: ignore[arg-type]
    (site, _) = house.told["apps"]
    assert (site["name"], site["names"], site["serves"]) == ("site", ["a.test", "*.b.test"], ["tls", "http"])
    assert facts(site["peers"], "for", "location", "state", "open", "idle", "weight", "checked") == [
        ("/", "10.0.0.5:80", "up", 3, 0, 1, True),
        ("/", "10.0.0.6:80", "down", 0, 0, 3, True),
        ("/api", "10.0.0.5:80", "up", 0, 1, 1, False),
    ]


def test_an_app_that_passes_tls_on_and_routes_requests_has_peers_for_both(house: House) -> None:
    app = house.config.apps["both"]
    assert app.passthrough is not None
    stream = house.joined("both", app.passthrough.upstream[0])
    stream.healthy, stream.open = False, 4
    (_, both) = house.told["apps"]
    assert both["serves"] == ["passthrough", "http"]
    assert facts(both["peers"], "for", "location", "state", "open") == [
        ("passthrough", "10.0.0.7", "unhealthy", 4),
        ("/", "10.0.0.7:80", "up", 0),
    ]


def test_a_service_tells_its_peers_and_who_is_connected(house: House) -> None:
    limiter = house.service.l4.limiters["db"]
    leases = [Lease() for _ in range(4)]
    for lease, who in zip(leases, ("alice@admin", "bob@admin", "bob@admin"), strict=False):
        limiter.admit(who, lease)
    with pytest.raises(TooMany):
        limiter.admit("bob@admin", leases[3])
    first, second = (house.joined("l4.db", upstream) for upstream in house.config.l4["db"].upstream)
    first.open, second.open, second.down_until = 1, 2, NOW + 1
    database, ssh = house.told["l4"]
    assert database["clients"] == [{"client": "bob@admin", "open": 2}, {"client": "alice@admin", "open": 1}]
    assert (database["open"], database["listen"], database["names"]) == (3, ["tcp:5000"], ["db.test"])
    assert (database["tls"], database["client_certificates"], database["groups"]) == (True, True, ["admin"])
    assert facts(database["peers"], "for", "location", "state", "open", "weight") == [
        ("tcp", "10.0.0.8:5432", "up", 1, 1),
        ("tcp", "10.0.0.9:5432", "down", 2, 2),
    ]
    assert (ssh["name"], ssh["listen"], ssh["tls"], ssh["clients"]) == (
        "ssh",
        ["tcp:22", "tcp:2222"],
        False,
        [],
    )
    leases[0].release()
    assert house.told["l4"][0]["clients"] == [{"client": "bob@admin", "open": 2}]


def test_clients_without_a_certificate_are_addresses(house: House) -> None:
    """Counted without a limit, too."""
    limiter = house.service.l4.limiters["ssh"]
    for key in ("192.0.2.7", b"\x20\x01\x0d\xb8\0\0\0\1", "unix"):
        limiter.admit(key, Lease())
    (_, ssh) = house.told["l4"]
    assert [each["client"] for each in ssh["clients"]] == ["192.0.2.7", "2001:db8:0:1::/64", "unix"]
    assert ssh["open"] == 3


def test_of_a_crowd_those_with_the_most_connections_are_told(house: House) -> None:
    limiter = house.service.l4.limiters["ssh"]
    for number in range(MOST_CLIENTS + 5):
        limiter.admit(f"10.0.{number >> 8}.{number & 255}", Lease())
    limiter.admit("10.0.0.9", Lease())
    (_, ssh) = house.told["l4"]
    assert ssh["open"] == MOST_CLIENTS + 6
    assert len(ssh["clients"]) == MOST_CLIENTS
    assert ssh["clients"][0] == {"client": "10.0.0.9", "open": 2}


def test_limits_tell_what_they_allow_and_refused(house: House) -> None:
    limiter = house.service.guards.limiters["apps.site.rate_limit"]
    limiter.admit("192.0.2.7", Lease())
    with pytest.raises(TooMany):
        limiter.admit("192.0.2.7", Lease())
    site, database = house.told["limits"]
    assert site == {
        "name": "apps.site.rate_limit",
        "capacity": 1,
        "fill_rate": 60.0,
        "max_connections": 5,
        "clients": 1,
        "open": 1,
        "refused": 1,
    }
    assert (database["name"], database["max_connections"], database["refused"]) == ("l4.db", 2, 0)


def test_jails_and_bans_are_told(house: House, tmp_path: Path) -> None:
    bans = house.service.guards.bans
    bans.ban("192.0.2.9")
    bans.ban_client("192.0.2.10", 60.0, "status 401")
    bans.check.refused = 4
    told = house.told
    assert told["bans"] == {"count": 2, "by_jails": 1, "refused": 4, "file": str(tmp_path / "bans.txt")}
    assert told["jails"] == [
        {"name": "status 401", "apps": ["site"], "most": 10, "within": 60.0, "seconds": 3600.0, "clients": 0}
    ]
