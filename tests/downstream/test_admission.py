"""Whose PROXY header is believed, and what a listener does where nothing is configured."""

from __future__ import annotations

import pytest

from rproxy.downstream.admission import USUAL, ProxyPolicy
from rproxy.policy.networks import NetworkSet
from rproxy.wire.address import Address, Inet, Unix, inet


@pytest.mark.parametrize(
    ("entries", "peer", "trusted"),
    [
        (["10.0.0.0/8"], Inet("10.255.0.1", 1), True),
        (["10.0.0.0/8"], Inet("11.0.0.1", 1), False),
        (["10.0.0.0/8"], inet("::ffff:10.0.0.1", 1), True),
        (["2001:db8::/32"], Inet("2001:db8::1", 1), True),
        (["10.0.0.0/8"], Unix(b""), False),
        (["10.0.0.0/8", "unix"], Unix(b""), True),
        (["unix"], Unix(b"/run/haproxy"), True),
        (["unix"], Inet("127.0.0.1", 1), False),
        ([], Inet("127.0.0.1", 1), False),
    ],
)
def test_peers_of_the_set_may_send_a_header(entries: list[str], peer: Address, trusted: bool) -> None:
    assert ProxyPolicy(NetworkSet(entries)).trusts(peer) is trusted


def test_usually_no_header_is_read_and_nobody_is_asked() -> None:
    assert (USUAL.proxy, USUAL.gate) == (None, None)
