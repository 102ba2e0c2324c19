"""What a connection may do in vain: each flood ends at its limit, and an honest client never meets it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rproxy.wire.http2_events import Broken, ErrorCode, RequestHead
from rproxy.wire.http2_frames import PREFACE
from rproxy.wire.http2_gate import (
    CHORES,
    MAX_CONTINUATIONS,
    MAX_HEAD,
    TINY,
    Account,
)
from rproxy.wire.message import Fields
from tests.wire.http2_talk import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GET,
    HEADERS,
    PADDED,
    PING,
    POST,
    PRIORITY,
    SETTINGS,
    Talk,
    block,
    frame,
    head,
    rst,
    settings,
    window,
)

OK = Fields([])


def test_an_account_fills_up_slowly_and_not_above_its_rim() -> None:
    account = Account(10, 2, 100.0)
    assert [account.spend(1, 100.0) for _ in range(10)] == [True] * 10
    assert not account.spend(1, 100.0)
    assert account.spend(1, 101.0)
    account.earn(100)
    assert not account.spend(10.5, 101.0)
    account = Account(10, 2, 100.0)
    assert account.spend(10, 100.0)
    assert account.spend(10, 1000.0)
    assert not account.spend(1, 1000.0)


def until_broken(talk: Talk, octets: Callable[[int], bytes], most: int = 5000) -> tuple[int, ErrorCode]:
    """How many rounds it takes, and what it is called."""
    for number in range(most):
        for event in talk.hear(octets(number)):
            if isinstance(event, Broken):
                return number, event.code
    return most, ErrorCode.NO_ERROR


def opened(octets: bytes = b"") -> Talk:
    talk = Talk()
    talk.hear(head(1, POST, end=False))
    return talk


FLOODS = {
    "PING": frame(PING, payload=bytes(8)),
    "PING answers": frame(PING, ACK, payload=bytes(8)),
    "SETTINGS": settings(),
    "SETTINGS with something": settings(window=1),
    "SETTINGS answers": frame(SETTINGS, ACK),
    "PRIORITY": frame(PRIORITY, 0, 5, bytes(5)),
    "unknown": frame(77, 0, 1, b"x"),
    "window of the connection": window(0, 1),
    "window of a stream": window(1, 1),
    "empty DATA": frame(DATA, 0, 1),
    "padded DATA": frame(DATA, PADDED, 1, b"\x10" + bytes(16)),
    "GOAWAY": frame(7, 0, 0, bytes(8)),
}


@pytest.mark.parametrize("octets", FLOODS.values(), ids=FLOODS)
def test_frames_that_do_no_work_are_counted(octets: bytes) -> None:
    rounds, code = until_broken(opened(), lambda number: octets)
    assert (rounds <= CHORES, code) == (True, ErrorCode.ENHANCE_YOUR_CALM)


@pytest.mark.parametrize("octets", FLOODS.values(), ids=FLOODS)
def test_so_is_a_flood_in_one_read(octets: bytes) -> None:
    assert opened().broken(octets * 5000) is ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("octets", FLOODS.values(), ids=FLOODS)
def test_a_few_each_second_are_no_flood(octets: bytes) -> None:
    talk = opened()
    for _ in range(1000):
        talk.now += 1
        assert not [event for event in talk.hear(octets * 5) if isinstance(event, Broken)]


def test_frames_for_streams_that_are_over_are_counted() -> None:
    for octets in (window(1, 1), rst(1), head(1), frame(DATA, 0, 1, b"x")):
        talk = Talk()
        talk.hear(head(1, POST, end=False))
        talk.codec.reset(1, ErrorCode.CANCEL)
        assert until_broken(talk, lambda number, octets=octets: octets)[1] is ErrorCode.ENHANCE_YOUR_CALM  # type: ignore[misc]


# -- header sections


def test_a_section_may_have_so_many_frames_and_no_more() -> None:
    octets = block([*GET, (b"x", b"y" * 100)])
    parts = [octets[at : at + 8] for at in range(0, len(octets), 8)][: MAX_CONTINUATIONS + 1]
    parts[-1] = octets[8 * (len(parts) - 1) :]
    frames = [frame(HEADERS, END_STREAM, 1, parts[0])]
    frames += [frame(CONTINUATION, 0, 1, part) for part in parts[1:-1]]
    (event,) = Talk().hear(*frames, frame(CONTINUATION, END_HEADERS, 1, parts[-1]))
    assert isinstance(event, RequestHead)
    assert Talk().broken(*frames, *[frame(CONTINUATION, 0, 1)] * 2) is ErrorCode.ENHANCE_YOUR_CALM


def test_a_section_that_never_ends_is_not_held() -> None:
    talk = Talk()
    talk.hear(frame(HEADERS, 0, 1, bytes(16384)))
    rounds, code = until_broken(talk, lambda number: frame(CONTINUATION, 0, 1, bytes(16384)))
    assert (rounds, code) == (MAX_HEAD // 16384 - 1, ErrorCode.ENHANCE_YOUR_CALM)


def test_empty_continuations_end_it_too() -> None:
    talk = Talk()
    talk.hear(frame(HEADERS, 0, 1, block(GET)))
    rounds, code = until_broken(talk, lambda number: frame(CONTINUATION, 0, 1))
    assert (rounds, code) == (MAX_CONTINUATIONS, ErrorCode.ENHANCE_YOUR_CALM)


def test_references_to_a_table_do_not_become_gigabytes() -> None:
    stored = b"\x40\1x" + b"\x7f\xdd\x1e" + b"v" * 4060
    bomb = frame(HEADERS, END_STREAM | END_HEADERS, 3, block(GET) + b"\xbe" * 12000)
    talk = Talk()
    assert isinstance(
        talk.hear(frame(HEADERS, END_STREAM | END_HEADERS, 1, block(GET) + stored))[0], RequestHead
    )
    assert talk.broken(bomb) is ErrorCode.ENHANCE_YOUR_CALM


def test_a_table_that_changes_its_size_all_the_time_is_refused_in_time() -> None:
    talk = Talk()
    talk.hear(frame(HEADERS, 0, 1, b"\x20" * 16384))
    sizes = [frame(CONTINUATION, 0, 1, b"\x20" * 16384)] * 4
    assert talk.broken(*sizes) is ErrorCode.ENHANCE_YOUR_CALM


def test_a_table_above_what_we_offered_is_a_compression_error() -> None:
    assert Talk().broken(frame(HEADERS, END_HEADERS, 1, b"\x3f\xe2\x1f")) is ErrorCode.COMPRESSION_ERROR


def test_heads_of_a_thousand_fields_are_counted() -> None:
    many = frame(HEADERS, END_STREAM | END_HEADERS, 1, block(GET) + b"\x90" * 1500)

    def ask(number: int) -> bytes:
        return many[:5] + (2 * number + 1).to_bytes(4, "big") + many[9:]

    talk = Talk()
    for number in range(100):
        if isinstance(talk.hear(ask(number))[-1], Broken):
            break
        talk.codec.send_head(2 * number + 1, 431, OK, True)
    assert number < 60


def test_a_large_table_of_the_clients_is_not_ours_to_fill() -> None:
    talk = Talk(begun=False)
    talk.hear(PREFACE, settings(table=(1 << 32) - 1))
    for number in range(1, 2001, 2):
        talk.hear(head(number))
        talk.codec.send_head(number, 200, Fields([(b"x-%d" % number, b"v" * 1000)]), True)
    assert len(talk.codec._encoder._names) < 300


# -- resets


def asked_and_reset(number: int) -> bytes:
    return head(2 * number + 1) + rst(2 * number + 1)


def test_resets_are_counted_in_one_read_and_in_many() -> None:
    assert Talk(streams=50).broken(*map(asked_and_reset, range(60))) is ErrorCode.ENHANCE_YOUR_CALM
    rounds, code = until_broken(Talk(streams=50), asked_and_reset)
    assert (rounds, code) == (50, ErrorCode.ENHANCE_YOUR_CALM)


def test_a_client_that_mostly_waits_for_its_answers_may_reset_others() -> None:
    talk = Talk(streams=50)
    for number in range(0, 2000, 2):
        talk.hear(head(2 * number + 1))
        talk.codec.send_head(2 * number + 1, 200, OK, True)
        assert not [one for one in talk.hear(asked_and_reset(number + 1)) if isinstance(one, Broken)]


def test_malformed_requests_are_counted_as_resets() -> None:
    bad = [*GET, (b"connection", b"close")]
    rounds, code = until_broken(Talk(streams=50), lambda number: head(2 * number + 1, bad))
    assert (rounds, code) == (50, ErrorCode.ENHANCE_YOUR_CALM)


def test_requests_above_the_limit_are_counted_as_resets() -> None:
    rounds, code = until_broken(Talk(streams=10), lambda number: head(2 * number + 1))
    assert (rounds, code) == (20, ErrorCode.ENHANCE_YOUR_CALM)


def test_the_ways_to_make_us_reset_end_the_connection_at_once() -> None:
    for octets in (
        window(1, 0),
        window(1, (1 << 31) - 1),
        frame(PRIORITY, 0, 1, b"\0\0\0\1\0"),
        frame(DATA, 0, 1, b"x"),
    ):
        assert isinstance(Talk().hear(head(1), octets)[-1], Broken)


# -- tiny windows


def test_a_window_opened_byte_by_byte_is_counted() -> None:
    talk = Talk(begun=False)
    talk.hear(PREFACE, settings(window=1), frame(SETTINGS, ACK), head(1))
    talk.codec.send_head(1, 200, OK, False)

    def open_it(number: int) -> bytes:
        if talk.codec.room(1) > 0:
            talk.codec.send_body(1, b"x" * talk.codec.room(1), False)
        return window(1, 1)

    rounds, code = until_broken(talk, open_it)
    assert (rounds < 120, code) == (True, ErrorCode.ENHANCE_YOUR_CALM)


def test_windows_that_are_opened_for_what_was_sent_are_not() -> None:
    talk = Talk()
    talk.hear(head(1))
    talk.codec.send_head(1, 200, OK, False)
    for _ in range(5000):
        talk.codec.send_body(1, b"x" * 1000, False)
        assert not [e for e in talk.hear(window(1, 1000), window(0, 1000)) if isinstance(e, Broken)]


def test_small_messages_with_a_ping_each_are_not() -> None:
    talk = Talk()
    talk.hear(head(1))
    talk.codec.send_head(1, 200, OK, False)
    for _ in range(5000):
        talk.codec.send_body(1, b"tiny", False)
        assert not [e for e in talk.hear(frame(PING, payload=bytes(8))) if isinstance(e, Broken)]


def test_the_last_piece_of_a_window_may_be_small() -> None:
    talk = Talk()
    talk.hear(head(1))
    talk.codec.send_head(1, 200, OK, False)
    for _ in range(200):
        while talk.codec.room(1) > 0:
            talk.codec.send_body(1, b"x" * min(talk.codec.room(1), 16384 - TINY // 2), False)
        assert not [e for e in talk.hear(window(1, 65535), window(0, 65535)) if isinstance(e, Broken)]
