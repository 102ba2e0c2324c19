"""Attacks on HTTP/2 against a running proxy: what they cost it, what reaches a backend, and who has to wait.

The bounds are those of the threat model. Meanwhile a neighbour asks on a connection of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from tests.e2e.fronts import Front, Growth, backend, location
from tests.e2e.http2_right import answered
from tests.e2e.http2_wire import (
    CALM,
    CLOSED,
    FLOW,
    PROTOCOL,
    SIZE,
    Answering,
    Wire,
    asking,
    body,
    dial,
    get,
    goaway,
    padded,
    post,
    priority,
    rest,
)
from tests.e2e.programs import Programs, until
from tests.wire.http2_talk import (
    ACK,
    DATA,
    GOAWAY,
    PING,
    SETTINGS,
    frame,
    literal,
    rst,
    settings,
    window,
)

STREAMS = 64
"""Requests at a time on one connection: the default of `max_concurrent_streams`."""
MOST_BEGUN = 2 * STREAMS + 2
"""Streams that an attacker can begin before it is shut out: so many may be open, and so many be reset."""
MOST_MEMORY = 32 << 20
MOST_HELD = 64 << 20
"""Bytes for eight connections that hold all they can, with 512 requests."""
MOST_CPU = 0.3
"""Seconds of processor time that an attack may cost, the neighbour's requests included."""
LATEST = 1.0
"""Seconds that a neighbour's request may take meanwhile."""
SETTLED = 0.3
"""Seconds in which whatever is under way arrives."""
BATCH = 1 << 16
"""Bytes that an attacker sends at a time."""


@pytest.fixture(scope="module")
def origin() -> Iterator[Answering]:
    made = Answering()
    yield made
    made.end()


@pytest.fixture(scope="module")
def front(lasting_programs: Programs, origin: Answering) -> Front:
    made = Front(lasting_programs, origin.backend.location)
    with greeted(made).socket as warm:
        warm.close()
    return made


def greeted(front: Front) -> Wire:
    return dial(front.ports["http"]).greet()


class Neighbour:
    """Somebody who asks again and again while entered."""

    def __init__(self, front: Front) -> None:
        self._wire, self._stop = greeted(front), threading.Event()
        self._took, self.error = list[float](), ""
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            for stream in range(1, 1 << 20, 2):
                began = time.monotonic()
                self._wire.send(asking(b"/neighbour", stream))
                answered(self._wire, stream)
                self._took.append(time.monotonic() - began)
                if self._stop.wait(0.005):
                    return
        except Exception as error:
            self.error = repr(error)

    @property
    def waited(self) -> float:
        """Seconds within which 99 of 100 answers came."""
        assert not self.error
        assert self._took
        return sorted(self._took)[len(self._took) * 99 // 100]

    def __enter__(self) -> Neighbour:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._wire.socket.close()


class Attack(NamedTuple):
    """`first` is sent once, then `each` for every round of `rounds`; it has to end with one of `codes`."""

    first: bytes
    each: Callable[[int], bytes]
    rounds: int
    codes: tuple[int, ...] = (CALM,)

    def run(self, wire: Wire) -> tuple[int, int]:
        """Send until shut out, or until all is sent; the code of the GOAWAY, and the last stream it names."""
        heard: list[tuple[int, int]] = []
        reader = threading.Thread(target=self._listen, args=(wire, heard), daemon=True)
        reader.start()
        batch = bytearray(self.first)
        for number in range(self.rounds):
            batch += self.each(number)
            if len(batch) >= BATCH or number == self.rounds - 1:
                try:
                    wire.socket.sendall(batch)
                except OSError:
                    break
                batch.clear()
        reader.join()
        return heard[-1]

    def _listen(self, wire: Wire, heard: list[tuple[int, int]]) -> None:
        try:
            while (one := wire.read()) is not None:
                if one.kind == GOAWAY:
                    last, code = one.payload[:4], one.payload[4:8]
                    heard.append((int.from_bytes(code, "big"), int.from_bytes(last, "big")))
        except (AssertionError, OSError):
            pass  # cut off


def stored(value: int) -> bytes:
    """A request that puts a field of so many bytes into the table."""
    return get(1, b"\x40\x01x" + sized(value) + b"v" * value)


def sized(size: int) -> bytes:
    if size < 127:
        return bytes([size])
    out, size = b"\x7f", size - 127
    while size >= 128:
        out, size = out + bytes([128 | size & 127]), size >> 7
    return out + bytes([size])


def nth(number: int) -> int:
    return 2 * number + 1


def again(each: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """Requests, each with something about its stream behind it."""
    return lambda number: get(nth(number)) + each(nth(number))


def always(octets: bytes) -> Callable[[int], bytes]:
    return lambda number: octets


FLOOD, RESETS = 200_000, 20_000
WIDE = (1 << 31) - 1
PRIORITY_UPDATE = frame(16, 0, 0, b"\0\0\0\1u=1")
ATTACKS = {
    # CVE-2023-44487, and CVE-2025-8671 with what makes a server reset
    "rapid reset": Attack(b"", again(rst), RESETS),
    "made you reset: no increment": Attack(b"", again(lambda n: window(n, 0)), RESETS, (PROTOCOL, CALM)),
    "made you reset: too wide": Attack(b"", again(lambda n: window(n, WIDE)), RESETS, (FLOW, CALM)),
    "made you reset: on itself": Attack(b"", again(lambda n: priority(n, n)), RESETS, (PROTOCOL, CALM)),
    "made you reset: DATA": Attack(b"", again(lambda n: body(stream=n)), RESETS, (CLOSED, CALM)),
    "made you reset: size": Attack(b"", again(lambda n: frame(2, 0, n, b"x")), RESETS, (SIZE, CALM)),
    "malformed requests": Attack(b"", lambda n: get(nth(n), literal(b"te", b"x")), RESETS),
    "refused requests": Attack(b"", lambda n: get(nth(n), literal(b"content_length", b"1")), RESETS),
    # VU#421644
    "CONTINUATION": Attack(get(flags=0), always(rest(literal(b"x", b"y" * 1000), end=False)), RESETS),
    "empty CONTINUATION": Attack(get(flags=0), always(rest(b"", end=False)), FLOOD),
    # CVE-2019-9512 to 9518, and frames that RFC 9113 lets anybody send
    "PING": Attack(b"", always(frame(PING, payload=bytes(8))), FLOOD),
    "SETTINGS": Attack(b"", lambda n: settings(window=65535 + n % 2), FLOOD // 2),
    "SETTINGS that are empty": Attack(b"", always(frame(SETTINGS)), FLOOD),
    "acknowledgements": Attack(b"", always(frame(SETTINGS, ACK)), FLOOD),
    "PRIORITY": Attack(b"", lambda n: priority(nth(n)), FLOOD),
    "PRIORITY_UPDATE": Attack(b"", always(PRIORITY_UPDATE), FLOOD),
    "WINDOW_UPDATE": Attack(b"", always(window(0, 1)), FLOOD),
    "WINDOW_UPDATE for what is over": Attack(get(), always(window(1, 1)), FLOOD),
    "RST_STREAM for what is over": Attack(get() + rst(1), always(rst(1)), FLOOD),
    "GOAWAY": Attack(post(), always(goaway()), FLOOD),
    "unknown frames": Attack(b"", always(frame(200)), FLOOD),
    "empty DATA": Attack(post(), always(body(b"", end=False)), FLOOD),
    "DATA by the byte": Attack(post(), always(body(b"x", end=False)), FLOOD),
    "DATA by the byte, padded": Attack(post(), always(padded(DATA, 0, b"x", 9)), FLOOD),
    "DATA of padding": Attack(post(), always(padded(DATA, 0, b"", 1)), FLOOD),
    "DATA for what is over": Attack(get() + rst(1), always(body(b"x")), FLOOD, (CALM, CLOSED)),
    # HPACK bombs: references to one large field, to many small ones, and crumbs of a cookie
    "HPACK bomb": Attack(stored(3900), lambda n: get(nth(n + 1), b"\xbe" * 12000), 40),
    "bomb of tiny fields": Attack(stored(1), lambda n: get(nth(n + 1), b"\xbe" * 12000), 400),
    "bomb of crumbs": Attack(get(1, b"\x60\x03a=b"), lambda n: get(nth(n + 1), b"\xbe" * 2000), 4000),
    "more requests than allowed": Attack(settings(window=0), lambda n: get(nth(n)), 2000),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_who_floods_is_shut_out_and_nobody_waits(front: Front, origin: Answering, attack: Attack) -> None:
    wire, before = greeted(front), front.proxy.cpu
    with wire.socket, Neighbour(front) as neighbour, Growth(front.proxy) as growth:
        origin.forget()
        code, last = attack.run(wire)
    spent, hits = front.proxy.cpu - before, origin.targets.count(b"/")
    print(f"{spent:.2f} s, {growth.by >> 10} KiB, {last // 2} streams, {hits} hits, {neighbour.waited:.3f} s")
    assert code in attack.codes
    assert last < 2 * MOST_BEGUN
    assert hits <= STREAMS
    assert spent < MOST_CPU
    assert growth.by < MOST_MEMORY
    assert neighbour.waited < LATEST


# -- what one connection can make the proxy hold


@pytest.fixture(scope="module")
def many(lasting_programs: Programs) -> Front:
    """A proxy before a backend for attackers, and one for the neighbour."""
    one, other = (location(backend(lasting_programs, "many_server").port) for _ in range(2))
    entry = f'[[apps.site.reverse_proxy]]\npath = "/neighbour"\nupstream = [{other}]'
    return Front(lasting_programs, one, entry=entry)


def takes_no_answers(wire: Wire) -> None:
    """Windows stay shut, and each head is as large as it may be, by references to one field of the table."""
    wire.send(settings(window=0) + asking(b"/pour", 1, b"\x40\x01x" + sized(3900) + b"v" * 3900))
    for number in range(1, STREAMS):
        wire.send(asking(b"/pour", nth(number), b"\xbe" * 16))


def reads_nothing(wire: Wire) -> None:
    """Windows are as large as they can be, and nothing of what comes is read."""
    wire.send(settings(window=(1 << 31) - 1) + window(0, (1 << 31) - 65536))
    for number in range(STREAMS):
        wire.send(asking(b"/pour", nth(number)))


def gives_too_much(wire: Wire) -> None:
    """Bodies for a backend that reads none, as much as the windows allow."""
    for number in range(STREAMS):
        wire.send(asking(b"/stall", nth(number), end=False))
    for stream in range(1, 2 * STREAMS, 16):
        wire.send(body(bytes(16384), stream, end=False) * (wire.settings[4] // 16384))


HOARDS = [takes_no_answers, reads_nothing, gives_too_much]


@pytest.mark.parametrize("hoard", HOARDS)
def test_what_stays_unsent_and_unread_is_not_kept(many: Front, hoard: Callable[[Wire], None]) -> None:
    """Not by one connection, and not by eight of them."""
    with Neighbour(many) as neighbour, Growth(many.proxy) as growth:
        wires = [dial(many.ports["http"], receive_buffer=4096).greet() for _ in range(8)]
        for wire in wires:
            hoard(wire)
        until(lambda: many.proxy.fds > 8 * STREAMS, "all of them with the backend")
        time.sleep(SETTLED)
        for wire in wires:
            wire.socket.close()
    print(f"{growth.by >> 10} KiB, {neighbour.waited:.3f} s")
    assert growth.by < MOST_HELD
    assert neighbour.waited < LATEST
    until(lambda: many.proxy.fds < 100, "that all is given back")
