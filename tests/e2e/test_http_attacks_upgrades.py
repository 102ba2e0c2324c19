"""Attacks by connections that stop speaking HTTP, or say they will: Upgrade, CONNECT, WebSocket."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from tests.e2e.attackers import (
    SMUGGLED,
    Answer,
    Asked,
    Front,
    Reply,
    Stage,
    Talk,
    answers_of,
    ask,
    one_answer,
    reply,
)
from tests.e2e.peers import Certificate
from tests.e2e.programs import Programs, until
from tests.e2e.streams import all_of, exactly

IDLE = 0.3
WEBSOCKET = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: %b\r\nUpgrade: %b\r\n%b\r\n"
AGREED = SWITCH % (b"upgrade", b"websocket", b"")
EARLY = b"\x81\x05early"


@pytest.fixture(scope="module")
def stage(lasting_programs: Programs, certificate: Certificate) -> Iterator[Stage]:
    made = Stage(lasting_programs, certificate, app=f'upgrade_idle_timeout = "{IDLE}s"')
    yield made
    made.end()


@pytest.fixture(params=["clear", "tls"])
def front(request: pytest.FixtureRequest, stage: Stage) -> Front:
    stage.forget()
    chosen: Front = stage.fronts[request.param]
    return chosen


def say(data: bytes) -> Reply:
    """Answer so, whatever was asked."""
    return lambda talk, asked: talk.send(data)


def leaving(data: bytes) -> Reply:
    """The same, and go."""

    def serve(talk: Talk, asked: Asked) -> None:
        talk.send(data)
        talk.stream.close()

    return serve


def echoing(talk: Talk, asked: Asked) -> None:
    """Agree, and then send everything back; end when the client does."""
    talk.send(AGREED)
    while talk.buffer or talk.more():
        talk.send(bytes(talk.buffer))
        talk.buffer.clear()
    talk.stream.shutdown(socket.SHUT_WR)


# -- bytes behind an upgrade


def test_bytes_behind_an_upgrade_wait_until_the_origin_has_agreed(stage: Stage, front: Front) -> None:
    seen: list[bytes] = []

    def agreeing(talk: Talk, asked: Asked) -> None:
        seen.append(bytes(talk.buffer) if not talk.more(0.15) else b"too early: " + talk.buffer)
        talk.send(AGREED)
        while len(talk.buffer) < len(EARLY + SMUGGLED) and talk.more():
            pass
        seen.append(bytes(talk.buffer))
        talk.stream.close()

    stage.a.replies[b"/ws"] = agreeing
    (answer,) = front.say(ask(b"/ws", *WEBSOCKET) + EARLY + SMUGGLED)
    assert (answer.status, seen) == (101, [b"", EARLY + SMUGGLED])
    front.neighbour()


REFUSALS = {
    "no upgrade": reply(b"refused", b"Upgrade: websocket", b"Connection: upgrade"),
    "wrong version": reply(b"refused", b"Sec-WebSocket-Version: 13", status=b"426 Upgrade Required"),
    "bad request": reply(b"refused", status=b"400 Bad Request"),
    "almost": reply(b"refused", status=b"200 Switching Protocols"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_bytes_behind_a_refused_upgrade_are_requests_as_any_others(
    stage: Stage, front: Front, name: str
) -> None:
    stage.a.replies[b"/ws"] = say(REFUSALS[name])
    first = ask(b"/ws", *WEBSOCKET, b"Sec-WebSocket-Version: 777")
    for behind, in_clear, in_tls in (
        (ask(b"/own", b"Connection: close", host=b"b.test"), (200, b"b.test /own"), (421, None)),
        (ask(b"/own/../admin"), (400, None), (400, None)),
        (ask(b"/own", b"Content-Length: 1", b"Transfer-Encoding: chunked"), (400, None), (400, None)),
        (EARLY, (400, None), (400, None)),
    ):
        refused, answer = front.say(first + behind + (SMUGGLED if b"close" not in behind else b""))[:2]
        status, body = in_tls if front.secure else in_clear
        assert (refused.body, answer.status) == (b"refused", status)
        assert body in (None, answer.body)
    front.neighbour()
    assert EARLY not in stage.a.raw
    assert b"/own" not in stage.a.raw


def test_a_client_cannot_make_a_tunnel_by_itself(stage: Stage, front: Front) -> None:
    """A refused upgrade leaves no tunnel through which more could be asked than is routed."""
    stage.a.replies[b"/ws"] = say(reply(b"refused", status=b"426 Upgrade Required"))
    with front.connect() as client:
        client.sendall(ask(b"/ws", *WEBSOCKET, b"Sec-WebSocket-Version: 777"))
        assert one_answer(client).status == 426
        client.sendall(ask(b"/hidden", b"X-Forwarded-For: 6.6.6.6", b"Connection: close"))
        (answer,) = answers_of(all_of(client))
    assert answer.body == b"a.test /hidden"
    assert stage.a.last(b"/hidden").all(b"x-forwarded-for") == [b"127.0.0.1"]


@pytest.mark.parametrize("offer", [b"h2c", b"H2C", b"HTTP/2.0", b"TLS/1.2", b"h2c, HTTP/3"])
def test_nobody_is_asked_for_a_protocol_that_carries_requests(
    stage: Stage, front: Front, offer: bytes
) -> None:
    fields = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: " + offer, b"HTTP2-Settings: AAMAAABk")
    stage.a.replies[b"/h2"] = say(SWITCH % (b"upgrade", b"h2c", b""))
    answer = front.say(ask(b"/h2", *fields) + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")[0]
    asked = stage.a.last(b"/h2")
    assert answer.status == 502
    assert asked.all(b"upgrade") == asked.all(b"http2-settings") == asked.all(b"connection") == []
    front.neighbour()
    assert b"PRI" not in stage.a.raw


def test_a_switch_that_nobody_asked_for_is_no_tunnel(stage: Stage, front: Front) -> None:
    stage.a.replies[b"/switch"] = say(AGREED + reply(b"poison"))
    stage.a.replies[b"/other"] = say(SWITCH % (b"upgrade", b"smtp", b"") + b"220 poison")
    for data in (ask(b"/switch"), ask(b"/other", *WEBSOCKET)):
        with front.connect() as client:
            client.sendall(data)
            answer = one_answer(client)
        assert (answer.status, b"poison" in answer.body) == (502, False)
        front.neighbour()


# -- hop by hop

SECRET = (b"X-Hop", b"Keep-Alive", b"Proxy-Authenticate", b"Trailer", b"Alt-Svc")


def test_what_is_said_to_the_next_hop_ends_here_on_a_switch_too(stage: Stage, front: Front) -> None:
    hop = b"X-Hop: 1\r\nKeep-Alive: timeout=9\r\nProxy-Authenticate: Basic\r\nAlt-Svc: h3\r\nX-End: 1\r\n"
    stage.a.replies[b"/hop"] = leaving(SWITCH % (b"upgrade, x-hop, sec-websocket-accept", b"websocket", hop))
    fields = (b"Connection: Upgrade, X-Hop, X-Forwarded-For, X-Real-IP, Host, Cookie", *WEBSOCKET[1:])
    more = (b"X-Hop: 1", b"X-Forwarded-For: 6.6.6.6", b"Cookie: a=b", b"Proxy-Authorization: Basic eA==")
    (answer,) = front.say(ask(b"/hop", *fields, *more, b"Keep-Alive: 9", b"TE: gzip"))
    assert answer.status == 101
    assert [answer.all(name.lower()) for name in SECRET] == [[]] * 5
    assert (answer.all(b"connection"), answer.all(b"upgrade")) == ([b"upgrade"], [b"websocket"])
    assert answer.all(b"x-end") == [b"1"]
    asked = stage.a.last(b"/hop")
    gone = (b"x-hop", b"keep-alive", b"te", b"proxy-authorization")
    assert [asked.all(name) for name in gone] == [[]] * 4
    assert asked.all(b"connection") == [b"upgrade"]
    assert asked.all(b"x-forwarded-for") == asked.all(b"x-real-ip") == [b"127.0.0.1"]
    assert (asked.all(b"host"), asked.all(b"cookie")) == ([b"a.test"], [b"a=b"])


@pytest.mark.parametrize("status", [b"200 OK", b"103 Early Hints", b"304 Not Modified"])
def test_what_is_said_to_the_next_hop_ends_here_on_every_answer(
    stage: Stage, front: Front, status: bytes
) -> None:
    fields = b"Connection: X-Hop, Set-Cookie\r\nX-Hop: 1\r\nKeep-Alive: 9\r\nProxy-Authenticate: Basic\r\n"
    fields += b"Upgrade: h2c\r\nTrailer: X-Hop\r\nAlt-Svc: h3\r\nSet-Cookie: a=b\r\n\r\n"
    last = reply(b"ok") if status[:1] == b"1" else b""
    length = b"Content-Length: 0\r\n" if status[:1] == b"2" else b""
    stage.a.replies[b"/hops"] = say(b"HTTP/1.1 " + status + b"\r\n" + length + fields + last)
    answer = front.say(ask(b"/hops", b"Connection: close"))[0]
    assert answer.status == int(status[:3])
    assert [answer.all(name.lower()) for name in SECRET] == [[]] * 5
    assert (answer.all(b"set-cookie"), answer.all(b"upgrade")) == ([b"a=b"], [])


# -- tunnels


def test_an_idle_tunnel_is_cut_and_one_in_use_is_not(stage: Stage, front: Front) -> None:
    stage.a.replies[b"/ws"] = echoing
    with front.connect() as client:
        client.sendall(ask(b"/ws", *WEBSOCKET))
        assert client.recv(1000).startswith(b"HTTP/1.1 101")
        for _ in range(3):
            time.sleep(IDLE / 2)
            client.sendall(EARLY)
            assert exactly(client, len(EARLY)) == EARLY
        began = time.monotonic()
        assert all_of(client) == b""
        assert IDLE * 0.9 < time.monotonic() - began < 3 * IDLE
    until(lambda: stage.a.backend.connections[-1].fileno() < 0, "the end of the origin's side")


def test_a_tunnel_is_closed_in_halves(stage: Stage) -> None:
    stage.a.replies[b"/ws"] = echoing
    with stage.clear.connect() as client:
        client.sendall(ask(b"/ws", *WEBSOCKET) + EARLY)
        client.shutdown(socket.SHUT_WR)
        (answer,) = answers_of(all_of(client))
    assert (answer.status, answer.body) == (101, EARLY)


def test_a_goodbye_in_tls_ends_the_tunnel(stage: Stage) -> None:
    stage.a.replies[b"/ws"] = echoing
    with stage.tls.connect() as client:
        client.sendall(ask(b"/ws", *WEBSOCKET))
        assert client.recv(1000).startswith(b"HTTP/1.1 101")
        began = time.monotonic()
        client.unwrap()  # type: ignore[attr-defined]
    until(lambda: stage.a.backend.connections[-1].fileno() < 0, "the end of the origin's side")
    assert time.monotonic() - began < IDLE / 2


# -- CONNECT

CONNECT = b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n\r\n"
TARGETS = [b"a.test:443", b"b.test:80", b"127.0.0.1:22", b"[::1]:22"]


@pytest.mark.parametrize("target", TARGETS)
def test_nobody_is_connected_to_anything(stage: Stage, front: Front, target: bytes) -> None:
    answer = front.say(CONNECT % (target, target) + b"\x16\x03\x01early")[0]
    unknown = 421 if front.secure else 404
    assert answer.status == (405 if target in TARGETS[: 1 if front.secure else 2] else unknown)
    front.neighbour()
    assert (b"CONNECT" in stage.a.raw, b"early" in stage.a.raw, stage.b.raw) == (False, False, b"")


def test_what_was_meant_for_a_tunnel_is_no_request(stage: Stage, front: Front) -> None:
    """What a client sends before it is told that there is no tunnel may be another's words."""
    early = ask(b"/smuggled", b"Connection: close")
    answers: list[Answer] = front.say(CONNECT % (b"a.test:443", b"a.test:443") + early)
    assert [answer.status for answer in answers] == [405]
    assert b"smuggled" not in stage.a.raw
