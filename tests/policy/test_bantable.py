"""Who is banned is found whatever form it has; nobody else is, and looking costs little."""

from __future__ import annotations

import ipaddress
import socket
from random import Random
from timeit import repeat
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.policy.bantable import EVER, MOST_KNOWN, BanTable, client_network, read_network

NOW = 1_800_000_000.0


def table(*networks: str, until: float = EVER) -> BanTable:
    made = BanTable()
    for network in networks:
        made.add(read_network(network), until)
    made.settle()
    return made


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7/32", "192.0.2.7"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8:0::/32", "2001:db8::/32"),
        ("2001:db8::1/128", "2001:db8::1"),
        ("::/0", "::/0"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7/128", "192.0.2.7"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:c000:207", "192.0.2.7"),
    ],
)
def test_networks_have_one_form(written: str, canonical: str) -> None:
    found = read_network(written)
    assert found.text == canonical
    expected = ipaddress.ip_network(canonical)
    assert (found.first, found.last) == (int(expected[0]), int(expected[-1]))


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("example.org", "is no network"),
        ("", "is no network"),
        ("192.0.2.7.8", "is no network"),
        ("192.0.2.07", "is no network"),
        ("10.0.0.0/33", "from 0 to 32"),
        ("10.0.0.0/", "from 0 to 32"),
        ("10.0.0.0/08", "from 0 to 32"),
        ("10.0.0.0/-1", "from 0 to 32"),
        ("10.0.0.0/+8", "from 0 to 32"),
        ("10.0.0.0/ 8", "from 0 to 32"),
        ("10.0.0.0/٨", "from 0 to 32"),
        ("10.0.0.1/8", "write 10.0.0.0/8"),
        ("2001:db8::1/64", "write 2001:db8::/64"),
        ("fe80::1%eth0", "is no network"),
        ("::ffff:10.0.0.0/95", "wider"),
        ("unix", "no address"),
        ("192.0.2.7\0", "is no network"),
    ],
)
def test_what_is_no_network_is_refused_with_what_to_write(wrong: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        read_network(wrong)


@pytest.mark.parametrize(
    ("network", "host", "banned"),
    [
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.8", False),
        ("10.0.0.0/8", "10.255.255.255", True),
        ("10.0.0.0/8", "11.0.0.0", False),
        ("2001:db8::/32", "2001:db8:ffff::1", True),
        ("2001:db8::/64", "2001:db8::1", True),
        ("2001:db8::/64", "2001:db8:0:1::1", False),
        ("2001:db8::1", "2001:db8::1", True),
        ("2001:db8::1", "2001:db8::2", False),
        ("fe80::/64", "fe80::1%eth0", True),
        ("fe80::1", "fe80::1%eth0", True),
        ("192.0.2.7", "::ffff:192.0.2.7", True),
        ("0.0.0.0/0", "192.0.2.7", True),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("::/0", "2001:db8::1", True),
        ("192.0.2.7", "", False),
    ],
)
def test_the_look_up(network: str, host: str, banned: bool) -> None:
    assert table(network).bans(host, NOW) == banned


def test_what_is_remembered_ends_with_the_next_ban() -> None:
    it, (one, other) = table("198.51.100.1"), ("192.0.2.7", "192.0.2.8")
    assert not it.bans(one, NOW)
    assert it.is_unsaid(one)
    it.add(read_network("192.0.2.7"), EVER)
    assert it.bans(one, NOW)
    assert not it.is_unsaid(one)
    assert not it.bans(other, NOW)
    it.add(read_network("192.0.2.0/24"), EVER)
    assert not it.bans(other, NOW)
    it.settle()
    assert it.bans(other, NOW)


def test_a_ban_that_is_over_is_not_remembered_as_none() -> None:
    it = table("192.0.2.7", until=NOW)
    assert not it.bans("192.0.2.7", NOW)
    assert not it.is_unsaid("192.0.2.7")


def test_few_addresses_are_remembered() -> None:
    it = table("198.51.100.1")
    for number in range(3 * MOST_KNOWN):
        assert not it.bans(f"10.0.{number >> 8}.{number & 255}", NOW)
    assert len(it._unsaid) <= MOST_KNOWN


def test_nobody_is_banned_where_there_are_no_bans() -> None:
    assert not table().bans("192.0.2.7", NOW)


@pytest.mark.parametrize(
    ("network", "host"),
    [("192.0.2.7", "192.0.2.7"), ("2001:db8::/64", "2001:db8::5"), ("2001:db8::5", "2001:db8::5")],
)
def test_a_ban_ends_to_the_second(network: str, host: str) -> None:
    it = table(network, until=NOW + 10)
    assert it.bans(host, NOW + 9.99)
    assert not it.bans(host, NOW + 10)


def test_the_end_of_a_ban_is_known() -> None:
    it = table("192.0.2.7", until=NOW + 10)
    it.add(read_network("10.0.0.0/8"), NOW + 5)
    it.add(read_network("10.6.6.6"), EVER)
    assert it.next_end == NOW + 5
    assert it.over(NOW + 5) == ["10.0.0.0/8"]
    assert it.until("192.0.2.7") == NOW + 10
    assert table().next_end == EVER


@pytest.mark.parametrize(
    "network", ["192.0.2.7", "10.0.0.0/8", "2001:db8::/64", "2001:db8::/48", "2001:db8::1"]
)
def test_a_ban_that_is_lifted_is_lifted(network: str) -> None:
    it, host = table(network), network.partition("/")[0]
    assert it.bans(host, NOW)
    assert it.remove(read_network(network))
    it.settle()
    assert not it.bans(host, NOW)
    assert not it.remove(read_network(network))
    assert len(it) == 0


def test_a_network_inside_another_keeps_its_own_ban() -> None:
    it = table("10.0.0.0/8", "10.1.0.0/16", "10.1.1.1", "2001:db8::/32", "2001:db8::/64")
    it.remove(read_network("10.0.0.0/8"))
    it.remove(read_network("2001:db8::/32"))
    it.settle()
    hosts = ["10.1.2.3", "10.1.1.1", "10.2.0.0", "2001:db8::1", "2001:db8:1::1"]
    assert [it.bans(host, NOW) for host in hosts] == [True, True, False, True, False]


def test_a_second_ban_replaces_the_first() -> None:
    it = table("192.0.2.7", "10.0.0.0/8")
    it.add(read_network("192.0.2.7"), NOW + 1)
    it.add(read_network("10.0.0.0/8"), NOW + 1)
    assert len(it) == 2
    assert not it.bans("192.0.2.7", NOW + 1)
    assert set(it.over(NOW + 1)) == {"192.0.2.7", "10.0.0.0/8"}


addresses = st.one_of(
    st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address),
    st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address).filter(lambda a: a.ipv4_mapped is None),
)
near = st.sampled_from([ipaddress.IPv4Address(0x0A000000 + n) for n in range(64)])


@given(
    networks=st.lists(st.tuples(st.one_of(addresses, near), st.integers(0, 128)), max_size=20),
    hosts=st.lists(st.one_of(addresses, near), max_size=20),
    removed=st.sets(st.integers(0, 19)),
)
def test_it_agrees_with_the_standard_library(networks, hosts, removed) -> None:  # type: ignore[no-untyped-def]
    made = [ipaddress.ip_network((a, min(p, a.max_prefixlen)), strict=False) for a, p in networks]
    it = table(*map(str, made))
    for index in removed:
        if index < len(made):
            it.remove(read_network(str(made[index])))
    it.settle()
    left = {str(net) for net in made} - {str(made[i]) for i in removed if i < len(made)}
    kept = [ipaddress.ip_network(text) for text in left]
    for host in [*hosts, *(net[0] for net in made), *(net[-1] for net in made)]:
        if getattr(host, "ipv4_mapped", None) is not None:  # IPv4 to us, whatever network it ends
            continue
        banned = any(host in net for net in kept if net.version == host.version)
        assert it.bans(as_sockets_do(host), NOW) == banned


def as_sockets_do(host: Any) -> str:
    """Not always as the standard library writes it: ::1:0 is ::0.1.0.0 here."""
    return socket.inet_ntop(socket.AF_INET6 if host.version == 6 else socket.AF_INET, host.packed)


def test_an_address_that_sockets_write_in_two_forms_is_one() -> None:
    assert table("::1:0").bans(as_sockets_do(ipaddress.ip_address("::1:0")), NOW)


def test_100_000_networks_cost_a_look_up_next_to_nothing() -> None:
    """1 µs on an idle machine, where the limit is 2; a search through all of them would take milliseconds."""
    it, rng = BanTable(), Random(1)
    while len(it) < 100_000:
        length = rng.randrange(16, 33)
        first = rng.getrandbits(length) << 32 - length
        it.add(read_network(f"{socket.inet_ntoa(first.to_bytes(4, 'big'))}/{length}"), EVER)
    it.settle()
    hosts = [
        f"127.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(256)}" for _ in range(2 * MOST_KNOWN)
    ]
    seconds = min(repeat(lambda: [it.bans(host, NOW) for host in hosts], number=1, repeat=5))
    assert seconds / len(hosts) < 20e-6


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:0:1:2:3:4:5", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_a_client_is_an_address_or_a_64(host: str, network: str) -> None:
    assert client_network(host) == network
    assert read_network(network).text == network
    assert table(network).bans(host, NOW)
