"""Arrivals grow by copies, and a lease gives everything back once."""

import socket
from collections.abc import Callable

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock

from rproxy.downstream.acceptproxy import ProxiedTransport
from rproxy.interfaces import Arrival, Lease, Ticket, address_of, arrival_of, local_of
from rproxy.wire.address import Inet, Unix
from rproxy.wire.clienthello import ClientHello
from rproxy.wire.proxyheader import ProxyHeader

PEER, CLIENT, TARGET = Inet("192.0.2.1", 1), Inet("198.51.100.2", 2), Inet("203.0.113.3", 3)
ARRIVAL = Arrival("tcp:443", PEER, PEER)
HELLO = ClientHello("example.org", (b"h2",), (0x0304,))


class Taken(Ticket):
    """Calls something when it is given back."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call

    def give_back(self) -> None:
        self._call()


def test_a_lease_gives_back_latest_first_and_once() -> None:
    lease, given = Lease(), []
    lease.add(Taken(lambda: given.append("first")))
    lease.add(Taken(lambda: given.append("second")))
    lease.release()
    lease.release()
    assert given == ["second", "first"]


def test_a_lease_released_while_it_is_being_released_gives_back_once() -> None:
    lease, given = Lease(), []
    lease.add(Taken(lambda: given.append("first")))
    lease.add(Taken(lease.release))
    lease.release()
    assert given == ["first"]


def test_an_arrival_is_an_address() -> None:
    assert IAddress.providedBy(ARRIVAL)


def test_each_arrival_has_a_lease_of_its_own() -> None:
    assert Arrival("tcp:443", PEER, PEER).lease is not ARRIVAL.lease


def test_what_was_agreed_on_adds_to_what_is_known() -> None:
    after = ARRIVAL.with_hello(HELLO).with_alpn(b"h2")
    assert (after.alpn, after.hello, after.peer, after.lease) == (b"h2", HELLO, PEER, ARRIVAL.lease)
    assert ARRIVAL.alpn == b""


def test_a_header_names_the_client_and_its_destination() -> None:
    header = ProxyHeader(2, CLIENT, TARGET, ((1, b"h2"),))
    after = ARRIVAL.with_header(header)
    assert (after.peer, after.client, after.local, after.header) == (PEER, CLIENT, TARGET, header)
    assert after.lease is ARRIVAL.lease
    assert ARRIVAL.client == PEER


def test_a_header_without_addresses_changes_no_address() -> None:
    header = ProxyHeader(2, None, None, local=True)
    after = ARRIVAL.with_header(header)
    assert (after.client, after.local, after.header) == (PEER, ARRIVAL.local, header)


def test_a_hello_adds_to_what_is_known() -> None:
    header = ProxyHeader(1, CLIENT, TARGET)
    after = ARRIVAL.with_header(header).with_hello(HELLO)
    assert (after.server_name, after.hello, after.header) == ("example.org", HELLO, header)
    assert (after.listener, after.client, after.local) == ("tcp:443", CLIENT, TARGET)
    assert after.lease is ARRIVAL.lease
    assert ARRIVAL.server_name is None


@pytest.mark.parametrize(
    ("place", "address"),
    [
        (IPv4Address("TCP", "192.0.2.1", 1), PEER),
        (IPv6Address("TCP", "::ffff:192.0.2.1", 1), PEER),
        (IPv6Address("TCP", "2001:db8::1", 1), Inet("2001:db8::1", 1)),
        (UNIXAddress(b"/run/a"), Unix(b"/run/a")),
        (UNIXAddress("/run/a"), Unix(b"/run/a")),
        (UNIXAddress(None), Unix(b"")),
        (UNIXAddress(b"\0abstract\xff"), Unix(b"\0abstract\xff")),
    ],
)
def test_twisted_addresses_become_ours(place: object, address: Inet | Unix) -> None:
    assert address_of(place) == address


def test_a_place_that_is_no_socket_address_is_an_error() -> None:
    with pytest.raises(TypeError, match="not a socket address"):
        address_of(object())


def test_a_route_takes_arrivals_and_plain_addresses() -> None:
    assert arrival_of(ARRIVAL) is ARRIVAL
    plain = arrival_of(IPv4Address("TCP", "192.0.2.1", 1))
    assert (plain.peer, plain.client, plain.listener) == (PEER, PEER, "")


class Handle:
    def __init__(self, name: object) -> None:
        self.name = name

    def getHandle(self) -> "Handle":
        return self

    def getsockname(self) -> object:
        return self.name


@pytest.mark.parametrize(
    ("name", "address"),
    [
        (("192.0.2.1", 1), PEER),
        (("::ffff:192.0.2.1", 1, 0, 0), PEER),
        ("/run/a\udcff", Unix(b"/run/a\xff")),
        (b"\0abstract", Unix(b"\0abstract")),
        ("", Unix(b"")),
    ],
)
def test_our_end_is_what_the_socket_says(name: object, address: Inet | Unix) -> None:
    assert local_of(Handle(name)) == address


@pytest.mark.parametrize(
    ("header", "address"),
    [
        (ProxyHeader(1, CLIENT, TARGET), TARGET),
        (ProxyHeader(2, CLIENT, Unix(b"/run/a")), Unix(b"/run/a")),
        (ProxyHeader(2, None, None, local=True), PEER),
        (None, Inet("127.0.0.1", 9)),
    ],
)
def test_behind_an_accepting_endpoint_our_end_is_what_the_header_says(
    header: ProxyHeader | None, address: Inet | Unix
) -> None:
    class Socket(Handle):
        def getHost(self) -> IPv4Address:
            return IPv4Address("TCP", "192.0.2.1", 1)

    transport = ProxiedTransport(Socket(("127.0.0.1", 9)), Clock(), header)  # type: ignore[arg-type]
    assert local_of(transport) == address


def test_our_end_of_a_real_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        class Transport:
            def getHandle(self) -> socket.socket:
                return listening

        assert local_of(Transport()) == Inet(*listening.getsockname())
