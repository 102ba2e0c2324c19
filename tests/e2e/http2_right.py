"""What may be the right answer to frames, as steps of a conversation, and tables of those."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from tests.e2e.http2_wire import Wire
from tests.wire.http2_talk import ACK, DATA, END_STREAM, GOAWAY, HEADERS, PING, RST, SETTINGS, frame

PINGED = b"somebody"

Step = bytes | Callable[[Wire], object]


def alive(wire: Wire) -> None:
    """A PING is answered, and nothing is wrong."""
    wire.send(frame(PING, payload=PINGED))
    while (one := wire.want()).kind != PING:
        assert one.kind not in (GOAWAY, RST), one
    assert (one.flags, one.stream, one.payload) == (ACK, 0, PINGED)


def settled(wire: Wire) -> None:
    """SETTINGS are acknowledged."""
    while (one := wire.want()).kind != SETTINGS:
        assert one.kind not in (GOAWAY, RST), one
    assert (one.flags, one.stream, one.payload) == (ACK, 0, b"")


def answered(wire: Wire, stream: int = 1, status: bytes = b"200") -> None:
    """The response comes, to its end."""
    one = wire.want()
    while one.kind != HEADERS or one.stream != stream:
        assert one.kind not in (GOAWAY, RST), one
        one = wire.want()
    assert wire.fields(one)[0] == (b":status", status)
    while not (one.kind in (HEADERS, DATA) and one.stream == stream and one.flags & END_STREAM):
        assert one.kind not in (GOAWAY, RST), one
        one = wire.want()


def greeted(wire: Wire) -> None:
    """The server's first frame are its SETTINGS."""
    one = wire.want()
    assert (one.kind, one.flags & ACK, one.stream) == (SETTINGS, 0, 0)


def answers(status: bytes, stream: int = 1) -> Callable[[Wire], None]:
    """The response on this stream has this status."""
    return lambda wire: answered(wire, stream, status)


def begins(wire: Wire) -> None:
    """The head of a response comes, whatever follows."""
    while (one := wire.want()).kind != HEADERS:
        assert one.kind not in (GOAWAY, RST), one
    assert wire.fields(one)[0] == (b":status", b"200")


def comes(size: int) -> Callable[[Wire], None]:
    """The next DATA frame has so many bytes."""

    def check(wire: Wire) -> None:
        while (one := wire.want()).kind != DATA:
            assert one.kind not in (GOAWAY, RST), one
        assert len(one.payload) == size

    return check


def away(*codes: int) -> Callable[[Wire], None]:
    """The connection ends with GOAWAY and one of these codes."""

    def check(wire: Wire) -> None:
        seen: list[int] = []
        while (one := wire.read()) is not None:
            if one.kind == GOAWAY:
                seen.append(int.from_bytes(one.payload[4:8], "big"))
        assert seen, "closed without GOAWAY"
        assert seen[-1] in codes

    return check


def reset(*codes: int, stream: int = 1) -> Callable[[Wire], None]:
    """The stream is reset with one of these codes; a connection error with such a code is as good."""

    def check(wire: Wire) -> None:
        one = wire.want()
        while one.kind != GOAWAY and (one.kind, one.stream) != (RST, stream):
            one = wire.want()
        code = one.payload[4:8] if one.kind == GOAWAY else one.payload
        assert int.from_bytes(code, "big") in codes

    return check


def reset_itself(*codes: int) -> Callable[[Wire], None]:
    """RST_STREAM comes with one of these codes, whatever follows."""

    def check(wire: Wire) -> None:
        while (one := wire.want()).kind != RST:
            pass
        assert (one.stream, int.from_bytes(one.payload, "big") in codes) == (1, True)

    return check


def closed(wire: Wire) -> None:
    """The connection ends; before it has begun that may also be said in HTTP/1.1."""
    while wire.more():
        pass


class Case(NamedTuple):
    """A conversation: bytes are sent, the rest is waited for."""

    section: str
    what: str
    steps: tuple[Step, ...]

    def play(self, wire: Wire) -> None:
        """After the handshake, unless the case is about that."""
        if self.section not in ("3.4", "3.5", "generic 1"):
            wire.greet()
        for step in self.steps:
            if isinstance(step, bytes):
                wire.send(step)
            else:
                step(wire)


Row = tuple[str, str, tuple[Step, ...]]


def cases(*rows: Row) -> list[Case]:
    """A table's rows: the section, what is sent, the steps."""
    return [Case(*row) for row in rows]


def names_of(table: Iterable[Case]) -> list[str]:
    """For pytest's `ids`."""
    return [f"{case.section}: {case.what}" for case in table]
