"""Connecting without a connector: how it settles, what it leaves open, and that it then serves."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from rproxy.upstream.outbound import Outbound
from tests.fakes import Loop, Remembering, open_files


class Connecting:
    """An `Outbound` and what it settled with."""

    def __init__(self, family: int, target: Any) -> None:
        self.loop = Loop()
        self.codes: list[int] = []
        self.outbound = Outbound(self.loop, family, target, lambda _, code: self.codes.append(code))

    def settle(self) -> int:
        self.outbound.start()
        self.loop.spin()
        (code,) = self.codes
        return code


def test_outbound_connects_and_serves() -> None:
    files = open_files()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connecting = Connecting(socket.AF_INET, listening.getsockname())
        assert connecting.settle() == 0
        protocol = Remembering(made=lambda transport: transport.write(b"hello"))
        connecting.outbound.serve(protocol)
        accepted, name = listening.accept()
        assert accepted.recv(9) == b"hello"
        accepted.send(b"back")
        accepted.close()
        connecting.loop.spin()
        assert (protocol.octets, protocol.calls) == (b"back", ["made", "read", "read_lost"])
        assert connecting.outbound.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert connecting.outbound.getHost() == IPv4Address("TCP", *name)
        assert connecting.outbound.getPeer() == IPv4Address("TCP", *listening.getsockname())
        assert connecting.outbound.logPrefix() == "Outbound"
        connecting.outbound.close()
        assert protocol.calls[-1] == "lost"
    assert open_files() <= files


def test_outbound_over_ipv6_and_unix(tmp_path: Path) -> None:
    for family, place in ((socket.AF_INET6, ("::1", 0)), (socket.AF_UNIX, str(tmp_path / "s"))):
        with socket.create_server(place, family=family) as listening:
            connecting = Connecting(family, listening.getsockname())
            assert connecting.settle() == 0
            peer = connecting.outbound.getPeer()
            host = connecting.outbound.getHost()
            assert (getattr(peer, "host", None) or peer.name.decode()) == place[
                0
            ] or peer.name == place.encode()
            assert host is not None
            connecting.outbound.abandon()


def test_outbound_to_unix_has_no_name_of_its_own(tmp_path: Path) -> None:
    with socket.create_server(str(tmp_path / "s"), family=socket.AF_UNIX) as listening:
        connecting = Connecting(socket.AF_UNIX, listening.getsockname())
        connecting.settle()
        assert connecting.outbound.getHost() == UNIXAddress(None)
        assert connecting.outbound.getPeer() == UNIXAddress(os.fsencode(tmp_path / "s"))
        connecting.outbound.abandon()


def test_outbound_that_is_refused_settles_with_the_errno_and_closes(tmp_path: Path) -> None:
    files = open_files()
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert Connecting(socket.AF_INET, bound.getsockname()).settle() == errno.ECONNREFUSED
    assert Connecting(socket.AF_UNIX, str(tmp_path / "no")).settle() == errno.ENOENT
    assert Connecting(socket.AF_UNIX, "/" + "x" * 200).settle() == errno.ENAMETOOLONG
    assert open_files() <= files


def waiting() -> tuple[Connecting, list[socket.socket]]:
    """A connection attempt that stays open: the queue of the listener is full."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(0)
    fillers = [socket.socket() for _ in range(3)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(listening.getsockname())
    connecting = Connecting(socket.AF_INET, listening.getsockname())
    connecting.outbound.start()
    return connecting, [listening, *fillers]


def test_an_attempt_may_be_abandoned_and_nothing_is_called() -> None:
    files = open_files()
    connecting, others = waiting()
    assert connecting.loop.writers == {connecting.outbound}
    connecting.outbound.abandon()
    connecting.loop.spin()
    assert (connecting.codes, connecting.loop.writers) == ([], set())
    for sock in others:
        sock.close()
    assert open_files() <= files


def test_a_hang_up_while_connecting_is_a_failed_attempt() -> None:
    connecting, others = waiting()
    connecting.outbound.connectionLost(Failure(ConnectionLost()))
    assert connecting.codes == [errno.ECONNABORTED]
    assert connecting.loop.writers == set()
    for sock in others:
        sock.close()


@pytest.mark.parametrize("call", ["close", "loseConnection", "abortConnection"])
def test_a_protocol_may_close_as_soon_as_it_is_served(call: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connecting = Connecting(socket.AF_INET, listening.getsockname())
        connecting.settle()
        protocol = Remembering(made=lambda transport: getattr(transport, call)())
        connecting.outbound.serve(protocol)
        connecting.loop.spin()
        assert protocol.calls == ["made", "lost"]
        assert (connecting.loop.readers, connecting.loop.writers) == (set(), set())
