"""Bodies in crumbs: who sends a byte at a time comes to an end, and who has small messages never notices."""

from __future__ import annotations

import pytest

from rproxy.wire.http2_events import Body, Broken, ErrorCode
from rproxy.wire.http2_gate import CRUMBS, CRUMBS_PER_SECOND
from rproxy.wire.http2_settings import CONNECTION_WINDOW, STREAM_WINDOW
from rproxy.wire.message import Fields
from tests.wire.http2_talk import DATA, END_STREAM, PADDED, POST, Talk, frame, head

OK = Fields([])


def upload(*streams: int) -> Talk:
    """Requests whose bodies are to come; whatever comes of them is taken at once, see `pour`."""
    talk = Talk()
    for number in streams:
        talk.hear(head(number, POST, end=False))
    return talk


def pour(talk: Talk, octets: bytes) -> bool:
    """Whether the connection lives on."""
    for event in talk.hear(octets):
        if isinstance(event, Broken):
            assert event.code is ErrorCode.ENHANCE_YOUR_CALM
            return False
        if isinstance(event, Body):
            talk.codec.credit(event.stream, event.credit)
    return True


def poured(talk: Talk, octets: bytes, most: int) -> int:
    """How often that went."""
    for count in range(most):
        if not pour(talk, octets):
            return count
    return most


def data(size: int, stream: int = 1) -> bytes:
    return frame(DATA, 0, stream, b"x" * size)


CRUMBLING = {
    "one byte": data(1) * 100,
    "one byte of two": (data(1) + data(1, 3)) * 50,
    "one byte and padding": frame(DATA, PADDED, 1, b"\xff" + b"x" + bytes(255)) * 100,
    "one byte and two": (data(1) + data(2)) * 50,
    "three bytes": data(3) * 100,
}


@pytest.mark.parametrize("octets", CRUMBLING.values(), ids=CRUMBLING)
def test_bodies_in_crumbs_are_counted(octets: bytes) -> None:
    frames = 100 * poured(upload(1, 3), octets, 1000)
    assert CRUMBS // 2 <= frames <= 4 * CRUMBS


def test_so_is_a_body_in_crumbs_that_comes_slower_but_for_ever() -> None:
    talk = upload(1)
    for _ in range(60):
        talk.now += 1
        if not pour(talk, data(1) * int(2 * CRUMBS_PER_SECOND)):
            break
    assert CRUMBS / CRUMBS_PER_SECOND - 2 <= talk.now <= CRUMBS / CRUMBS_PER_SECOND + 2


def test_a_body_by_the_byte_may_take_its_time() -> None:
    talk = upload(1)
    for _ in range(60):
        talk.now += 1
        assert pour(talk, data(1) * int(CRUMBS_PER_SECOND * 0.9))


@pytest.mark.parametrize("size", [5, 7, 20])
def test_five_thousand_messages_a_second_are_a_conversation(size: int) -> None:
    """gRPC: five bytes before each message, which may be empty; in reads of a tenth of a second."""
    talk = upload(1)
    for _ in range(300):
        talk.now += 0.1
        assert pour(talk, data(size) * 500)


@pytest.mark.parametrize("stall", [1.0, 10.0])
def test_a_client_that_was_held_up_may_catch_up(stall: float) -> None:
    talk = upload(1)
    talk.now += stall
    assert pour(talk, data(5) * (STREAM_WINDOW // 5))


def test_all_windows_may_open_at_once() -> None:
    streams = range(1, 2 * (CONNECTION_WINDOW // STREAM_WINDOW), 2)
    talk = upload(*streams)
    for number in streams:
        assert pour(talk, data(10, number) * (STREAM_WINDOW // 10))


def test_messages_of_some_size_may_be_as_many_as_they_like() -> None:
    assert poured(upload(1), data(32) * 500, 100) == 100


def test_large_pieces_pay_for_small_ones() -> None:
    """Some write what is before a message, five bytes, for itself."""
    assert poured(upload(1), (data(5) + data(500)) * 200, 100) == 100


def test_requests_with_tiny_bodies_are_no_crumbs_when_they_are_served() -> None:
    talk = Talk()
    for _ in range(int(CRUMBS) - 100):
        talk.codec._gate.piece(1)
    for number in range(1, 1001, 2):
        assert pour(talk, head(number, POST, end=False) + frame(DATA, END_STREAM, number, b"x"))
        talk.codec.send_head(number, 200, OK, True)
