"""Tunnels behind an upgrade: early bytes, both halves, both ends, idleness."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.http_world import GET, OK, SLACK, World, body_of, making, request, response, statuses_of

Making = Callable[..., World]


@pytest.fixture
def worlds() -> Iterator[Making]:
    yield from making(World)


ASK = request(b"/ws", b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: x")
SWITCH = response(b"Connection: upgrade", b"Upgrade: websocket", status=b"101 Switching Protocols")


def test_an_upgrade_is_a_tunnel_and_early_bytes_go_both_ways(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(ASK + b"early")
    peer = world.asked()
    assert not peer.read().endswith(b"early"), "before the peer has agreed it gets nothing of it"
    peer.send(SWITCH + b"hello")
    answer = client.read()
    assert (statuses_of(answer), body_of(answer)) == ([101], b"hello")
    assert peer.read() == b"early"
    client.send(b"\x81\0ping")
    peer.send(b"\x81\0pong")
    assert (peer.read(), client.read()) == (b"\x81\0ping", b"\x81\0pong")
    client.send(b"x" * 300_000)
    assert peer.all(300_000) == b"x" * 300_000
    assert world.open == [1]


def test_a_tunnel_is_half_closed_and_then_closed(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(ASK)
    peer = world.asked()
    peer.send(SWITCH)
    client.read()
    client.finish()
    assert peer.read().endswith(b"<end>")
    peer.send(b"still here")
    assert client.read() == b"still here"
    peer.finish()
    assert client.read() == b"<end>"
    assert (world.open, world.answers.lines[0][:2]) == ([0], (101, "ok"))


def test_a_client_that_half_closed_before_the_switch_has_closed_its_half_of_the_tunnel(
    worlds: Making,
) -> None:
    world = worlds()
    client = world.connect().send(ASK + b"all").finish()
    peer = world.asked()
    peer.read()
    peer.send(SWITCH)
    assert peer.read() == b"all<end>"
    peer.send(b"bye").finish()
    assert client.read().endswith(b"bye<end>")


@pytest.mark.parametrize("who", ["client", "peer"])
def test_a_tunnel_ends_when_either_side_resets(worlds: Making, who: str) -> None:
    world = worlds()
    client = world.connect().send(ASK)
    peer = world.asked()
    peer.send(SWITCH)
    client.read()
    peer.read()
    (client if who == "client" else peer).reset()
    assert (peer if who == "client" else client).read() == b"<reset>"
    assert world.open == [0]


def test_an_idle_tunnel_is_cut(worlds: Making) -> None:
    world = worlds(tunnel_idle=30.0)
    client = world.connect().send(ASK)
    peer = world.asked()
    peer.send(SWITCH)
    world.wait(25)
    client.send(b"x")
    world.wait(25)
    assert len(world.connections) == 1
    world.wait(5 + 2 * SLACK)
    assert (len(world.connections), peer.read()[-7:]) == (0, b"<reset>")


def test_a_refused_upgrade_stays_http(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(ASK + request(b"/next"))
    peer = world.asked()
    peer.read()
    peer.send(OK)
    assert client.read() == OK
    assert peer.read().startswith(b"GET /next HTTP/1.1\r\n")


def test_a_switch_that_nobody_asked_for_is_a_bad_answer(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(GET)
    world.asked().send(SWITCH + b"evil")
    assert statuses_of(client.read()) == [502]
    other = world.connect().send(ASK)
    world.asked().send(SWITCH.replace(b"websocket", b"h2c"))
    assert statuses_of(other.read()) == [502]
