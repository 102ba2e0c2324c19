"""Network sets, against the standard library's ipaddress as the oracle."""

import dataclasses
import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.policy.networks import LOOPBACK, NetworkSet


@pytest.mark.parametrize(
    ("entry", "inside", "outside"),
    [
        ("10.0.0.0/8", ["10.0.0.0", "10.255.255.255"], ["9.255.255.255", "11.0.0.0", "::a00:1"]),
        ("192.0.2.7", ["192.0.2.7"], ["192.0.2.6", "192.0.2.8"]),
        ("192.0.2.7/32", ["192.0.2.7"], ["192.0.2.6", "192.0.2.8"]),
        ("0.0.0.0/0", ["0.0.0.0", "255.255.255.255", "::ffff:1.2.3.4"], ["::", "::1"]),
        ("2001:db8::/32", ["2001:db8::", "2001:db8:ffff::1"], ["2001:db7::1", "2001:db9::"]),
        ("::1", ["::1"], ["::", "::2", "0.0.0.1"]),
        ("::/0", ["::", "::1", "ffff::"], ["1.2.3.4", "::ffff:1.2.3.4"]),
        ("::ffff:10.0.0.0/104", ["10.1.2.3", "::ffff:10.1.2.3"], ["11.0.0.0"]),
        ("::ffff:192.0.2.7", ["192.0.2.7"], ["192.0.2.8"]),
        ("fe80::/10", ["fe80::1%eth0", "fe80::1"], ["fec0::1%eth0"]),
    ],
)
def test_set_has_the_network_and_nothing_beside_it(entry: str, inside: list[str], outside: list[str]) -> None:
    networks = NetworkSet([entry])
    assert [host for host in inside if host not in networks] == []
    assert [host for host in outside if host in networks] == []


def test_ipv4_mapped_address_is_ipv4_in_either_spelling() -> None:
    networks = NetworkSet(["192.0.2.0/24"])
    assert "::ffff:192.0.2.7" in networks
    assert "::ffff:c000:207" in networks
    assert "::ffff:198.51.100.7" not in networks


@pytest.mark.parametrize(
    "host",
    [
        "",
        "localhost",
        "unix",
        "10.0.0",
        "10.0.0.1 ",
        "010.0.0.1",
        "10.0.0.1%eth0",
        "10.0.0.1\0",
        "ü",
        "\ud800",
        "%",
        ":%",
        "/",
        "10.0.0.0/8",
    ],
)
def test_what_is_no_address_is_in_no_set(host: str) -> None:
    assert host not in NetworkSet(["0.0.0.0/0", "::/0", "unix"])


def test_unix_is_its_own_entry() -> None:
    assert NetworkSet(["unix"]).unix
    assert not NetworkSet(["0.0.0.0/0", "::/0"]).unix
    assert "127.0.0.1" not in NetworkSet(["unix"])


def test_empty_set_has_nobody() -> None:
    assert "127.0.0.1" not in NetworkSet()
    assert "::1" not in NetworkSet()
    assert not NetworkSet().unix


def test_loopback_is_this_machine() -> None:
    networks = NetworkSet(LOOPBACK)
    assert all(host in networks for host in ("127.0.0.1", "127.255.255.255", "::1", "::ffff:127.0.0.1"))
    assert "128.0.0.0" not in networks


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("", "is no network"),
        ("localhost", "is no network"),
        ("Unix", "is no network"),
        ("10.0.0", "is no network"),
        ("010.0.0.0/8", "is no network"),
        ("10.0.0.0/8 ", "from 0 to 32"),
        (" 10.0.0.0/8", "is no network"),
        ("10.0.0.0/", "from 0 to 32"),
        ("10.0.0.0/33", "from 0 to 32"),
        ("10.0.0.0/08", "from 0 to 32"),
        ("10.0.0.0/-1", "from 0 to 32"),
        ("10.0.0.0/255.0.0.0", "from 0 to 32"),
        ("10.0.0.0/8/8", "from 0 to 32"),
        ("10.0.0.0/²", "from 0 to 32"),
        ("10.0.0.0/" + "1" * 5000, "from 0 to 32"),
        ("2001:db8::/129", "from 0 to 128"),
        ("fe80::%eth0/64", "is no network"),
        ("[::1]", "is no network"),
        ("10.0.0.0\0", "is no network"),
        ("::ffff:10.0.0.0/95", "IPv4-mapped"),
        ("10.0.0.1/8", r"write 10\.0\.0\.0/8"),
        ("2001:db8::1/32", "write 2001:db8::/32"),
        ("::ffff:10.0.0.1/104", r"write 10\.0\.0\.0/8"),
    ],
)
def test_entry_that_is_no_network_is_refused_with_its_text_and_a_way_out(entry: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        NetworkSet(["192.0.2.7", entry])
    assert repr(entry) in str(caught.value)


def test_sets_are_immutable_values() -> None:
    networks = NetworkSet(["10.0.0.0/8", "unix"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        networks.unix = False  # type: ignore[misc]
    assert networks == NetworkSet(["unix", "10.128.0.0/9", "10.0.0.0/9", "10.1.0.0/16"])
    assert hash(networks) == hash(NetworkSet(["10.0.0.0/8", "unix"]))
    assert networks != NetworkSet(["10.0.0.0/8"])
    assert repr(networks) == "<NetworkSet of 1 ranges and unix>"


def test_hundred_thousand_networks_are_found_one_by_one() -> None:
    hosts = [f"{n >> 8 & 255}.{n & 255}.{n >> 16}.0" for n in range(100_000)]
    networks = NetworkSet(f"{host}/25" for host in hosts)
    assert all(host in networks for host in hosts[::997])
    assert not any(host.removesuffix(".0") + ".128" in networks for host in hosts[::997])


near_v4 = st.integers(0, 255).map(lambda n: f"10.0.0.{n}")
near_v6 = st.integers(0, 255).map(
    lambda n: socket.inet_ntop(socket.AF_INET6, b"\x20\1" + bytes(13) + bytes([n]))
)
nets = st.one_of(
    st.builds(
        lambda host, prefix: ipaddress.ip_network(f"{host}/{prefix}", strict=False),
        near_v4,
        st.integers(22, 32),
    ),
    st.builds(
        lambda host, prefix: ipaddress.ip_network(f"{host}/{prefix}", strict=False),
        near_v6,
        st.integers(118, 128),
    ),
)


@given(st.lists(nets, max_size=8), near_v4 | near_v6)
def test_membership_is_that_of_the_standard_library(
    networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network], host: str
) -> None:
    expected = any(ipaddress.ip_address(host) in network for network in networks)
    assert (host in NetworkSet(map(str, networks))) is expected


@given(st.text(max_size=45) | st.from_regex(r"[0-9a-f.:%/]{1,45}", fullmatch=True))
def test_any_text_is_in_or_out_and_only_addresses_are_in(text: str) -> None:
    if text in NetworkSet(["0.0.0.0/0", "::/0"]):
        ipaddress.ip_address(text.partition("%")[0])


@given(st.text(max_size=45) | st.from_regex(r"[0-9a-f.:%/]{1,45}", fullmatch=True))
def test_any_text_is_a_network_or_refused_with_that_text(text: str) -> None:
    try:
        message = ""
        NetworkSet([text])
    except ValueError as refusal:
        message = str(refusal)
    assert message == "" or repr(text) in message


NUMBERS = st.integers(0, 1 << 16)


@given(st.lists(st.tuples(NUMBERS, st.integers(0, 16)), max_size=5), NUMBERS, NUMBERS)
def test_networks_overlap_when_they_have_an_address_in_common(
    entries: list[tuple[int, int]], one: int, other: int
) -> None:
    networks = [ipaddress.IPv6Network((number >> size << size, 128 - size)) for number, size in entries]
    first, last = sorted((one, other))
    common = any(int(each[0]) <= last and int(each[-1]) >= first for each in networks)
    assert NetworkSet(map(str, networks)).overlaps(128, first, last) == common
    assert not NetworkSet(map(str, networks)).overlaps(32, first, last)
