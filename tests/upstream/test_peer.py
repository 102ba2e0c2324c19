"""Peers know where they are and whether they were reachable; a group shows the balancer the right ones."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.errors import NoPeer, PeerTimeout, PeerUnreachable, Refusal
from rproxy.upstream.http_client import HttpPeer
from rproxy.upstream.peer import DOWN_FOR, Group, Peer, target_of
from rproxy.wire.message import BadResponse
from tests.fakes import LogLines


class First:
    """A balancer that remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: list[list[str]] = []

    def pick(self, candidates: Sequence[Any], client: str) -> Any:
        self.shown.append([peer.name for peer in candidates])
        return candidates[0]


class Names:
    def __init__(self) -> None:
        self.addresses: tuple[str, ...] = ()

    def known(self, host: str) -> tuple[str, ...]:
        return self.addresses


def three() -> tuple[Group, First, list[Peer]]:
    balancer, peers = First(), [Peer(name) for name in "abc"]
    return Group(peers, balancer), balancer, peers


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("192.0.2.1", (socket.AF_INET, ("192.0.2.1", 443))),
        ("2001:db8::1", (socket.AF_INET6, ("2001:db8::1", 443, 0, 0))),
        ("fe80::1%7", (socket.AF_INET6, ("fe80::1", 443, 0, 7))),
        ("fe80::1%lo", (socket.AF_INET6, ("fe80::1", 443, 0, socket.if_nametoindex("lo")))),
    ],
)
def test_a_target_is_what_connect_takes(host: str, target: object) -> None:
    assert target_of(host, 443) == target


@pytest.mark.parametrize("zone", ["nonesuch0", "²"])
def test_an_interface_that_is_not_there_is_an_error(zone: str) -> None:
    with pytest.raises(OSError):
        target_of(f"fe80::1%{zone}", 443)


def test_fixed_targets_are_given_as_they_are() -> None:
    peer = Peer("unix:/a", fixed=[(socket.AF_UNIX, "/a")])
    assert (peer.targets(), peer.host) == (((socket.AF_UNIX, "/a"),), "")


def test_a_name_has_targets_once_it_has_addresses_and_they_follow_it() -> None:
    names: Any = Names()
    peer = Peer("db:5432", host="db", port=5432, names=names)
    assert peer.targets() == ()
    names.addresses = ("10.0.0.2", "2001:db8::2")
    wanted = ((socket.AF_INET, ("10.0.0.2", 5432)), (socket.AF_INET6, ("2001:db8::2", 5432, 0, 0)))
    assert peer.targets() == wanted
    assert peer.targets() is peer.targets(), "made once per answer"
    names.addresses = ("10.0.0.3",)
    assert peer.targets() == ((socket.AF_INET, ("10.0.0.3", 5432)),)


def test_a_group_of_none_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least one peer"):
        Group([], First())


def test_each_peer_is_tried_once() -> None:
    group, _, peers = three()
    tried: list[Peer] = []
    while (peer := group.pick("", tried, 0.0)) is not None:
        tried.append(peer)
    assert tried == peers


def test_a_single_peer_is_tried_even_when_it_is_down() -> None:
    peer = Peer("a")
    group = Group([peer], First())
    peer.failed(0.0, "refused")
    assert group.pick("", [], 0.0) is peer
    assert group.pick("", [peer], 0.0) is None


def test_a_peer_that_failed_is_left_out_until_its_time_is_over() -> None:
    group, balancer, peers = three()
    peers[0].failed(100.0, "refused")
    for now in (100.0, 100.0 + DOWN_FOR - 0.01, 100.0 + DOWN_FOR):
        group.pick("", [], now)
    assert balancer.shown == [["b", "c"], ["b", "c"], ["a", "b", "c"]]


def test_peers_that_are_down_are_the_last_resort() -> None:
    group, balancer, peers = three()
    peers[0].failed(0.0, "refused")
    peers[1].failed(0.0, "refused")
    assert group.pick("", [peers[2]], 1.0) is peers[0]
    assert balancer.shown == [["a", "b"]]


def test_success_brings_a_peer_back_at_once() -> None:
    group, balancer, peers = three()
    peers[0].failed(0.0, "refused")
    peers[0].succeeded()
    group.pick("", [], 0.1)
    assert balancer.shown == [["a", "b", "c"]]


def test_only_news_is_logged() -> None:
    peer = Peer("10.0.0.1:443")
    with LogLines() as log:
        peer.succeeded()
        peer.failed(0.0, "Connection refused")
        peer.failed(50.0, "Connection refused")
        peer.succeeded()
        peer.succeeded()
    assert log.texts("rproxy.upstream.peer") == [
        "peer 10.0.0.1:443 is down: Connection refused",
        "peer 10.0.0.1:443 is up again",
    ]


def test_so_many_failures_within_the_time_take_a_peer_down() -> None:
    peer = Peer("a", max_fails=3, fail_timeout=30.0)
    for now in (0.0, 10.0):
        peer.failed(now, "refused")
    assert peer.down_until < 0
    peer.failed(29.0, "refused")
    assert peer.down_until == 59.0


def test_failures_that_are_long_ago_do_not_count() -> None:
    peer = Peer("a", max_fails=2, fail_timeout=5.0)
    for now in (0.0, 6.0, 12.0):
        peer.failed(now, "refused")
    assert peer.down_until < 0


def test_a_peer_without_a_limit_is_never_down() -> None:
    peer = Peer("a", max_fails=0)
    with LogLines() as log:
        for _ in range(9):
            peer.failed(0.0, "refused")
    assert peer.down_until < 0
    assert log.texts("rproxy.upstream.peer") == []


def test_unhealthy_peers_are_left_out() -> None:
    group, balancer, peers = three()
    peers[1].healthy = False
    peers[2].failed(0.0, "refused")
    group.pick("", [], 0.0)
    peers[0].healthy = False
    group.pick("", [], 0.0)
    assert balancer.shown == [["a"], ["c"]], "one that is down goes before one that is unhealthy"


def test_where_all_are_unhealthy_they_are_picked_from_as_if_none_were() -> None:
    group, balancer, peers = three()
    for peer in peers:
        peer.healthy = False
    peers[1].failed(0.0, "refused")
    group.pick("", [], 0.0)
    assert balancer.shown == [["a", "c"]]


def test_an_http_peer_is_trusted_again_by_a_response_once_its_time_is_over() -> None:
    peer = HttpPeer("a", authority=b"a", fail_timeout=10.0)
    peer.failed(0.0, "it did not answer in time")
    peer.succeeded()
    peer.answered(9.0)
    assert peer.down_until == 10.0, "accepting is no answer, and others may have been asked before"
    peer.answered(10.0)
    assert peer.down_until < 0


# -- a group of peers that are well is not sifted, and that shows in nothing but the time it takes

STEPS = st.tuples(
    st.sampled_from(["fail", "succeed", "unhealthy", "healthy", "wait", "pick", "pick again"]),
    st.integers(0, 3),
)


def shown(peers: Sequence[Peer], tried: Sequence[Peer], now: float) -> list[str]:
    """Whom a balancer has to see, worked out anew."""
    untried = [peer for peer in peers if peer not in tried]
    for pool in ([peer for peer in untried if peer.healthy], untried):
        up = [peer for peer in pool if peer.down_until <= now]
        if pool:
            return [peer.name for peer in (up or pool)]
    return []


@given(st.integers(2, 4), st.lists(STEPS, max_size=40))
def test_whatever_happens_to_peers_the_right_ones_are_shown(count: int, steps: list[tuple[str, int]]) -> None:
    balancer, peers, now = First(), [Peer(str(n), fail_timeout=3.0) for n in range(count)], 0.0
    group = Group(peers, balancer)
    for step, which in steps:
        peer = peers[which % count]
        match step:
            case "fail":
                peer.failed(now, "refused")
            case "succeed":
                peer.succeeded()
            case "unhealthy" | "healthy":
                peer.healthy = step == "healthy"
            case "wait":
                now += which
            case _:
                tried = [peer] if step == "pick again" else []
                group.pick("", tried, now)
                assert balancer.shown.pop() == shown(peers, tried, now)


def test_while_all_are_well_balancers_are_shown_one_tuple() -> None:
    """They remember what they worked out for it."""
    same: list[Any] = []

    class Remembering(First):
        def pick(self, candidates: Sequence[Any], client: str) -> Any:
            same.append(candidates)
            return candidates[0]

    peers = [Peer(name) for name in "abc"]
    group = Group(peers, Remembering())
    peers[1].failed(0.0, "refused")
    for now in (0.0, DOWN_FOR, DOWN_FOR + 1.0):
        group.pick("", [], now)
    assert [len(shown) for shown in same] == [2, 3, 3]
    assert same[1] is same[2] is group.peers


# -- how a search that failed is called

REFUSED = PeerUnreachable("Connection refused", 111)


@pytest.mark.parametrize(
    ("tried", "down", "unhealthy", "kind"),
    [
        ("abc", "", "", NoPeer),
        ("ab", "c", "", NoPeer),
        ("ab", "", "c", NoPeer),
        ("", "ab", "c", NoPeer),
        ("ab", "", "", PeerUnreachable),
        ("", "ab", "", PeerUnreachable),
    ],
)
def test_no_peer_is_left_where_each_was_tried_or_is_known_to_be_bad(
    tried: str, down: str, unhealthy: str, kind: type[Refusal]
) -> None:
    group, _, peers = three()
    for peer in peers:
        peer.healthy = peer.name not in unhealthy
        if peer.name in down:
            peer.failed(0.0, "refused")
    verdict = group.verdict(REFUSED, [peer for peer in peers if peer.name in tried], 1.0)
    assert isinstance(verdict, PeerUnreachable)
    assert (type(verdict), str(verdict), verdict.code) == (kind, "Connection refused", 111)


def test_a_peer_whose_time_is_over_may_be_well() -> None:
    group, _, peers = three()
    peers[2].failed(0.0, "refused")
    assert group.verdict(REFUSED, peers[:2], DOWN_FOR) is REFUSED


def test_a_single_peer_is_what_it_is() -> None:
    peer = Peer("a")
    peer.failed(0.0, "refused")
    peer.healthy = False
    assert Group([peer], First()).verdict(REFUSED, [peer], 1.0) is REFUSED


@pytest.mark.parametrize(("last", "kind"), [(PeerTimeout("late"), NoPeer), (BadResponse("cut"), BadResponse)])
def test_what_a_peer_that_was_reached_did_is_told_as_it_is(last: Refusal, kind: type[Refusal]) -> None:
    group, _, peers = three()
    assert type(group.verdict(last, peers, 0.0)) is kind
