"""The snapshots of networks that go by a name."""

from itertools import combinations

import pytest

from rproxy.config.values import CLOUDS as CONFIGURABLE
from rproxy.policy.clouds import CLOUDS, without_names
from rproxy.policy.networks import NetworkSet


def test_every_name_that_can_be_configured_has_its_networks() -> None:
    assert sorted(CLOUDS) == sorted(CONFIGURABLE)
    assert all(len(networks) == len(set(networks)) > 20 for networks in CLOUDS.values())


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("cloudflare", ["104.16.0.1", "172.71.255.255", "2606:4700::1"], ["104.28.0.0", "1.1.1.1"]),
        ("cloudfront", ["130.176.88.10", "64.252.64.1", "2600:9000:5200::1"], ["108.138.0.10", "52.95.0.1"]),
        ("fastly", ["151.101.1.1", "199.232.255.255", "2a04:4e42::1"], ["146.75.128.0", "2a04:4e41::1"]),
    ],
)
def test_a_network_set_takes_them_as_they_are(name: str, inside: list[str], outside: list[str]) -> None:
    networks = NetworkSet(CLOUDS[name])
    assert [host for host in inside if host not in networks] == []
    assert [host for host in outside if host in networks] == []


def test_no_network_is_wide_enough_to_be_a_slip_or_belongs_to_two() -> None:
    for name, networks in CLOUDS.items():
        assert all(int(net.partition("/")[2]) >= (28 if ":" in net else 12) for net in networks), name
    for one, other in combinations(CLOUDS, 2):
        others = NetworkSet(CLOUDS[other])
        assert not [net for net in CLOUDS[one] if net.partition("/")[0] in others]


def test_names_are_replaced_where_they_stand() -> None:
    assert without_names(["10.0.0.0/8", "fastly", "unix"]) == ("10.0.0.0/8", *CLOUDS["fastly"], "unix")
    assert without_names([]) == ()
