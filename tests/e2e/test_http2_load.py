"""Many streams at a time, and slow ones: none is lost, holds up its neighbours, or fills the memory."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from tests.e2e.conftest import Peer
from tests.e2e.fronts import NAMES, SCHEMES, Front, Growth, backend, location
from tests.e2e.http2_right import answers
from tests.e2e.http2_wire import Wire, asking, dial
from tests.e2e.programs import PATIENCE, Programs, until
from tests.wire.http2_talk import ACK, DATA, GOAWAY, HEADERS, PING, RST, WINDOW, frame, rst, window

ASKED = 300
LATEST = 0.2
"""Seconds that 99 of 100 requests may take beside slow ones; the others may meet what else is to do here."""
QUIET = 0.3
"""Seconds without a byte after which nothing more is given or taken."""
MOST_FOR_THOUSAND = 64 << 20
"""Bytes for a thousand requests under way at a time, each with a connection to the backend."""

schemes = pytest.mark.parametrize("scheme", SCHEMES)


@pytest.fixture(scope="module")
def front(lasting_programs: Programs) -> Front:
    return made(lasting_programs, 'request_max_body_size = "unlimited"')


def made(programs: Programs, more: str) -> Front:
    """A proxy before a backend of all kinds, on whose connections a hundred requests may be open."""
    port = backend(programs, "many_server").port
    return Front(programs, location(port), more=f"max_concurrent_streams = 100\n{more}")


def joined(front: Front, scheme: str) -> Wire:
    """A client that has said hello."""
    return dial(front.ports[scheme], NAMES[0] if scheme == "https" else "").greet()


# -- many


@schemes
def test_a_thousand_requests_that_are_answered_late_are_all_answered(
    peer: Peer, programs: Programs, front: Front, scheme: str
) -> None:
    words = [peer("h2load"), "-n", 1000, "-c", 10, "-m", 100, front.url(scheme, "/hold/here")]
    with joined(front, "http").socket as watching, Growth(front.proxy) as growth:
        wire = Wire(watching)
        numbers = iter(range(1, 100_000, 2))
        load = programs.start(words, "h2load")
        until(lambda: body_of(wire, next(numbers), b"/held") == b"1000", "a thousand that wait")
        time.sleep(QUIET)
        assert body_of(wire, next(numbers), b"/release") == b"released"
        load.ended()
    assert "1000 done, 1000 succeeded, 0 failed, 0 errored, 0 timeout" in load.log
    assert growth.by < MOST_FOR_THOUSAND


def body_of(wire: Wire, stream: int, path: bytes) -> bytes:
    """What is at a path."""
    wire.send(asking(path, stream))
    got = b""
    while True:
        one = wire.want()
        if one.stream == stream and one.kind == DATA:
            got += one.payload
        if one.stream == stream and one.flags & 1:
            return got


# -- slow ones and their neighbours


def drips(wire: Wire, stream: int) -> None:
    """The backend answers byte by byte, without an end."""
    wire.send(asking(b"/drip", stream))


def takes_nothing(wire: Wire, stream: int) -> None:
    """The client has no window left for this stream; the connection's is opened for the others."""
    wire.send(asking(b"/pour", stream))
    wire.send(window(0, 65535))
    got = 0
    while got < 65535:
        one = wire.want()
        got += len(one.payload) if (one.kind, one.stream) == (DATA, stream) else 0


def gives_all(wire: Wire, stream: int) -> None:
    """The client sends all that the windows allow, to a backend that reads nothing."""
    wire.send(asking(b"/stall", stream, end=False))
    room, given = wire.settings[4], time.monotonic()
    wire.socket.settimeout(QUIET)
    while time.monotonic() - given < QUIET:
        while min(room, wire.room) >= 16384:
            wire.send(frame(DATA, 0, stream, bytes(16384)))
            room, wire.room, given = room - 16384, wire.room - 16384, time.monotonic()
        try:
            one = wire.want()
        except TimeoutError:
            continue
        room += int.from_bytes(one.payload, "big") if (one.kind, one.stream) == (WINDOW, stream) else 0
    wire.socket.settimeout(PATIENCE)
    assert room < 16384


Slow = Callable[[Wire, int], None]
KINDS: dict[str, list[Slow]] = {
    "a backend that drips": [drips],
    "a client that takes nothing": [takes_nothing],
    "a backend that takes nothing": [gives_all],
    "all of them": [drips, takes_nothing, gives_all] * 4,
}


@schemes
@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_slow_streams_do_not_hold_up_their_neighbours(front: Front, scheme: str, kinds: list[Slow]) -> None:
    wire = joined(front, scheme)
    with wire.socket, Growth(front.proxy) as growth:
        for number, slow in enumerate(kinds):
            slow(wire, 2 * number + 1)
        took = sorted(seconds_of(wire, stream) for stream in range(101, 101 + 2 * ASKED, 2))
        print(f"{1000 * took[ASKED // 2]:.1f} ms, 99 % {1000 * took[ASKED * 99 // 100]:.1f} ms")
        assert took[ASKED * 99 // 100] < LATEST
        for number in range(len(kinds)):
            wire.send(rst(2 * number + 1))
        assert seconds_of(wire, 5001) < 1
    assert growth.by < Growth.MOST


def seconds_of(wire: Wire, stream: int) -> float:
    """How long a small request takes."""
    began = time.monotonic()
    wire.send(asking(b"/small", stream))
    while True:
        one = wire.want()
        assert one.kind not in (GOAWAY, RST), one
        if one.stream == stream and one.flags & 1:
            return time.monotonic() - began


def test_a_stream_goes_on_when_its_window_opens_again(front: Front) -> None:
    wire = joined(front, "http")
    with wire.socket:
        takes_nothing(wire, 1)
        for size in (1, 5000, 65535):
            wire.send(window(0, size) + window(1, size))
            while size:
                one = wire.want()
                size -= len(one.payload) if (one.kind, one.stream) == (DATA, 1) else 0


@schemes
def test_a_stream_that_stands_still_is_ended_and_its_connection_is_not(
    programs: Programs, scheme: str
) -> None:
    """Whichever side it is that does not move; a stream that drips moves."""
    front = made(programs, 'body_timeout = "1s"\nmin_body_rate = 0')
    wire = joined(front, scheme)
    with wire.socket:
        takes_nothing(wire, 1)
        gives_all(wire, 3)
        drips(wire, 5)
        ended: dict[int, int] = {}
        while len(ended) < 2:
            one = wire.want()
            if one.kind == RST or (one.kind in (HEADERS, DATA) and one.flags & 1):
                ended[one.stream] = one.kind
        assert ended.keys() == {1, 3}
        assert ended[1] == RST
        wire.send(asking(b"/small", 7))
        answers(b"200", 7)(wire)
    front.proxy.says("/pour HTTP/2.0")


# -- the end


@schemes
def test_a_stop_lets_every_stream_finish(programs: Programs, scheme: str) -> None:
    """GOAWAY comes twice (RFC 9113 §6.8): what is asked before the second one is answered."""
    front = made(programs, "")
    wire = joined(front, scheme)
    with wire.socket:
        for stream in range(1, 20, 2):
            wire.send(asking(b"/late/0.5", stream))
        wire.send(asking(b"/small", 21))
        answers(b"200", 21)(wire)
        front.proxy.signal(signal.SIGTERM)
        while (one := wire.want()).kind != GOAWAY:
            pass
        assert (one.payload[:4], one.payload[4:8]) == (b"\x7f\xff\xff\xff", bytes(4))
        wire.send(asking(b"/small", 23))
        ended, last, pings = set[int](), 0, 0
        while (found := wire.read()) is not None:
            assert found.kind != RST
            if found.kind == PING:
                wire.send(frame(PING, ACK, 0, found.payload))
                pings += 1
            elif found.kind == GOAWAY:
                last = int.from_bytes(found.payload[:4], "big")
            elif found.kind in (HEADERS, DATA) and found.flags & 1:
                ended.add(found.stream)
    assert (ended, last, pings) == ({*range(1, 20, 2), 23}, 23, 1)
    assert front.proxy.ended() == 0


def test_reloads_lose_no_request(peer: Peer, programs: Programs) -> None:
    front = made(programs, "")
    load = programs.start(
        [peer("h2load"), "-n", 3000, "-c", 5, "-m", 20, front.url("http", "/late/0.05")], "h2load"
    )
    for number in range(1, 4):
        front.proxy.signal(signal.SIGHUP)
        front.proxy.says("reloaded ", number)
    assert load.popen.poll() is None
    load.ended(30)
    assert "3000 done, 3000 succeeded, 0 failed, 0 errored, 0 timeout" in load.log
