"""From config models to gates: where nothing is configured nobody is asked, and counts outlive a reload."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from twisted.application.service import MultiService
from twisted.internet.task import Clock

from rproxy.assemble_limits import Guarding, Guards
from rproxy.config.load import parse
from rproxy.config.schema import Configuration
from rproxy.errors import ConfigError, Refusal
from rproxy.interfaces import Arrival, Lease
from rproxy.policy.bucket import Allowance
from rproxy.policy.forwarding import ClientFacts
from rproxy.policy.networks import NetworkSet
from rproxy.policy.paths import PathTable
from rproxy.sites import Site
from rproxy.wire.address import Inet
from rproxy.wire.message import Headers
from tests.fakes import Journal
from tests.test_sites import ROUTE

LISTENERS = ["tcp:443", "tcp:80"]
SITE = """
[apps.site]
server_name = ["a.test", "b.test"]
tls.self_signed = true
reverse_proxy = { location = "a" }
"""
STREAM = """
[apps.stream]
server_name = "s.test"
passthrough = { upstream = [{ location = "a" }] }
"""
CLIENT, OTHER, FRONT = (Inet(host, 1) for host in ("192.0.2.7", "192.0.2.8", "10.0.0.1"))


class Alive:
    def __init__(self, host: str) -> None:
        self.client_host, self.aborted = host, False

    def abort(self, reason: str = "") -> None:
        self.aborted = True


class World:
    def __init__(self, folder: Path) -> None:
        self.folder, self.clock, self.journal = folder, Clock(), Journal()
        self.clock.advance(1_800_000_000)
        self.alive: list[Alive] = []
        self.guards = Guards(self.clock, self.journal, lambda: self.alive, MultiService())  # type: ignore[arg-type]

    def config(self, text: str) -> Configuration:
        return parse("listen_port = 80\nlisten_port_tls = 443\n" + text, str(self.folder / "x.toml"))

    def build(self, text: str) -> Guarding:
        return self.guards.build(self.config(text), LISTENERS)

    def use(self, text: str) -> Guarding:
        built = self.build(text)
        self.guards.use(built)
        return built


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def told(what: Any, *arguments: Any) -> str:
    try:
        what(*arguments)
    except Refusal as refusal:
        return refusal.reason
    return ""


def test_where_nothing_is_configured_nobody_is_asked(world: World) -> None:
    built = world.use(SITE + STREAM)
    assert (built.listeners, built.apps, built.requests, built.jails) == ({}, {}, None, None)
    assert built.journal is world.journal  # type: ignore[comparison-overlap]
    routes: Any = {"a.test": object(), "b.test": object(), "s.test": object()}
    assert built.routes(world.config(SITE + STREAM), routes) == routes
    assert built.route("stream", routes["s.test"]) is routes["s.test"]


def test_lists_for_all_are_at_every_listener(world: World) -> None:
    built = world.use('allow = ["192.0.2.0/24"]\ndeny = "192.0.2.8"\n' + SITE)
    assert list(built.listeners) == LISTENERS
    for gate in built.listeners.values():
        assert [told(gate.check, each) for each in (CLIENT, OTHER, FRONT)] == ["", "denied", "denied"]
    assert built.requests is None


def test_a_proxy_that_speaks_for_others_may_connect_and_its_clients_are_asked(world: World) -> None:
    built = world.use('allow = ["192.0.2.7"]\ntrusted_forwarded_proxies = "10.0.0.0/8"\n' + SITE)
    assert told(built.listeners["tcp:443"].check, FRONT) == ""
    assert built.requests is not None
    facts = ClientFacts(FRONT, https=True, port=443, trusted=NetworkSet(["10.0.0.0/8"]))
    for client, reason in (("192.0.2.7", ""), ("192.0.2.8", "denied")):
        spoken_for = Headers([(b"X-Forwarded-For", client.encode())])
        assert told(built.requests.client, facts, spoken_for) == reason


def test_clouds_may_be_named(world: World) -> None:
    built = world.use('allow = "cloudflare"\n' + SITE)
    assert told(built.listeners["tcp:443"].check, Inet("104.16.0.1", 1)) == ""
    assert told(built.listeners["tcp:443"].check, CLIENT) == "denied"


def test_each_listener_counts_for_itself(world: World) -> None:
    built = world.use("rate_limit.max_connections = 1\n" + SITE)
    for name in LISTENERS:
        assert told(built.listeners[name].count, CLIENT, Lease()) == ""
        assert told(built.listeners[name].count, CLIENT, Lease()) == "too_many"
    assert sorted(world.guards.limiters) == ["rate_limit on tcp:443", "rate_limit on tcp:80"]


class Route_:
    def buildProtocol(self, arrival: Arrival) -> str:
        return "built"


def test_an_app_s_gate_is_before_all_its_names_and_no_others(world: World) -> None:
    text = SITE.replace("tls.", 'deny = "192.0.2.8"\nrate_limit.max_connections = 1\ntls.') + STREAM
    built, route = world.use(text), Route_()
    routes: Any = built.routes(world.config(text), dict.fromkeys(("a.test", "b.test", "s.test"), route))  # type: ignore[misc]
    assert routes["s.test"] is route
    reasons = [
        told(routes[name].buildProtocol, Arrival("l", client, client))
        for name, client in (("a.test", OTHER), ("a.test", CLIENT), ("b.test", CLIENT))
    ]
    assert reasons == ["denied", "", "too_many"]


def test_an_app_that_others_are_led_to_by_default_keeps_its_gate(world: World) -> None:
    built = world.use(STREAM.replace("pass", 'deny = "192.0.2.8"\npass'))
    route: Any = built.route("stream", Route_())  # type: ignore[arg-type]
    assert told(route.buildProtocol, Arrival("l", OTHER, OTHER)) == "denied"


def test_requests_are_asked_about_by_app_and_path(world: World) -> None:
    text = """
    [apps.site]
    server_name = "a.test"
    tls.self_signed = true
    deny = "192.0.2.8"
    request_limit = { capacity = 3, fill_rate = 60 }
    [[apps.site.reverse_proxy]]
    location = "a"
    [[apps.site.reverse_proxy]]
    path = "/login/"
    location = "b"
    request_limit = { capacity = 1, fill_rate = 60 }
    """
    built = world.use(text)
    assert built.requests is not None
    site: Any = Site("site", PathTable({}))
    login, rest = (replace(ROUTE, prefix=prefix) for prefix in (b"/login", b"/"))
    admit = built.requests.admit
    assert told(admit, "192.0.2.8", site, rest) == "denied"
    reasons = [told(admit, "192.0.2.7", site, route) for route in (login, login, rest, rest, rest)]
    assert reasons == ["", "rate_limited", "", "", "rate_limited"]
    assert sorted(world.guards.limiters) == ["apps.site /login request_limit", "apps.site.request_limit"]


JAIL = '[[jail]]\nmatch = "status 401"\nrate = "1/1m"\nban = "1h"\n'


@pytest.mark.parametrize(
    "text",
    ['ban_list = "bans.txt"\n' + SITE, 'admin_socket = "s"\n' + SITE, SITE + JAIL],
    ids=["list", "admin", "jail"],
)
def test_whoever_can_be_banned_is_asked_about(world: World, text: str) -> None:
    built = world.use(text)
    world.guards.bans.ban("192.0.2.7")
    for gate in built.listeners.values():
        assert [told(gate.check, each) for each in (CLIENT, OTHER)] == ["banned", ""]
    assert built.requests is None
    assert world.build("trusted_forwarded_proxies = '10.0.0.1'\n" + text).requests is not None


def test_the_connections_of_who_is_banned_end(world: World) -> None:
    world.use('ban_list = "bans.txt"\n' + SITE)
    world.alive = [Alive("192.0.2.7"), Alive("192.0.2.8")]
    world.guards.bans.ban("192.0.2.7")
    world.clock.advance(0)
    assert [each.aborted for each in world.alive] == [True, False]


def test_a_ban_list_with_mistakes_is_refused(world: World) -> None:
    (world.folder / "bans.txt").write_text("nobody\n")
    with pytest.raises(ConfigError, match=r"bans\.txt:1:1: 'nobody' is no network"):
        world.build('ban_list = "bans.txt"\n' + SITE)


def test_jails_hear_of_connections_and_never_ban_a_proxy_in_front(world: World) -> None:
    jail = '[[jail]]\nmatch = "reason not_tls,too_many"\nrate = "1/1m"\nban = "1h"\n'
    front = 'accept_proxy_protocol.from = "10.0.0.0/8"\nrate_limit.max_connections = 1\n'
    built = world.use(front + SITE + jail)
    facts: dict[str, Any] = {"app": "-", "peer": "-", "received": 0, "sent": 0, "seconds": 0.0}
    for client in (FRONT, FRONT, FRONT, CLIENT, CLIENT):
        built.journal.ended(Arrival("l", client, client), **facts, reason="not_tls")
    assert len(world.journal.ends) == 5
    assert world.guards.bans.listed(9) == ["192.0.2.7 2027-01-15T09:00:00Z # jail: reason not_tls,too_many"]
    gate = built.listeners["tcp:443"]
    for _ in range(2):
        gate.turned_away(OTHER, _refusal(gate))
    assert world.guards.bans.banned("192.0.2.8")


def _refusal(gate: Any) -> Refusal:
    try:
        for _ in range(2):
            gate.count(OTHER, Lease())
    except Refusal as refusal:
        return refusal
    raise AssertionError


def test_counts_outlive_a_reload_and_what_is_refused_changes_nothing(world: World) -> None:
    limit = "rate_limit = { capacity = 1, fill_rate = 60 }\n"
    gate = world.use(limit + SITE).listeners["tcp:443"]
    assert told(gate.count, CLIENT, Lease()) == ""
    world.build(limit.replace("1", "9") + SITE)  # and something else in it was wrong
    assert world.guards.limiters["rate_limit on tcp:443"].allowance == Allowance(1, 60.0)
    gate = world.use(limit.replace("60", "30") + SITE).listeners["tcp:443"]
    assert told(gate.count, CLIENT, Lease()) == "rate_limited"
    assert world.guards.limiters["rate_limit on tcp:443"].allowance == Allowance(1, 30.0)
    world.use(SITE)
    assert world.guards.limiters == {}


def test_jails_that_stay_count_on_after_a_reload(world: World) -> None:
    jail = '[[jail]]\nmatch = "reason not_tls"\nrate = "1/1m"\nban = "1h"\n'
    facts: dict[str, Any] = {"app": "-", "peer": "-", "received": 0, "sent": 0, "seconds": 0.0}
    for _ in range(2):
        built = world.use(SITE + jail)
        built.journal.ended(Arrival("l", CLIENT, CLIENT), **facts, reason="not_tls")
    assert world.guards.bans.banned("192.0.2.7")
