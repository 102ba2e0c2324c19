"""A line of the request log in Cython: that of `requestlog` in Python, or none where that would escape."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rproxy.services.access import _line
from rproxy.services.requestlog import PHRASES, VERSIONS, Client, Served, _rpxy
from rproxy.wire.address import Inet
from tests.native.twins import Twins, outcome, patient

MOST = 1024
"""Bytes of a field that is written in C."""
STAMP = "2026-01-02T03:04:05"
PLAIN = bytes(number for number in range(0x21, 0x7F) if number not in b'"\\')
"""What may stand in a word."""


class Line(NamedTuple):
    """What `plain_line` is called with; each has something of its own, so that none is taken for another."""

    stamp: str = STAMP
    micros: int = 12345
    host: bytes = b"a.test"
    client: str = "192.0.2.7:1234"
    method: bytes = b"GET"
    path: bytes = b"/a?b=c"
    version: str = "HTTP/1.1"
    status: str = "200 OK"
    agent: bytes = b"some agent/1.0 (it's)"
    forwarded_for: bytes = b"192.0.2.7, 192.0.2.8"
    upstream: str = "http://10.0.0.5:8080"
    asked: bytes = b"/other?b=c"


WORDS = ("host", "method", "path", "asked")
TEXTS = ("agent", "forwarded_for")
STRINGS = ("stamp", "client", "version", "status", "upstream")


@pytest.fixture(scope="module")
def lines(twins_of: Callable[[str], Twins]) -> Twins:
    return twins_of("lines")


def slow(line: Line) -> str:
    """The line as it is written in Python."""
    number = next((number for number, name in VERSIONS.items() if name == line.version), 0)
    client = Client(Inet("192.0.2.7", 1))
    client.name = line.client
    served = Served(
        *("id", client, line.host, b"", line.method, line.path, number, 200, 0, 0.0, "app", "ok"),
        upstream=line.upstream, upstream_path=line.asked,
        user_agent=line.agent, forwarded_for=line.forwarded_for,
    )  # fmt: skip
    return _rpxy(served, f"{line.stamp}.{line.micros:06d}", line.status)


def is_plain(line: Line) -> bool:
    """Whether every field is short and would be written as it is."""
    sized = all(len(getattr(line, name)) <= MOST for name in WORDS + TEXTS + STRINGS)
    words = all(set(getattr(line, name)) <= set(PLAIN) for name in WORDS)
    texts = all(set(getattr(line, name)) <= {*PLAIN, 0x20} for name in TEXTS)
    return sized and words and texts and all(getattr(line, name).isascii() for name in STRINGS)


def check(lines: Twins, line: Line) -> str | None:
    """The compiled one's line is the slow one's; and there is one whenever there can be."""
    made: str | None = lines.compiled.plain_line(*line)
    assert (made is not None) == is_plain(line), line
    if made is not None:
        assert type(made) is str
        assert made.isascii()
        assert made == slow(line)
    return made


def test_the_python_one_leaves_every_line_to_the_log(lines: Twins) -> None:
    assert lines.python.plain_line(*Line()) is None


def test_a_plain_line(lines: Twins) -> None:
    assert check(lines, Line()) == (
        "2026-01-02T03:04:05.012345Z a.test <- 192.0.2.7:1234 -- GET /a?b=c HTTP/1.1 -- 200 OK -- /a"
        ' "some agent/1.0 (it\'s)", "192.0.2.7, 192.0.2.8" "http://10.0.0.5:8080/other?b=c"\n'
    )


@pytest.mark.parametrize("micros", [0, 1, 9, 10, 99999, 100000, 999999])
def test_microseconds_have_six_digits(lines: Twins, micros: int) -> None:
    assert check(lines, Line(micros=micros)) is not None


@pytest.mark.parametrize("name", WORDS + TEXTS)
def test_each_byte_in_each_field(lines: Twins, name: str) -> None:
    for number in range(256):
        one = bytes([number])
        for value in (one, b"a" + one, one + b"a", b"a" + one + b"a"):
            check(lines, Line()._replace(**{name: value}))


@pytest.mark.parametrize("name", ["agent", "forwarded_for", "asked", "client", "upstream"])
def test_fields_may_be_empty(lines: Twins, name: str) -> None:
    empty = "" if name in STRINGS else b""
    assert check(lines, Line()._replace(**{name: empty})) is not None


@pytest.mark.parametrize("name", WORDS + TEXTS)
@pytest.mark.parametrize("size", [1, 511, 512, 513, 1023, 1024, 1025, 2047, 2048, 2049, 70000])
def test_fields_around_the_longest(lines: Twins, name: str, size: int) -> None:
    for first, last in ((b"", b""), (b"?", b""), (b"", b"?"), (b"\0", b""), (b"", b"\xff")):
        value = first + b"x" * (size - len(first + last)) + last
        check(lines, Line()._replace(**{name: value}))


@pytest.mark.parametrize("name", ["client", "upstream"])
@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 70000])
def test_names_around_the_longest(lines: Twins, name: str, size: int) -> None:
    for letter in ("x", "\N{LATIN SMALL LETTER E WITH ACUTE}", "\N{SNOWMAN}", "\N{GRINNING FACE}"):
        check(lines, Line()._replace(**{name: letter * size}))


@pytest.mark.parametrize("path", [b"?", b"??", b"/?", b"/?a?b", b"/a", b"*", b"a?" + b"b" * 1000])
def test_the_place_is_the_path_without_its_query(lines: Twins, path: bytes) -> None:
    assert check(lines, Line(path=path)) is not None
    assert check(lines, Line(path=path, asked=path)) is not None


@pytest.mark.parametrize("longest", [MOST, MOST + 1])
def test_the_longest_line_of_all(lines: Twins, longest: int) -> None:
    """Every field at its limit at once: it has to fit on the stack."""
    line = Line(
        stamp="s" * MOST, host=b"h" * MOST, client="c" * MOST, method=b"m" * MOST, path=b"p" * MOST,
        version="HTTP/1.1", status="t" * MOST, agent=b"a" * MOST, forwarded_for=b"f" * MOST,
        upstream="u" * MOST, asked=b"k" * longest,
    )  # fmt: skip
    made = check(lines, line)
    assert (made is not None) == (longest == MOST)
    unheard_of = line._replace(version="v" * MOST, asked=b"k" * MOST)
    assert len(lines.compiled.plain_line(*unheard_of)) == 12 * MOST + len(
        '.000000Z  <-  --    --  --  "", "" ""\n'
    )


word = st.text(st.sampled_from([chr(number) for number in PLAIN]), min_size=1, max_size=30).map(str.encode)
long = st.builds(lambda part, times: (part * times)[:3000], word, st.integers(1, 3000))
rarely_odd = word | word | word | long | st.binary(min_size=1, max_size=30)
spaced = st.lists(word, max_size=4).map(b" ".join) | st.binary(max_size=30) | long
name = st.text(st.characters(codec="ascii"), max_size=20) | st.text(max_size=8)
requests = st.builds(
    Line,
    stamp=st.just(STAMP),
    micros=st.integers(0, 999_999),
    host=rarely_odd, method=rarely_odd, path=rarely_odd, asked=rarely_odd | st.just(b""),
    client=name, upstream=name, agent=spaced, forwarded_for=spaced,
    version=st.sampled_from([*VERSIONS.values(), "-"]),
    status=st.sampled_from([*PHRASES.values(), "299"]),
)  # fmt: skip


@patient
@given(requests)
@example(Line(agent=b"", forwarded_for=b"", asked=b"", upstream="", client=""))
def test_any_fields(lines: Twins, line: Line) -> None:
    check(lines, line)


@patient
@given(st.data())
def test_one_odd_byte_anywhere(lines: Twins, data: st.DataObject) -> None:
    line = data.draw(st.builds(Line, micros=st.integers(0, 999_999), path=word, asked=word))
    field = data.draw(st.sampled_from(WORDS + TEXTS))
    value = getattr(line, field)
    at = data.draw(st.integers(0, len(value)))
    odd = bytes([data.draw(st.sampled_from([*range(0x20), 0x20, 0x22, 0x5C, *range(0x7F, 0x100)]))])
    check(lines, line._replace(**{field: value[:at] + odd + value[at:]}))


@pytest.mark.parametrize("field", Line._fields)
@pytest.mark.parametrize("wrong", [None, [], "1".join])
def test_what_is_of_another_type_is_a_type_error(lines: Twins, field: str, wrong: Any) -> None:
    line = Line()._replace(**{field: wrong})
    assert outcome(lines.compiled.plain_line, *line) == ("raises", TypeError)


def test_what_is_made_belongs_to_nobody_else(lines: Twins) -> None:
    line, refused = Line(), Line(agent=b"\0")
    before = [sys.getrefcount(each) for each in (*line, *refused)]
    made = [lines.compiled.plain_line(*line) for _ in range(1000)]
    assert {sys.getrefcount(made[at]) for at in range(1000)} == {2}
    assert [lines.compiled.plain_line(*refused) for _ in range(1000)] == [None] * 1000
    assert [sys.getrefcount(each) for each in (*line, *refused)] == before


# -- of the connection log


class Ended(NamedTuple):
    """What `connection_line` is called with."""

    stamp: str = STAMP + "Z"
    host: str = "192.0.2.7"
    port: int = 1234
    user: str = " user=ann@ops"
    name: str = "a.test"
    app: str = "site"
    peer: str = "10.0.0.5:8080"
    received: int = 517
    sent: int = 1 << 40
    seconds: float = 1.2345
    reason: str = "closed"


def ended(lines: Twins, line: Ended) -> str | None:
    """The same as the slow one's, or none where it has too much."""
    made: str | None = lines.compiled.connection_line(*line)
    texts = [part for part in line if isinstance(part, str)]
    short = sum(map(len, texts)) <= 3072 and line.seconds < 1e12
    assert (made is not None) == (short and all(map(str.isascii, texts))), line
    if made is not None:
        assert type(made) is str
        assert made == _line(*line)
    return made


def test_the_python_one_leaves_connections_to_their_log(lines: Twins) -> None:
    assert lines.python.connection_line(*Ended()) is None


def test_the_line_of_a_connection(lines: Twins) -> None:
    assert ended(lines, Ended()) == (
        "2026-01-02T03:04:05Z client=192.0.2.7:1234 user=ann@ops name=a.test app=site peer=10.0.0.5:8080"
        " received=517 sent=1099511627776 seconds=1.235 reason=closed\n"
    )


@pytest.mark.parametrize(
    ("host", "port", "shown"),
    [
        ("192.0.2.7", 0, "192.0.2.7:0"),
        ("2001:db8::1", 65535, "[2001:db8::1]:65535"),
        ("fe80::1%eth0", 1, "[fe80::1%eth0]:1"),
        ("unix:", -1, "unix:"),
        ("unix:/run/a", -1, "unix:/run/a"),
    ],
)
def test_clients_of_all_kinds(lines: Twins, host: str, port: int, shown: str) -> None:
    assert f" client={shown} user=" in (ended(lines, Ended(host=host, port=port)) or "")


@pytest.mark.parametrize("name", ["stamp", "host", "user", "name", "app", "peer", "reason"])
@pytest.mark.parametrize("value", ["", "x" * 2900, "x" * 3072, "\xe9", "\u20ac"])
def test_each_text_of_a_connection(lines: Twins, name: str, value: str) -> None:
    ended(lines, Ended()._replace(**{name: value}))


@pytest.mark.parametrize(
    "seconds", [0.0, -0.0, -1.0, 0.0004999, 0.0005, 0.9995, 59.9999, 1e9, 999999999999.0, 1e12, float("-inf")]
)
def test_seconds_are_thousandths_and_never_less_than_none(lines: Twins, seconds: float) -> None:
    ended(lines, Ended(seconds=seconds))


def test_what_is_no_time_is_left_to_the_log(lines: Twins) -> None:
    assert lines.compiled.connection_line(*Ended(seconds=float("nan"))) is None


TEXT = st.text(st.characters(max_codepoint=255), max_size=40)
COUNT = st.integers(0, (1 << 63) - 1)


@patient
@given(
    st.builds(Ended, *[TEXT] * 2, st.integers(-1, 65535), *[TEXT] * 4, COUNT, COUNT, st.floats(0, 1e9), TEXT)
)
def test_any_connection(lines: Twins, line: Ended) -> None:
    ended(lines, line)
