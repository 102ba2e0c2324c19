"""Attacks on HTTP/2 servers, in full: what they cost us, what reaches a peer, and that others are served.

Each attacker sends until it is shut out or has sent all it has. The bounds are those of the threat model: no
more requests at the peers than streams may be open, 32 MB of memory, and an answer for everybody else.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator

import pytest

from rproxy.downstream.http_watch import STREAMS
from rproxy.wire.http2_frames import PREFACE
from rproxy.wire.http2_gate import CHORES, CRUMBS
from tests.http2_world import Http2World
from tests.http_world import OK, Stream
from tests.wire.http2_talk import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GET,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    POST,
    PRIORITY,
    SETTINGS,
    block,
    frame,
    head,
    rst,
    said,
    settings,
    window,
)

CALM = (11).to_bytes(4, "big")
MOST_MEMORY = 32 << 20


@pytest.fixture
def world() -> Iterator[Http2World]:
    made = Http2World()
    yield made
    made.end()


def memory() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


class Attacker:
    """Sends by the 64 KiB, reads nothing unless told, and stops when it is shut out."""

    def __init__(
        self, world: Http2World, preface: bytes = PREFACE + settings() + frame(SETTINGS, ACK)
    ) -> None:
        self.world, self.sent, self.out = world, 0, b""
        self.wire: Stream = world.connect().send(preface)
        self.wire.read()
        self.heard = b""

    def send(self, octets: bytes) -> bool:
        """Whether it may go on."""
        try:
            self.wire.send(octets)
        except ConnectionError:
            return False
        self.heard += self.wire.read()
        self.sent += 1
        return self.wire.open

    def run(self, octets: Callable[[int], bytes], rounds: int, together: int = 1) -> int:
        """The round in which it was shut out; `together` rounds are one write."""
        for at in range(0, rounds, together):
            if not self.send(b"".join(octets(n) for n in range(at, min(at + together, rounds)))):
                return at + together
        return rounds

    @property
    def verdict(self) -> bytes:
        """The error code of the last GOAWAY."""
        heard = self.heard.removesuffix(b"<reset>").removesuffix(b"<end>")
        codes = [one.payload[4:8] for one in said(heard) if one.kind == GOAWAY]
        return codes[-1] if codes else b""


def hits(world: Http2World) -> int:
    """Connections that were made to the peer since the last look; they are closed."""
    count = 0
    while world.is_asked():
        count += 1
    return count


def is_served(world: Http2World) -> bool:
    """Whether somebody else gets an answer."""
    hits(world)
    client = world.client()
    number = client.begin()
    world.asked().send(OK)
    served = client.take()[number].body == b"ok"
    client.wire.leave()
    return served


@pytest.mark.parametrize("together", [1, 100])
def test_rapid_reset(world: Http2World, together: int) -> None:
    attacker = Attacker(world)
    before = memory()
    rounds = attacker.run(lambda n: head(2 * n + 1) + rst(2 * n + 1), 20_000, together)
    assert (rounds < 2 * STREAMS + together, attacker.verdict) == (True, CALM)
    assert hits(world) == 0  # taken back in the same read
    assert memory() - before < MOST_MEMORY
    assert is_served(world)


def test_rapid_reset_with_time_in_between(world: Http2World) -> None:
    attacker = Attacker(world)
    asked = 0
    for number in range(1, 20_000, 2):
        if not attacker.send(head(number)) or not attacker.send(rst(number)):
            break
        asked += hits(world)
    assert (attacker.verdict, asked <= STREAMS) == (CALM, True)
    assert is_served(world)


MADE_YOU_RESET = {
    "no increment": lambda n: head(n) + window(n, 0),
    "window overflow": lambda n: head(n) + window(n, (1 << 31) - 1),
    "depends on itself": lambda n: head(n) + frame(PRIORITY, 0, n, n.to_bytes(4, "big") + b"\0"),
    "data after the end": lambda n: head(n) + frame(DATA, 0, n, b"x"),
    "head after the end": lambda n: head(n) + head(n),
    "too long a body": lambda n: (
        head(n, [*POST, (b"content-length", b"0")], end=False) + frame(DATA, 1, n, b"x")
    ),
    "malformed": lambda n: head(n, [*GET, (b"te", b"gzip")]),
    "malformed trailers": lambda n: head(n, POST, end=False) + head(n, [(b":x", b"y")]),
    "priority of a wrong size": lambda n: head(n) + frame(PRIORITY, 0, n, b"x"),
}


@pytest.mark.parametrize("octets", MADE_YOU_RESET.values(), ids=MADE_YOU_RESET)
def test_made_you_reset(world: Http2World, octets: Callable[[int], bytes]) -> None:
    attacker = Attacker(world)
    before = memory()
    asked = 0
    for number in range(1, 20_000, 2):
        going_on = attacker.send(octets(number))
        asked += hits(world)
        if not going_on:
            break
    assert attacker.verdict not in (b"", bytes(4))
    assert number <= 2 * (STREAMS + 1)
    assert asked <= STREAMS
    assert memory() - before < MOST_MEMORY
    assert is_served(world)


FLOODS = {
    "PING": (frame(PING, payload=bytes(8)), 200_000),
    "SETTINGS": (settings(), 100_000),
    "SETTINGS with windows": (settings(window=70000), 100_000),
    "empty DATA": (frame(DATA, 0, 1), 200_000),
    "PRIORITY": (frame(PRIORITY, 0, 3, bytes(5)), 100_000),
    "WINDOW_UPDATE": (window(0, 1), 100_000),
    "unknown": (frame(200, 0, 0, b"x"), 100_000),
    "resets of nothing": (rst(3), 100_000),
}


@pytest.mark.parametrize(("octets", "count"), FLOODS.values(), ids=FLOODS)
def test_floods(world: Http2World, octets: bytes, count: int) -> None:
    attacker = Attacker(world)
    attacker.send(head(1, POST, end=False) + head(3) + rst(3))
    before = memory()
    rounds = attacker.run(lambda n: octets, count, 1000)
    assert (rounds <= 1000, attacker.verdict) == (True, CALM)
    assert memory() - before < MOST_MEMORY
    assert hits(world) <= 1
    assert is_served(world)


def test_a_flood_that_reads_no_answers_is_not_answered_for_ever(world: Http2World) -> None:
    wire = world.connect(receive_buffer=4096).send(PREFACE + settings() + frame(SETTINGS, ACK))
    before = memory()
    with pytest.raises(ConnectionError):
        for _ in range(10_000):
            world.wait(1)
            wire.push(frame(PING, payload=bytes(8)) * 90)
    assert memory() - before < MOST_MEMORY
    assert len(world.connections) == 0


def test_continuation_flood(world: Http2World) -> None:
    attacker = Attacker(world)
    attacker.send(frame(HEADERS, 0, 1, block(GET)))
    before = memory()
    rounds = attacker.run(lambda n: frame(CONTINUATION, 0, 1, block([(b"x", b"y" * 1000)])), 20_000)
    assert (rounds < 20, attacker.verdict) == (True, CALM)
    assert memory() - before < MOST_MEMORY
    assert is_served(world)


def test_empty_continuation_flood(world: Http2World) -> None:
    attacker = Attacker(world)
    attacker.send(frame(HEADERS, 0, 1, block(GET)))
    rounds = attacker.run(lambda n: frame(CONTINUATION, 0, 1), 200_000, 100)
    assert (rounds <= 100, attacker.verdict) == (True, CALM)


def test_hpack_bomb(world: Http2World) -> None:
    attacker = Attacker(world)
    before = memory()
    stored = b"\x40\1x" + b"\x7f\xbd\x1d" + b"v" * 3900
    attacker.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, block(GET) + stored))
    rounds = attacker.run(
        lambda n: frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 3, block(GET) + b"\xbe" * 12000), 40
    )
    assert (rounds, attacker.verdict) == (1, CALM)
    assert memory() - before < MOST_MEMORY
    assert is_served(world)


@pytest.mark.parametrize("field", [(b"x", b""), (b"cookie", b"a=b")], ids=["tiny", "crumbs"])
def test_bombs_of_many_small_fields(world: Http2World, field: tuple[bytes, bytes]) -> None:
    attacker = Attacker(world)
    before = memory()
    stored = b"\x40" + bytes([len(field[0])]) + field[0] + bytes([len(field[1])]) + field[1]
    attacker.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, block(GET) + stored))
    asked = hits(world)
    rounds = attacker.run(
        lambda n: frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 3, block(GET) + b"\xbe" * 1500), 1000
    )
    assert (rounds < 100, attacker.verdict) == (True, CALM)
    assert asked + hits(world) == 1
    assert memory() - before < MOST_MEMORY


def test_too_many_requests_at_once(world: Http2World) -> None:
    attacker = Attacker(world)
    before = memory()
    rounds = attacker.run(lambda n: head(2 * n + 1), 2000)
    assert (rounds <= 2 * STREAMS + 1, attacker.verdict) == (True, CALM)
    assert hits(world) <= STREAMS
    assert memory() - before < MOST_MEMORY
    assert is_served(world)


def test_windows_that_stay_shut(world: Http2World) -> None:
    attacker = Attacker(world, PREFACE + settings(window=0) + frame(SETTINGS, ACK))
    before = memory()
    attacker.send(b"".join(head(2 * n + 1) for n in range(STREAMS)))
    for _ in range(STREAMS):
        peer = world.asked()
        peer.push(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + bytes(1 << 17))
    server = world.server
    assert len(server.streams) == STREAMS
    assert memory() - before < MOST_MEMORY
    assert is_served(world)
    for _ in range(15):
        world.wait(5)
        attacker.send(frame(PING, payload=bytes(8)))
    assert len(server.streams) == 0


@pytest.mark.parametrize("size", [1, 100])
def test_windows_opened_by_the_byte(world: Http2World, size: int) -> None:
    attacker = Attacker(world, PREFACE + settings(window=size) + frame(SETTINGS, ACK))
    attacker.send(head(1))
    world.asked().push(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + bytes(1 << 20))
    rounds = attacker.run(lambda n: window(1, size), 20_000)
    assert (rounds < CHORES / 4, attacker.verdict) == (True, CALM)
    assert is_served(world)


def test_a_body_by_the_byte_does_not_hold_up_others(world: Http2World) -> None:
    attacker = Attacker(world)
    attacker.send(head(1, POST, end=False))
    peer = world.asked()
    os.set_blocking(attacker.wire.socket.fileno(), False)
    attacker.wire.socket.send(frame(DATA, 0, 1, b"x") * 6000)
    assert is_served(world)
    world.loop.spin(200)
    got = peer.read()
    assert got.count(b"x") > 5000
    assert got.count(b"\r\n") < 500


@pytest.mark.parametrize("octets", [frame(DATA, 0, 1, b"x"), frame(DATA, PADDED, 1, b"\3x" + bytes(3))])
def test_a_body_by_the_byte_comes_to_an_end(world: Http2World, octets: bytes) -> None:
    attacker = Attacker(world)
    attacker.send(head(1, POST, end=False))
    peer = world.asked()
    before = memory()
    rounds = attacker.run(lambda n: octets, 200_000, 1000)
    assert (rounds <= CRUMBS * 1.1, attacker.verdict) == (True, CALM)
    assert memory() - before < MOST_MEMORY
    peer.read()
    assert is_served(world)


def test_a_slow_drip_of_a_head(world: Http2World) -> None:
    attacker = Attacker(world)
    octets = frame(HEADERS, 0, 1, block(GET)) + frame(CONTINUATION, 0, 1, b"x" * 100)
    for octet in octets:
        world.wait(1)
        if not attacker.send(bytes([octet])):
            break
    assert attacker.verdict == CALM
    assert world.loop.seconds() < 40


def test_a_client_that_sends_and_never_reads(world: Http2World) -> None:
    wire = world.connect(receive_buffer=4096)
    before = memory()
    wire.push(PREFACE + settings(window=(1 << 31) - 1) + frame(SETTINGS, ACK) + window(0, 1 << 30))
    for n in range(STREAMS):
        wire.push(head(2 * n + 1, [*GET[:2], (b":authority", b"unknown"), GET[3]]))
    assert memory() - before < MOST_MEMORY
    world.wait(80)
    assert len(world.connections) == 0
    assert is_served(world)
