"""The client's end of an HTTP/2 connection without I/O, against frames made by hand."""

from __future__ import annotations

from typing import Any

from hpack import Decoder

from rproxy.wire.http1 import MAX_INTERIM
from rproxy.wire.http2_client import (
    Draining,
    Http2ClientCodec,
    ResponseHead,
    Settled,
)
from rproxy.wire.http2_events import Body, Broken, End, ErrorCode, Pong, Reset, WindowOpened
from rproxy.wire.http2_frames import PREFACE
from rproxy.wire.http2_settings import CONNECTION_WINDOW, STREAM_WINDOW
from rproxy.wire.message import Fields, Framing, Headers, Pair
from tests.wire.http2_talk import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    RST,
    SETTINGS,
    WINDOW,
    Said,
    frame,
    head,
    rst,
    said,
    settings,
    window,
)

OK = [(b":status", b"200")]
LENGTH = (b"content-length", b"5")


class Talk:
    """A codec and its peer, which has said its SETTINGS."""

    def __init__(self, *, begun: bool = True) -> None:
        self.codec = Http2ClientCodec(0.0)
        self.now = 0.0
        self.codec.start()
        self.greeting = self.codec.output()
        if begun:
            assert self.hear(settings(), frame(SETTINGS, ACK)) == [Settled()]
            self.codec.output()

    def hear(self, *octets: bytes) -> list[Any]:
        events = list(self.codec.hear(b"".join(octets), self.now))
        while self.codec.unread:
            events += self.codec.hear(b"", self.now)
        return events

    def say(self) -> list[Said]:
        return said(self.codec.output())

    def ask(self, method: bytes = b"GET", *own: Pair, end: bool = True, protocol: bytes = b"") -> int:
        fields = Fields([(b"Host", b"a"), *own])
        block = self.codec.head(method, b"http", b"/", fields, protocol)
        return self.codec.begin(b"CONNECT" if protocol else method, block, end)

    def broken(self, *octets: bytes) -> ErrorCode:
        """The code of the connection error that these bytes are; GOAWAY says the same."""
        event = self.hear(*octets)[-1]
        assert isinstance(event, Broken)
        last = self.say()[-1]
        assert (last.kind, last.payload[4:]) == (GOAWAY, int(event.code).to_bytes(4, "big"))
        assert self.hear(frame(PING, payload=b"12345678")) == []
        return event.code


def test_it_says_who_it_is_and_wants_no_pushes() -> None:
    greeting = Talk(begun=False).greeting
    assert greeting.startswith(PREFACE)
    first, second = said(greeting[len(PREFACE) :])
    pairs = [first.payload[at : at + 6] for at in range(0, len(first.payload), 6)]
    assert first.kind == SETTINGS
    assert b"\0\2\0\0\0\0" in pairs
    assert b"\0\4" + STREAM_WINDOW.to_bytes(4, "big") in pairs
    assert second == Said(WINDOW, 0, 0, (CONNECTION_WINDOW - 65535).to_bytes(4, "big"))


def test_settings_are_acknowledged_and_told() -> None:
    talk = Talk(begun=False)
    assert talk.hear(settings(streams=7, connect=1)) == [Settled()]
    assert talk.say() == [Said(SETTINGS, ACK, 0, b"")]
    assert (talk.codec.most, talk.codec.takes_tunnels) == (7, True)
    assert talk.hear(settings(streams=5)) == [Settled()]
    assert (talk.codec.most, talk.codec.takes_tunnels) == (5, True)


def test_what_is_not_said_has_no_limit() -> None:
    assert (Talk().codec.most > 1 << 30, Talk().codec.takes_tunnels) == (True, False)


def test_requests_have_odd_numbers_in_their_order() -> None:
    talk = Talk()
    assert [talk.ask(), talk.ask(end=False), talk.ask()] == [1, 3, 5]
    frames = talk.say()
    assert [(one.kind, one.stream, one.flags) for one in frames] == [
        (HEADERS, 1, END_STREAM | END_HEADERS),
        (HEADERS, 3, END_HEADERS),
        (HEADERS, 5, END_STREAM | END_HEADERS),
    ]
    assert dict(Decoder().decode(frames[0].payload, raw=True))[b":authority"] == b"a"


def test_a_head_that_is_too_long_for_a_frame_goes_on_in_others() -> None:
    talk = Talk()
    talk.ask(b"GET", (b"x", b"y" * 40000))
    frames = talk.say()
    assert [one.kind for one in frames] == [HEADERS, CONTINUATION, CONTINUATION]
    assert [one.flags & END_HEADERS for one in frames] == [0, 0, END_HEADERS]


def test_a_response_is_told_in_order() -> None:
    talk = Talk()
    number = talk.ask()
    first, *rest = talk.hear(
        head(number, [*OK, LENGTH], end=False),
        frame(DATA, 0, number, b"he"),
        frame(DATA, END_STREAM, number, b"llo"),
    )
    assert isinstance(first, ResponseHead)
    assert (first.response.status, first.response.framing, first.response.length) == (200, Framing.LENGTH, 5)
    assert rest == [Body(number, b"hello", 5), End(number, None)]
    assert talk.codec.streams == 0


def test_a_response_without_a_body_has_no_end_of_its_own() -> None:
    talk = Talk()
    (event,) = talk.hear(head(talk.ask(), OK))
    assert (event.ended, talk.codec.streams) == (True, 0)


def test_trailers_end_a_response() -> None:
    talk = Talk()
    number = talk.ask()
    *_, end = talk.hear(
        head(number, OK, end=False), frame(DATA, 0, number, b"x"), head(number, [(b"grpc-status", b"0")])
    )
    assert end == End(number, Headers([(b"grpc-status", b"0")]))


def test_interim_responses_come_before_the_final_one() -> None:
    talk = Talk()
    number = talk.ask()
    events = talk.hear(head(number, [(b":status", b"103")], end=False) * MAX_INTERIM, head(number, OK))
    assert [event.response.status for event in events] == [103] * MAX_INTERIM + [200]


def test_interim_responses_without_end_are_malformed() -> None:
    talk = Talk()
    number = talk.ask()
    events = talk.hear(head(number, [(b":status", b"103")], end=False) * (MAX_INTERIM + 1))
    assert isinstance(events[-1], Reset)
    assert (talk.say()[-1].kind, talk.codec.streams) == (RST, 0)


def test_an_answer_to_head_has_no_body() -> None:
    talk = Talk()
    number = talk.ask(b"HEAD")
    talk.hear(head(number, [*OK, LENGTH], end=False))
    assert isinstance(talk.hear(frame(DATA, 0, number, b"hello"))[0], Reset)


def test_the_answer_to_a_connect_has_any_bytes_behind_it() -> None:
    talk = Talk()
    number = talk.ask(b"CONNECT", end=False)
    assert talk.hear(head(number, OK, end=False), frame(DATA, 0, number, b"x" * 9))[1:] == [
        Body(number, b"x" * 9, 9)
    ]


def test_the_window_of_the_connection_is_given_back_at_once() -> None:
    talk = Talk()
    numbers = [talk.ask() for _ in range(8)]
    for number in numbers:
        talk.hear(head(number, OK, end=False))
        for _ in range(STREAM_WINDOW // 16384):
            talk.hear(frame(DATA, 0, number, bytes(16384)))
    given = [int.from_bytes(one.payload, "big") for one in talk.say() if one.kind == WINDOW]
    assert sum(given) == CONNECTION_WINDOW


def test_the_window_of_a_stream_is_given_back_when_it_was_taken() -> None:
    talk = Talk()
    number = talk.ask()
    talk.hear(head(number, OK, end=False))
    for _ in range(STREAM_WINDOW // 16384):
        talk.hear(frame(DATA, 0, number, bytes(16384)))
    talk.say()
    talk.codec.taken(number, STREAM_WINDOW // 2)
    assert talk.say() == [Said(WINDOW, 0, number, (STREAM_WINDOW // 2).to_bytes(4, "big"))]
    for _ in range(8):
        talk.hear(frame(DATA, 0, number, bytes(16384)))
    assert talk.broken(frame(DATA, 0, number, b"x")) is ErrorCode.FLOW_CONTROL_ERROR


def test_of_a_stream_that_has_ended_nothing_is_given_back() -> None:
    talk = Talk()
    number = talk.ask(b"POST", end=False)
    talk.hear(head(number, OK, end=False), frame(DATA, END_STREAM, number, bytes(16384)))
    talk.say()
    talk.codec.taken(number, STREAM_WINDOW)
    assert talk.say() == []


def test_padding_is_given_back_too() -> None:
    talk = Talk()
    number = talk.ask()
    talk.hear(head(number, OK, end=False))
    for _ in range(2 * STREAM_WINDOW // 256):
        assert talk.hear(frame(DATA, PADDED, number, b"\xff" + bytes(255))) == []
    assert {one.stream for one in talk.say() if one.kind == WINDOW} == {number}


def test_bodies_keep_within_the_peers_windows() -> None:
    talk = Talk()
    number = talk.ask(b"POST", end=False)
    assert talk.codec.room(number) == 65535
    talk.codec.send_body(number, bytes(16384), False)
    assert (talk.codec.room(number), talk.codec.room_in_all) == (49151, 49151)
    assert talk.hear(window(0, 100), window(number, 7)) == [WindowOpened(0), WindowOpened(number)]
    assert (talk.codec.room(number), talk.codec.room_in_all) == (49158, 49251)


def test_a_request_ends_with_trailers() -> None:
    talk = Talk()
    number = talk.ask(b"POST", end=False)
    talk.say()
    talk.codec.send_trailers(number, [(b"X-Sum", b"7")])
    (sent,) = talk.say()
    assert (sent.kind, sent.flags) == (HEADERS, END_STREAM | END_HEADERS)


def test_goaway_says_what_will_not_be_looked_at() -> None:
    talk = Talk()
    talk.ask()
    assert talk.hear(frame(GOAWAY, payload=b"\0\0\0\5\0\0\0\x0bgo away")) == [Draining(5, 11)]
    assert isinstance(talk.hear(head(1, OK))[0], ResponseHead)


def test_resets_are_told_with_their_code() -> None:
    talk = Talk()
    talk.ask()
    assert talk.hear(rst(1, 77)) == [Reset(1, None, 77)]
    assert talk.codec.streams == 0


def test_pings_are_answered_and_answers_told() -> None:
    talk = Talk()
    assert talk.hear(frame(PING, payload=b"12345678")) == []
    assert talk.say() == [Said(PING, ACK, 0, b"12345678")]
    assert talk.hear(frame(PING, ACK, 0, b"87654321")) == [Pong(b"87654321")]


def test_whatever_is_late_for_a_stream_that_was_reset_is_no_breach() -> None:
    talk = Talk()
    numbers = [talk.ask(b"POST", end=False) for _ in range(300)]
    for number in numbers:
        talk.codec.reset(number, ErrorCode.CANCEL)
    for number in numbers:  # more than are remembered
        late = (head(number, [(b"x", b"y")], end=False), frame(DATA, 0, number, bytes(3000)))
        assert talk.hear(*late, window(number, 1), rst(number)) == []
    assert talk.codec.streams == 0


def test_what_is_late_is_decoded_all_the_same() -> None:
    talk = Talk()
    gone, stays = talk.ask(), talk.ask()
    talk.codec.reset(gone, ErrorCode.CANCEL)
    indexed = b"\x88\x40\1x\1y"
    talk.hear(frame(HEADERS, END_HEADERS, gone, indexed))
    (event,) = talk.hear(frame(HEADERS, END_HEADERS | END_STREAM, stays, b"\x88\xbe"))
    assert event.response.headers.pairs == [(b"x", b"y")]


def test_the_numbers_end_where_they_have_to() -> None:
    talk = Talk()
    talk.codec._next = (1 << 31) - 3
    talk.ask()
    assert not talk.codec.used_up
    assert talk.ask() == (1 << 31) - 1
    assert talk.codec.used_up


WHOLE = (
    settings(streams=5)
    + head(1, [(b":status", b"103")], end=False)
    + head(1, [*OK, (b"x", b"y" * 100)], end=False)
    + frame(DATA, 0, 1, b"hello")
    + frame(PING, payload=b"12345678")
    + head(3, OK)
    + rst(5, 7)
    + head(1, [(b"grpc-status", b"0")])
)


def events_of(*pieces: bytes) -> list[Any]:
    talk = Talk(begun=False)
    for _ in range(3):
        talk.ask()
    return [event for piece in pieces for event in talk.hear(piece)]


def test_cuts_make_no_difference() -> None:
    whole = events_of(WHOLE)
    assert len(whole) == 7
    for at in range(len(WHOLE)):
        assert events_of(WHOLE[:at], WHOLE[at:]) == whole
    assert events_of(*[WHOLE[at : at + 1] for at in range(len(WHOLE))]) == whole
