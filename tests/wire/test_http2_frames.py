"""Frames cut out of what comes, however it is cut."""

from __future__ import annotations

import pytest

from rproxy.wire.http2_events import ErrorCode
from rproxy.wire.http2_frames import MAX_FRAME, PREFACE, Breach, Frame, FrameReader, goaway, ping
from tests.wire.http2_talk import DATA, HEADERS, PING, frame, said


def reader(octets: bytes = b"") -> FrameReader:
    made = FrameReader()
    made.receive(PREFACE + octets)
    return made


def all_of(made: FrameReader) -> list[Frame]:
    found = []
    while (one := made.next()) is not None:
        found.append(one)
    return found


ONE, TWO = frame(DATA, 1, 3, b"abc"), frame(PING, 0, 0, bytes(8))


def test_frames_are_the_same_however_they_come() -> None:
    whole = [(DATA, 1, 3, b"abc"), (PING, 0, 0, bytes(8))]
    octets = PREFACE + ONE + TWO
    for at in range(len(octets)):
        made = FrameReader()
        made.receive(octets[:at])
        found = all_of(made)
        made.receive(octets[at:])
        found += all_of(made)
        assert [(one.kind, one.flags, one.stream, one.payload) for one in found] == whole, at


def test_a_trickled_frame_is_read_and_held_once() -> None:
    made, found = reader(), []
    for octet in ONE + TWO:
        made.receive(bytes([octet]))
        found += all_of(made)
        assert len(made._buffer) < len(ONE) + len(TWO)
    assert [one.payload for one in found] == [ONE[9:], TWO[9:]]


def test_the_reserved_bit_is_no_part_of_the_number() -> None:
    (one,) = all_of(reader(frame(DATA, 0, (1 << 31) | 5)))
    assert one.stream == 5


def test_the_largest_frame_passes_and_a_larger_one_is_refused_by_its_head_alone() -> None:
    (one,) = all_of(reader(frame(DATA, 0, 1, bytes(MAX_FRAME))))
    assert one.size == MAX_FRAME
    made = reader(frame(DATA, 0, 1, bytes(MAX_FRAME + 1))[:9])
    assert made.ready
    with pytest.raises(Breach) as caught:
        made.next()
    assert caught.value.code is ErrorCode.FRAME_SIZE_ERROR


def test_ready_is_whether_there_is_a_next_one() -> None:
    made = reader(ONE + TWO[:-1])
    assert made.ready
    made.next()
    assert not made.ready
    made.receive(TWO[-1:])
    assert made.ready
    made.stop()
    assert not made.ready


@pytest.mark.parametrize(
    ("octets", "in_head"),
    [
        (b"", False),
        (frame(HEADERS, 4, 1, b"abc")[:-1], True),
        (frame(HEADERS, 4, 1, b"abc")[:2], True),
        (frame(9, 4, 1, b"abc")[:5], True),
        (frame(DATA, 0, 1, b"abc")[:-1], False),
        (frame(DATA, 0, 1, b"abc"), False),
    ],
)
def test_a_head_that_has_begun_is_known(octets: bytes, in_head: bool) -> None:
    made = reader(octets)
    all_of(made)
    assert made.in_head is in_head


def test_what_we_write_is_frames() -> None:
    assert said(ping(b"12345678", ack=True) + goaway(7, ErrorCode.ENHANCE_YOUR_CALM)) == [
        (6, 1, 0, b"12345678"),
        (7, 0, 0, bytes([0, 0, 0, 7, 0, 0, 0, 11])),
    ]
