"""Places are counted up and down exactly once, and a flood of refusals is not a flood of lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from rproxy.errors import TooMany
from rproxy.interfaces import Lease
from rproxy.services.limits import QUIET, Limits
from rproxy.wire.address import Address, Inet, Unix
from tests.fakes import LogLines


def limits(most: int, per_client: int = 0) -> Limits:
    return Limits(Clock(), most, per_client)  # type: ignore[arg-type]


def admitted(it: Limits, *hosts: str) -> list[bool]:
    """Whether each could have a place for its client."""
    answers = []
    for host in hosts:
        try:
            it.admit_client(Inet(host, 1), Lease())
            answers.append(True)
        except TooMany:
            answers.append(False)
    return answers


def test_so_many_and_no_more() -> None:
    it = limits(2)
    leases = [Lease(), Lease()]
    for lease in leases:
        it.admit(lease)
    with pytest.raises(TooMany):
        it.admit(Lease())
    leases[0].release()
    it.admit(Lease())
    assert it.open == 2


def test_a_refusal_takes_no_place() -> None:
    it, lease = limits(0, 1), Lease()
    with pytest.raises(TooMany):
        it.admit(lease)
    lease.release()
    assert it.open == 0


@pytest.mark.parametrize(
    ("hosts", "answers"),
    [
        (["192.0.2.1", "192.0.2.1", "192.0.2.2"], [True, False, True]),
        (["2001:db8:0:1::1", "2001:db8:0:1:ffff::2"], [True, False]),
        (["2001:db8:0:1::1", "2001:db8:0:2::1"], [True, True]),
        (["fe80::1%eth0", "fe80::2%eth1"], [True, False]),
        (["::1", "127.0.0.1"], [True, True]),
    ],
)
def test_a_client_is_an_ipv4_address_or_an_ipv6_64(hosts: list[str], answers: list[bool]) -> None:
    assert admitted(limits(99, 1), *hosts) == answers


def test_zero_is_no_limit_per_client() -> None:
    it = limits(99, 0)
    assert all(admitted(it, *["192.0.2.1"] * 50))


def test_who_came_while_there_was_no_limit_counts_when_a_reload_sets_one() -> None:
    it, leases = limits(99, 0), [Lease(), Lease(), Lease()]
    for lease in leases:
        it.admit_client(Inet("192.0.2.1", 1), lease)
    it.max_clients_per_ip = 3
    assert admitted(it, "192.0.2.1", "192.0.2.2") == [False, True]
    leases[0].release()
    assert admitted(it, "192.0.2.1") == [True]


def test_unix_clients_are_not_counted() -> None:
    it = limits(99, 1)
    for _ in range(3):
        it.admit_client(Unix(b""), Lease())


def test_a_reload_changes_the_limits_of_those_to_come() -> None:
    it = limits(1, 1)
    lease = Lease()
    it.admit(lease)
    it.admit_client(Inet("192.0.2.1", 1), lease)
    it.max_clients, it.max_clients_per_ip = 2, 0
    later = Lease()
    it.admit(later)
    it.admit_client(Inet("192.0.2.1", 1), later)
    lease.release()
    assert (it.open, it._clients.open) == (1, {"192.0.2.1": 1})
    later.release()
    assert (it.open, it._clients.open) == (0, {})


ADDRESSES: list[Address] = [Inet("192.0.2.1", 1), Inet("192.0.2.2", 1), Inet("2001:db8::1", 1), Unix(b"")]


@given(st.lists(st.tuples(st.sampled_from(ADDRESSES), st.integers(0, 9)), max_size=60))
def test_when_all_have_left_nothing_is_counted(steps: list[tuple[Address, int]]) -> None:
    it, leases = limits(5, 2), list[Lease]()
    for address, leaving in steps:
        lease = Lease()
        try:
            it.admit(lease)
            it.admit_client(address, lease)
            leases.append(lease)
        except TooMany:
            lease.release()
        if leaving < len(leases):
            leases.pop(leaving).release()
        assert it.open == len(leases) <= 5
        assert all(0 < count <= 2 for count in it._clients.open.values())
    for lease in leases * 2:
        lease.release()
    assert (it.open, it._clients.open) == (0, {})


def test_a_flood_is_logged_now_and_then_with_its_size() -> None:
    clock = Clock()
    it = Limits(clock, 0)  # type: ignore[arg-type]
    with LogLines() as log:
        for _ in range(25):
            with pytest.raises(TooMany, match="max_clients"):
                it.admit(Lease())
            clock.advance(QUIET / 10)
    assert log.texts("rproxy.services.limits") == [
        "max_clients = 0 is reached; 1 refused",
        "max_clients = 0 is reached; 10 refused",
        "max_clients = 0 is reached; 10 refused",
    ]
