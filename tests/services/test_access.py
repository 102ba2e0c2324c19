"""The connection log: one line each, in batches, and nothing a client sends can make two of one."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from rproxy.interfaces import Arrival
from rproxy.services.access import BATCH, FLUSH_EVERY, MOST_SHOWN, ConnectionLog, escaped, to_descriptor
from rproxy.wire.address import Address, Inet, Unix
from rproxy.wire.clienthello import ClientHello
from tests.fakes import LogLines

PEER = Inet("192.0.2.7", 1234)
FACTS: dict[str, Any] = {
    "app": "site",
    "peer": "10.0.0.5:443",
    "received": 517,
    "sent": 4096,
    "seconds": 1.25,
    "reason": "closed",
}


class Sheet:
    """A log and what its sink got, one item per call."""

    def __init__(self, now: float = 0.0) -> None:
        self.clock, self.got = Clock(), list[bytes]()
        self.clock.advance(now)
        self.log = ConnectionLog(self.clock, self.sink)
        self.full = False

    def sink(self, lines: bytes) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.got.append(lines)

    def write(self, hello: ClientHello | None = None, client: Address = PEER, **facts: Any) -> None:
        self.log.ended(Arrival("tcp:443", PEER, client, hello=hello), **{**FACTS, **facts})


def hello(name: str | None, unusable: bytes = b"") -> ClientHello:
    return ClientHello(name, (), (0x0304,), unusable)


def test_a_line_says_when_who_what_and_why() -> None:
    sheet = Sheet(now=1_800_000_000.9)
    sheet.write(hello("example.org"))
    sheet.log.flush()
    assert sheet.got == [
        b"2027-01-15T08:00:00Z client=192.0.2.7:1234 name=example.org app=site peer=10.0.0.5:443"
        b" received=517 sent=4096 seconds=1.250 reason=closed\n"
    ]


def test_the_time_moves_on() -> None:
    sheet = Sheet()
    for _ in range(2):
        sheet.write()
        sheet.clock.advance(61)
    assert [line[:20] for line in sheet.got] == [b"1970-01-01T00:00:00Z", b"1970-01-01T00:01:01Z"]


def test_a_name_in_the_configuration_is_one_word_too() -> None:
    sheet = Sheet()
    sheet.write(app="my shop reason=ok", peer="unix:/run/my shop.sock")
    sheet.log.flush()
    (line,) = sheet.got
    assert b" app=my\\x20shop\\x20reason=ok peer=unix:/run/my\\x20shop.sock received=" in line


@pytest.mark.parametrize(
    ("seen", "name"),
    [
        (None, b"-"),
        (hello(None), b"-"),
        (hello("a.example"), b"a.example"),
        (hello(None, b'a b\n"\\\xff_'), rb"a\x20b\x0a\x22\x5c\xff_"),
    ],
)
def test_the_name_is_one_word(seen: ClientHello | None, name: bytes) -> None:
    sheet = Sheet()
    sheet.write(seen)
    sheet.log.flush()
    assert b" name=" + name + b" app=" in sheet.got[0]


def test_of_a_name_as_long_as_a_hello_only_the_beginning_is_written() -> None:
    sheet = Sheet()
    sheet.write(hello(None, b"\0" * 60_000))
    sheet.log.flush()
    assert b" name=" + rb"\x00" * MOST_SHOWN + b" app=" in sheet.got[0]
    assert len(sheet.got[0]) < 5 * MOST_SHOWN


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_one_connection_is_one_line_of_words_whatever_a_client_sends(name: bytes, path: bytes) -> None:
    sheet = Sheet()
    sheet.write(hello(None, name), Unix(path))
    sheet.log.flush()
    (line,) = sheet.got
    assert re.fullmatch(rb"[!-~]+ client=[!-~]+ name=[!-~]+ app=site peer=[!-~]+( [a-z]+=[!-~]+){4}\n", line)


@given(st.text(max_size=40))
def test_escaped_text_is_one_printable_word(text: str) -> None:
    assert re.fullmatch(r"[!#-~]*", escaped(text))
    assert escaped("a-Z_0.9:[]/") == "a-Z_0.9:[]/"


def test_lines_wait_for_company_but_not_long() -> None:
    sheet = Sheet()
    sheet.write()
    sheet.clock.advance(FLUSH_EVERY / 2)
    sheet.write()
    assert sheet.got == []
    sheet.clock.advance(FLUSH_EVERY / 2)
    assert [lines.count(b"\n") for lines in sheet.got] == [2]
    assert sheet.clock.getDelayedCalls() == []
    sheet.write()
    sheet.clock.advance(FLUSH_EVERY)
    assert len(sheet.got) == 2


def test_a_full_batch_does_not_wait() -> None:
    sheet = Sheet()
    for _ in range(BATCH + 1):
        sheet.write()
    assert [lines.count(b"\n") for lines in sheet.got] == [BATCH]
    sheet.log.flush()
    assert [lines.count(b"\n") for lines in sheet.got] == [BATCH, 1]
    assert sheet.clock.getDelayedCalls() == []


def test_flushing_nothing_writes_nothing() -> None:
    sheet = Sheet()
    sheet.log.flush()
    assert sheet.got == []


def test_a_full_disk_costs_lines_and_two_messages() -> None:
    sheet = Sheet()
    with LogLines() as log:
        sheet.full = True
        for _ in range(3):
            sheet.write()
            sheet.log.flush()
        sheet.full = False
        sheet.write()
        sheet.log.flush()
        sheet.write()
        sheet.log.flush()
    assert len(sheet.got) == 2
    first, second = log.texts("rproxy.services.access")
    assert "cannot be written: No space left on device" in first
    assert "3 lines are lost" in second


def test_the_sink_of_a_descriptor_writes_all_of_it() -> None:
    reading, writing = os.pipe()
    to_descriptor(writing)(b"x" * 5000)
    assert os.read(reading, 9999) == b"x" * 5000
    os.close(writing)
    os.close(reading)
