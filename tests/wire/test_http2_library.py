"""The library behind the codec: what it must not see, remember or count."""

from __future__ import annotations

from hpack import Encoder

from rproxy.wire.http2_events import ErrorCode
from rproxy.wire.http2_library import CLEAN_EVERY, Library
from tests.wire.http2_talk import GET, POST, frame, head, said, settings


def opened(*octets: bytes) -> Library:
    library = Library()
    library.start(10)
    for one in (settings(), *octets):
        library.receive_data(one)
    library.data_to_send()
    return library


def test_what_a_section_says_is_kept_from_it() -> None:
    library = opened()
    (event, *_) = library.receive_data(head(1, [*POST, (b"content-length", b"what")], end=False))
    assert event.headers == []  # type: ignore[union-attr]
    assert library.fields == [*POST, (b"content-length", b"what")]


def test_sections_are_sent_as_they_are_given() -> None:
    library = opened(head(1))
    library.send_block(1, Encoder().encode([(b":status", b"103")]), interim=True, end=False)
    library.send_block(1, Encoder().encode([(b":status", b"204")]), interim=False, end=True)
    assert [one.flags for one in said(library.data_to_send())] == [4, 5]


def test_a_large_table_of_the_client_changes_nothing() -> None:
    library = opened(settings(table=(1 << 32) - 1), head(1))
    library.send_block(1, b"\x88", interim=False, end=True)
    assert said(library.data_to_send())[-1].payload == b"\x88"


def test_streams_are_neither_counted_nor_kept() -> None:
    library = opened()
    for number in range(1, 6 * CLEAN_EVERY, 2):
        library.receive_data(head(number, GET))
        library.reset_stream(number, ErrorCode.CANCEL)
    assert len(library.streams) <= CLEAN_EVERY
    for number in range(1001, 1001 + 40, 2):
        library.receive_data(frame(1, 5, number, b""))
    assert len(library.streams) >= 20
