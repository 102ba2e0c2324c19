"""Jails ban who goes beyond the rate, in the form that catches him, and never a proxy in front of us."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock

from rproxy.errors import TooMany
from rproxy.interfaces import Arrival
from rproxy.policy.bucket import Allowance
from rproxy.policy.forwarding import ClientFacts
from rproxy.policy.networks import NetworkSet
from rproxy.services.bans import Bans
from rproxy.services.jails import Jails, Terms, Watched
from rproxy.wire.address import Address, Inet, Unix
from rproxy.wire.message import Headers
from tests.fakes import Journal, LogLines

CLIENT, FRONT = Inet("192.0.2.7", 1234), Inet("10.0.0.1", 1234)
NOBODY = NetworkSet()


def terms(
    statuses: set[int] | frozenset[int] = frozenset(),
    reasons: set[str] | frozenset[str] = frozenset(),
    apps: set[str] | frozenset[str] = frozenset(),
    *,
    most: int = 2,
    ignore: NetworkSet = NOBODY,
) -> Terms:
    allowance = Allowance(most, 60.0 / most)
    return Terms("it", frozenset(statuses), frozenset(reasons), frozenset(apps), allowance, 3600.0, ignore)


class World:
    def __init__(self, *jails: Terms, never: tuple[NetworkSet, ...] = ()) -> None:
        self.clock = Clock()
        self.clock.advance(1_800_000_000)
        self.bans = Bans(self.clock)
        self.jails = Jails(self.clock, self.bans, jails, never)

    def asked(self, status: int, reason: str = "ok", app: str = "site", client: Address = CLIENT) -> None:
        facts = ClientFacts(client, https=True, port=443, trusted=NetworkSet())
        self.jails.request(facts, Headers([]), status, reason, app)

    @property
    def banned(self) -> list[str]:
        return self.bans.listed(10)


def test_who_goes_beyond_the_rate_is_banned_for_the_time() -> None:
    world = World(terms({401, 403}))
    for status in (401, 403):
        world.asked(status)
    assert world.banned == []
    world.asked(401)
    assert world.banned == ["192.0.2.7 2027-01-15T09:00:00Z # jail: it"]
    world.clock.advance(3600)
    assert world.banned == []


def test_who_keeps_to_the_rate_is_not() -> None:
    world = World(terms({401}))
    for _ in range(100):
        world.asked(401)
        world.clock.advance(30)
    assert world.banned == []


def test_what_does_not_match_does_not_count() -> None:
    world = World(terms({401}, {"not_tls"}, most=1))
    for _ in range(5):
        world.asked(200)
        world.asked(404, "no_route")
        world.jails.connection(CLIENT, "closed", "site")
    assert world.banned == []


def test_a_jail_may_be_for_some_apps() -> None:
    world = World(terms({401}, apps={"shop"}, most=1))
    for _ in range(5):
        world.asked(401, app="site")
    assert world.banned == []
    for _ in range(2):
        world.asked(401, app="shop")
    assert len(world.banned) == 1


def test_reasons_of_requests_and_of_connections_count_together() -> None:
    world = World(terms(reasons={"no_route", "not_tls"}))
    world.asked(404, "no_route")
    world.jails.connection(CLIENT, "not_tls", "-")
    world.jails.turned_away(Inet("192.0.2.7", 99), TooMany("x"))
    assert world.banned == []
    world.jails.connection(CLIENT, "not_tls", "-")
    assert len(world.banned) == 1


def test_connections_that_were_closed_at_once_count() -> None:
    world = World(terms(reasons={"too_many"}, most=1))
    for _ in range(2):
        world.jails.turned_away(CLIENT, TooMany("x"))
    assert len(world.banned) == 1


def test_an_ipv6_client_is_banned_with_all_its_addresses() -> None:
    world = World(terms({401}))
    for number in range(3):
        world.asked(401, client=Inet(f"2001:db8:0:1::{number + 1}", 1))
    assert world.bans.banned("2001:db8:0:1:ffff::1")
    assert not world.bans.banned("2001:db8:0:2::1")


@pytest.mark.parametrize("spared", ["2001:db8:0:1::100", "2001:db8:0:1:8000::/65", "2001:db8::/48"])
@pytest.mark.parametrize("how", ["ignored", "a proxy in front"])
def test_beside_who_may_not_be_banned_it_is_the_address_alone(spared: str, how: str) -> None:
    networks = NetworkSet([spared])
    world = World(
        terms({401}, most=1, ignore=networks if how == "ignored" else NOBODY),
        never=() if how == "ignored" else (networks,),
    )
    host = "2001:db8:0:1::bad"
    for _ in range(2):
        world.asked(401, client=Inet(host, 1))
    if host in networks:
        assert world.banned == []
    else:
        assert [line.split()[0] for line in world.banned] == [host]
    assert not world.bans.banned("2001:db8:0:1::100")
    assert not world.bans.banned("2001:db8:0:1:8000::1")


def test_who_is_ignored_is_never_banned() -> None:
    world = World(terms({401}, most=1, ignore=NetworkSet(["192.0.2.0/24"])))
    for _ in range(5):
        world.asked(401)
    assert world.banned == []


@pytest.mark.parametrize("reason", ["bad_proxy_header", "too_slow"])
def test_a_proxy_in_front_is_never_banned(reason: str) -> None:
    world = World(terms(reasons={reason}, most=1), never=(NetworkSet(), NetworkSet(["10.0.0.0/8"])))
    for _ in range(5):
        world.jails.connection(FRONT, reason, "-")
    assert world.banned == []


def test_the_real_client_of_a_trusted_proxy_is() -> None:
    world = World(terms({401}), never=(NetworkSet(["10.0.0.0/8"]),))
    facts = ClientFacts(FRONT, https=True, port=443, trusted=NetworkSet(["10.0.0.0/8"]))
    spoken_for = Headers([(b"X-Forwarded-For", b"192.0.2.7")])
    for _ in range(3):
        world.jails.request(facts, spoken_for, 401, "ok", "site")
        world.jails.request(facts, None, 401, "ok", "site")
    assert len(world.banned) == 1
    assert world.bans.banned("192.0.2.7")


def test_nobody_on_a_unix_socket_is_counted() -> None:
    world = World(terms({401}, {"not_tls"}, most=1))
    for _ in range(5):
        world.asked(401, client=Unix(b"/x"))
        world.jails.connection(Unix(b"/x"), "not_tls", "-")
    assert world.banned == []


def test_what_a_banned_client_is_told_is_no_new_offence() -> None:
    world = World(terms({403}, most=1))
    for _ in range(5):
        world.asked(403, "banned")
    assert world.banned == []


def test_requests_that_were_under_way_do_not_prolong_a_ban() -> None:
    world = World(terms({401}))
    for _ in range(3):
        world.asked(401)
    first = world.banned
    world.clock.advance(10)
    for _ in range(3):
        world.asked(401)
    assert world.banned == first


def test_a_ban_stands_in_the_log() -> None:
    world = World(terms({401}))
    with LogLines() as lines:
        for _ in range(3):
            world.asked(401)
    (event,) = lines.events
    assert (event["client"], event["seconds"], event["name"]) == ("192.0.2.7", 3600.0, "it")


def test_a_reload_counts_on_in_jails_that_stay() -> None:
    world, one, other = World(terms({401})), terms({401}), terms({403})
    for _ in range(2):
        world.asked(401)
    world.jails = Jails(world.clock, world.bans, [one, other], (), world.jails)
    world.asked(403)
    assert world.banned == []
    world.asked(401)
    assert len(world.banned) == 1


def test_the_connection_log_is_written_as_without_jails() -> None:
    world, journal = World(terms(reasons={"not_tls"}, most=1)), Journal()
    flushed: list[int] = []
    it = Watched(journal, world.jails)
    facts: dict[str, Any] = {"app": "a", "peer": "p", "received": 1, "sent": 2, "seconds": 0.5}
    arrival = Arrival("l", CLIENT, CLIENT)
    for _ in range(2):
        it.ended(arrival, **facts, reason="not_tls")
    assert [(end.arrival, end.app, end.peer, end.sent) for end in journal.ends] == [
        (arrival, "a", "p", 2)
    ] * 2
    assert len(world.banned) == 1
    journal.flush = lambda: flushed.append(1)  # type: ignore[attr-defined]
    it.flush()
    assert flushed == [1]


def test_each_jail_tells_what_it_is_for_and_whom_it_has_an_eye_on() -> None:
    world = World(terms({401}, apps={"shop", "site"}), terms(reasons={"not_tls"}))
    world.asked(401)
    assert world.jails.told() == [
        {"name": "it", "apps": ["shop", "site"], "most": 2, "within": 60.0, "seconds": 3600.0, "clients": 1},
        {"name": "it", "apps": [], "most": 2, "within": 60.0, "seconds": 3600.0, "clients": 0},
    ]
