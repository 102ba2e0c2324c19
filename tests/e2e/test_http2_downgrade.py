"""Requests that mean one thing in HTTP/2 and another in HTTP/1.1: no backend hears of them.

Everything else arrives as it was sent, whatever it looks like. The origins keep every byte, see `attackers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from tests.e2e.attackers import SMUGGLED, Asked, Stage, Talk, reply
from tests.e2e.http2_wire import Wire, body, dial, trailers
from tests.e2e.peers import Certificate
from tests.e2e.programs import Programs, until
from tests.wire.http2_talk import DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST, block, frame

Field = tuple[bytes, bytes]
EVIL = b"/evil"
CHUNKED = (b"transfer-encoding", b"chunked")
LENGTH = b"content-length"
ENDED = b"0\r\n\r\n"
"""The end of a body in chunks."""
FRAMES = frame(HEADERS, 5, 3, b"\x82") + frame(RST, 0, 1, bytes(4))
NASTY = ENDED + SMUGGLED + FRAMES + b"\0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
"""A body that looks like the end of one, like requests, frames and answers."""

fronts = pytest.mark.parametrize("front", ["clear", "tls"])


@pytest.fixture(scope="module")
def stage(lasting_programs: Programs, certificate: Certificate) -> Iterator[Stage]:
    made = Stage(lasting_programs, certificate)
    yield made
    made.end()


@pytest.fixture(autouse=True)
def forgotten(stage: Stage) -> None:
    stage.forget()


def joined(stage: Stage, front: str) -> Wire:
    return dial(stage.fronts[front].port, "a.test" if front == "tls" else "").greet()


def head(more: Sequence[Field] = (), *, end: bool = True, **pseudo: bytes) -> bytes:
    """A POST for `EVIL`, with other pseudo-header fields and with more fields."""
    fields = {"method": b"POST", "scheme": b"https", "authority": b"a.test", "path": EVIL} | pseudo
    pairs = [(b":" + name.encode(), value) for name, value in fields.items()]
    return frame(HEADERS, END_HEADERS | END_STREAM * end, 1, block([*pairs, *more]))


def outcome(wire: Wire) -> int:
    """The status of the response on stream 1; 0 if there is none, for the stream or the connection ends."""
    while (one := wire.read()) is not None and one.kind not in (GOAWAY, RST):
        if one.kind == HEADERS and one.stream == 1:
            return int(dict(wire.fields(one))[b":status"])
    return 0


HEADS = {
    "Transfer-Encoding": head([CHUNKED], end=False) + body(ENDED + SMUGGLED),
    "Transfer-Encoding and a length": head([CHUNKED, (LENGTH, b"4")], end=False) + body(ENDED + SMUGGLED),
    "Transfer-Encoding with a space": head([(b"transfer-encoding ", b"chunked")]),
    "Transfer-Encoding in upper case": head([(b"Transfer-Encoding", b"chunked")]),
    "Transfer-Encoding with _": head([(b"transfer_encoding", b"chunked")], end=False) + body(SMUGGLED),
    "TE": head([(b"te", b"chunked")]),
    "Connection": head([(b"connection", b"content-length, close")]),
    "Upgrade": head([(b"upgrade", b"h2c"), (b"http2-settings", b"AAMAAABk")]),
    "two lengths": head([(LENGTH, b"0"), (LENGTH, b"44")], end=False) + body(SMUGGLED),
    "a list of lengths": head([(LENGTH, b"0, 44")], end=False) + body(SMUGGLED),
    "a length with a sign": head([(LENGTH, b"+0")], end=False) + body(SMUGGLED),
    "a length with a zero": head([(LENGTH, b"00")], end=False) + body(SMUGGLED),
    "a length in hex": head([(LENGTH, b"0x0")], end=False) + body(SMUGGLED),
    "a length with _": head([(b"content_length", b"0")], end=False) + body(SMUGGLED),
    "a length of nothing": head([(LENGTH, b"")], end=False) + body(SMUGGLED),
    "a length without a body": head([(LENGTH, b"44")]),
    "a line break in a value": head([(b"x", b"y\r\ntransfer-encoding: chunked")]),
    "a request in a value": head([(b"x", b"y\r\n\r\n" + SMUGGLED)]),
    "LF in a value": head([(b"x", b"y\n" + SMUGGLED)]),
    "CR in a value": head([(b"x", b"y\rz")]),
    "NUL in a value": head([(b"x", b"y\0z")]),
    "space around a value": head([(b"x", b" y ")]),
    "a line break in a name": head([(b"x: y\r\ntransfer-encoding", b"chunked")]),
    "a colon in a name": head([(b"transfer-encoding: chunked\r\nx", b"y")]),
    "an empty name": head([(b"", b"x")]),
    "a line break in :path": head(path=b"/evil HTTP/1.1\r\nHost: b.test\r\n\r\n" + SMUGGLED),
    "a version in :path": head(path=b"/evil HTTP/1.1"),
    "a host in :path": head(path=b"http://b.test/evil"),
    "a host in :path without a scheme": head(path=b"b.test/evil"),
    "two slashes and a host in :path": head(path=b"//b.test/..//evil/../x"),
    "a fragment in :path": head(path=b"/evil#/x"),
    "a request in :method": head(method=b"GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\nPOST"),
    "a space in :method": head(method=b"GET /smuggled"),
    "a line break in :authority": head(authority=b"a.test\r\ntransfer-encoding: chunked"),
    "a user in :authority": head(authority=b"a.test@evil.test:80"),
    "a password in :authority": head(authority=b"evil:80@a.test"),
    "a path in :authority": head(authority=b"a.test/smuggled"),
    "a comma in :authority": head(authority=b"a.test,b.test"),
    "a space in :authority": head(authority=b"a.test b.test"),
    "no :authority and no Host": head(authority=b""),
    "another Host": head([(b"host", b"b.test")]),
    "two Hosts": head([(b"host", b"a.test"), (b"host", b"a.test")]),
    "a URL in :scheme": head(scheme=b"http://b.test/?"),
    "a line break in :scheme": head(scheme=b"https\r\nx: y"),
    "a field of the response": head([(b":status", b"200")]),
}  # fmt: skip


@fronts
@pytest.mark.parametrize("octets", HEADS.values(), ids=HEADS)
def test_what_http_1_reads_otherwise_is_refused(stage: Stage, front: str, octets: bytes) -> None:
    wire = joined(stage, front)
    with wire.socket:
        wire.send(octets)
        assert outcome(wire) in (0, 400, 501)
    nobody_has_heard(stage, front)


def nobody_has_heard(stage: Stage, front: str) -> None:
    """And an innocent client who shares the connections to the origin gets its own answer."""
    for origin in (stage.a, stage.b):
        assert origin.targets == []
        assert origin.raw == b""
    stage.fronts[front].neighbour()


def trailed(name: bytes, value: bytes) -> bytes:
    """A body with this field behind it."""
    return head(end=False) + body(b"1234", end=False) + trailers((name, value))


BROKEN = {
    "a body that is too short": head([(LENGTH, b"60")], end=False) + body(SMUGGLED),
    "a body that is too long": head([(LENGTH, b"4")], end=False) + body(b"1234" + SMUGGLED),
    "a body that is too long by a frame": (
        head([(LENGTH, b"9")], end=False) + body(b"1234", end=False) + body(SMUGGLED)
    ),
    "a body where none is": head([(LENGTH, b"0")], end=False) + body(SMUGGLED),
    "trailers with a length": trailed(LENGTH, b"4"),
    "trailers with a line break": trailed(b"x", b"\r\n\r\n" + SMUGGLED),
    "trailers with Transfer-Encoding": trailed(*CHUNKED),
    "trailers with Host": trailed(b"host", b"b.test"),
}  # fmt: skip


@fronts
@pytest.mark.parametrize("octets", BROKEN.values(), ids=BROKEN)
def test_a_body_that_breaks_is_never_whole_and_its_connection_is_used_no_more(
    stage: Stage, front: str, octets: bytes
) -> None:
    """The head may be with the origin by then."""
    wire = joined(stage, front)
    with wire.socket:
        wire.send(octets)
        assert outcome(wire) in (0, 400)
        stage.fronts[front].neighbour()
    until(lambda: len(stage.a.targets) >= 1, "the neighbour's request")
    assert b"/smuggled" not in stage.a.raw
    assert all(asked.target != EVIL or not is_whole(asked) for asked in stage.a.asked)
    assert all(
        asked.number == 0 for asked in stage.a.asked if asked.target != EVIL and EVIL in stage.a.targets
    )


def is_whole(asked: Asked) -> bool:
    """Whether a body has the end that its head has announced."""
    if asked.all(CHUNKED[0]):
        return asked.body.endswith(ENDED)
    return len(asked.body) == int(asked.all(LENGTH)[0])


# -- what has to arrive as it is


def unchunked(talk: Talk) -> bytes:
    """A body in chunks, read by the sizes that it says."""
    whole = b""
    while True:
        while b"\r\n" not in talk.buffer:
            assert talk.more()
        line, _, rest = bytes(talk.buffer).partition(b"\r\n")
        size = int(line, 16)
        talk.buffer[:] = rest
        while len(talk.buffer) < size + 2:
            assert talk.more()
        if not size:
            assert bytes(talk.buffer) == b"\r\n"
            talk.buffer.clear()
            return whole
        whole, talk.buffer[:] = whole + bytes(talk.buffer[:size]), talk.buffer[size + 2 :]


@fronts
@pytest.mark.parametrize("sized", [True, False], ids=["with a length", "without a length"])
def test_any_body_arrives_as_it_is_and_so_does_its_answer(stage: Stage, front: str, sized: bool) -> None:
    got: list[bytes] = []

    def answer(talk: Talk, asked: Asked) -> None:
        if sized:
            talk.read_body(asked)
        got.append(asked.body if sized else unchunked(talk))
        talk.send(reply(NASTY))

    stage.a.replies[b"/nasty"] = answer
    wire = joined(stage, front)
    with wire.socket:
        length = [(LENGTH, b"%d" % len(NASTY))] if sized else []
        wire.send(head(length, end=False, path=b"/nasty"))
        for at in range(0, len(NASTY), 7):
            wire.send(body(NASTY[at : at + 7], end=at + 7 >= len(NASTY)))
        back = b""
        while True:
            one = wire.want()
            assert one.kind not in (GOAWAY, RST)
            back += one.payload if one.kind == DATA else b""
            if one.kind in (DATA, HEADERS) and one.flags & END_STREAM:
                break
    assert (got, back) == ([NASTY], NASTY)
    stage.fronts[front].neighbour()


@fronts
def test_a_body_that_is_taken_back_is_never_whole(stage: Stage, front: str) -> None:
    """And what its origin would say is said to nobody."""
    wire = joined(stage, front)
    with wire.socket:
        wire.send(head(end=False) + body(b"half", end=False))
        until(lambda: EVIL in stage.a.targets, "the request")
        wire.send(frame(RST, 0, 1, bytes(4)))
        stage.fronts[front].neighbour()
    assert [asked.target == EVIL for asked in stage.a.asked] == [True, False]
    assert stage.a.asked[1].number == 0
    assert not is_whole(stage.a.last(EVIL))


@fronts
def test_fields_arrive_as_one_request(stage: Stage, front: str) -> None:
    """Crumbs of a cookie are one (RFC 9113 §8.2.3), Host is :authority, and nothing of HTTP/2 is left."""
    wire = joined(stage, front)
    with wire.socket:
        crumbs = [(b"cookie", b"a=b"), (b"x", b"y"), (b"cookie", b"c=d"), (b"te", b"trailers")]
        wire.send(head(crumbs, method=b"GET", path=b"/fields?a=%0d%0a", authority=b"A.test"))
        assert outcome(wire) == 200
    (asked,) = stage.a.asked
    assert asked.line == b"GET /fields?a=%0d%0a HTTP/1.1"
    assert asked.all(b"host") in ([b"A.test"], [b"a.test"])
    assert asked.all(b"cookie") == [b"a=b; c=d"]
    assert asked.all(b"x") == [b"y"]
    assert not [name for name, _ in asked.fields if name.startswith(b":")]
