"""The values that an HTTP/2 connection tells: the owners know all of them, and codes have their numbers."""

from __future__ import annotations

import inspect
from typing import get_args

import pytest

from rproxy.wire import http2_events
from rproxy.wire.http2_events import Body, Broken, End, ErrorCode, Event, Leaving, Pong, Reset


def test_every_event_is_one_of_those_that_owners_expect() -> None:
    told = {
        kind
        for _, kind in inspect.getmembers(http2_events, inspect.isclass)
        if kind.__module__ == http2_events.__name__ and kind is not ErrorCode
    }
    assert set(get_args(Event)) == told


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0x0, "NO_ERROR"),
        (0x1, "PROTOCOL_ERROR"),
        (0x2, "INTERNAL_ERROR"),
        (0x3, "FLOW_CONTROL_ERROR"),
        (0x4, "SETTINGS_TIMEOUT"),
        (0x5, "STREAM_CLOSED"),
        (0x6, "FRAME_SIZE_ERROR"),
        (0x7, "REFUSED_STREAM"),
        (0x8, "CANCEL"),
        (0x9, "COMPRESSION_ERROR"),
        (0xA, "CONNECT_ERROR"),
        (0xB, "ENHANCE_YOUR_CALM"),
        (0xC, "INADEQUATE_SECURITY"),
        (0xD, "HTTP_1_1_REQUIRED"),
    ],
)
def test_codes_have_the_numbers_of_rfc_9113(number: int, name: str) -> None:
    assert ErrorCode(number).name == name


def test_there_are_no_other_codes() -> None:
    assert [code.value for code in ErrorCode] == list(range(14))


def test_events_of_different_kinds_are_told_apart() -> None:
    events = [Body(1, b"x", 1), End(1, None), Pong(b"12345678"), Leaving(), Broken(ErrorCode.CANCEL, "why")]
    found = []
    for event in events:
        match event:
            case Body(1, b"x", 1):
                found.append("body")
            case End(1, None):
                found.append("end")
            case Pong(b"12345678"):
                found.append("pong")
            case Leaving():
                found.append("leaving")
            case Broken(ErrorCode.CANCEL, "why"):
                found.append("broken")
    assert found == ["body", "end", "pong", "leaving", "broken"]


def test_a_reset_may_have_a_code_that_nobody_knows() -> None:
    assert Reset(1, None, 0xFFFFFFFF).code == 0xFFFFFFFF
