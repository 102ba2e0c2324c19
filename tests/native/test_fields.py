"""Field sections as lists, in Python and in Cython: what one makes of any bytes, the other makes of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.native.twins import Twins, outcome, patient

MARKED = [b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade"]
NEARLY = [
    b"hosts",
    b"hos",
    b"content-lengt",
    b"content_length",
    b"transfer-encodinG",
    b"Connection",
    b"x",
    b"",
]
REAL = [
    b"Host: a.test\r\nUser-Agent: some/1.0 (like others)\r\nAccept: */*\r\n",
    b"Content-Length: 5\r\ntransfer-ENCODING:chunked\r\nX-Empty:\r\nX-Spaces:  \t a b\tc\r\n",
    b"Expect: 100-continue\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n",
    b"X-High: \x80\xff\r\n",
    b"",
]
PLENTY = 1000

octet = st.integers(0, 255).map(lambda number: bytes([number]))
telling = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b"\0", b"\x7f", b"_", b"-", b" \r\n", b":\r\n"]
)
name = st.sampled_from([*MARKED, *NEARLY]) | st.binary(max_size=20)
value = st.sampled_from([b"", b"a", b" a", b"a ", b"a b"]) | st.binary(max_size=20)
pairs = st.lists(st.tuples(name, value), max_size=8)


@pytest.fixture(scope="module")
def fields(twins_of: Callable[[str], Twins]) -> Twins:
    return twins_of("fields")


def same(fields: Twins, function: str, *arguments: Any) -> Any:
    """What both do."""
    python, compiled = (outcome(getattr(twin, function), *arguments) for twin in fields)
    assert python == compiled, (function, arguments)
    return python[1]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Real fields in which up to three places were changed; a section always ends with CRLF."""
    block = draw(st.sampled_from(REAL))
    for _ in range(draw(st.integers(0, 3))):
        at, gone = draw(st.integers(0, len(block))), draw(st.integers(0, 2))
        block = block[:at] + draw(octet | telling | st.just(b"")) + block[at + gone :]
    return block + b"\r\n" * bool(block and not block.endswith(b"\r\n"))


# -- reading


def test_the_constants_are_the_same(fields: Twins) -> None:
    for constant in (
        "HOST",
        "CONTENT_LENGTH",
        "TRANSFER_ENCODING",
        "CONNECTION",
        "EXPECT",
        "UPGRADE",
        "MARKS",
    ):
        assert getattr(fields.python, constant) == getattr(fields.compiled, constant)
    assert [fields.compiled.MARKS[name] for name in MARKED] == [1, 2, 4, 8, 16, 32]


def test_plain_fields_are_taken_by_the_compiled_one_too(fields: Twins) -> None:
    """Not only the same: it would be useless if it took none."""
    assert fields.compiled.plain_fields(b"Host: a\r\nX-Y:\r\nUPGRADE:\tb c\r\n", 3) == (
        [(b"Host", b"a"), (b"X-Y", b""), (b"UPGRADE", b"b c")], [b"host", b"x-y", b"upgrade"], 33
    )  # fmt: skip
    assert fields.compiled.plain_fields(b"", 0) == ([], [], 0)


def test_real_fields_cut_at_every_line_and_every_byte(fields: Twins) -> None:
    for whole in [*REAL, b"".join(REAL)]:
        for end in range(len(whole) + 1):
            same(fields, "plain_fields", whole[:end] + b"\r\n" * (not whole[:end].endswith(b"\r\n")), PLENTY)


@patient
@given(mutated(), st.integers(0, 6))
@example(b"\r\n", 5)
@example(b"a:\r\n", 1)
@example(b"a: \r\n", 1)
@example(b"a:b\r\r\n", 1)
@example(b"a:b\n\r\n", 1)
@example(b":b\r\n", 1)
@example(b"a :b\r\n", 1)
@example(b" a:b\r\n", 1)
def test_mutated_fields(fields: Twins, block: bytes, most: int) -> None:
    same(fields, "plain_fields", block, most)
    same(fields, "plain_fields", block, PLENTY)


@patient
@given(st.binary(max_size=100))
def test_any_bytes(fields: Twins, block: bytes) -> None:
    same(fields, "plain_fields", block + b"\r\n", PLENTY)


def test_each_byte_in_each_place(fields: Twins) -> None:
    for number in range(256):
        one = bytes([number])
        for text in (one, b"a" + one, one + b"a", b"a" + one + b"a"):
            for block in (text + b":b\r\n", b"a:" + text + b"\r\n", b"x:y\r\na" + text + b"b\r\nx:y\r\n"):
                same(fields, "plain_fields", block, PLENTY)
            same(fields, "is_plain_authority", text)
            same(fields, "is_plain_authority", b"a:" + text)
            same(fields, "lines", [(text, b"v"), (b"n", text)])


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101])
@pytest.mark.parametrize("most", [0, 99, 100, 101, 2**31 - 1])
def test_as_many_fields_as_may_be(fields: Twins, count: int, most: int) -> None:
    found = same(fields, "plain_fields", b"A: b\r\n" * count, most)
    assert (found is not None) == (count <= most)


@pytest.mark.parametrize("size", [1, 1000, 65536, 1 << 20])
def test_fields_of_any_size(fields: Twins, size: int) -> None:
    found = same(fields, "plain_fields", b"n" * size + b": " + b"v" * size + b"\r\nA:b\r\n", PLENTY)
    assert found is not None
    assert list(map(len, found[0][0])) == [size, size]


@patient
@given(st.lists(name, max_size=10))
def test_marks_of_any_names(fields: Twins, names: list[bytes]) -> None:
    same(fields, "marks", names)
    same(fields, "marks", tuple(names))


def test_each_mark_is_of_one_name_and_of_none_that_is_nearly_that(fields: Twins) -> None:
    for number, whole in enumerate(MARKED):
        assert same(fields, "marks", [whole]) == 1 << number
        for at in range(len(whole)):
            for other in (whole[:at], whole[:at] + b"?" + whole[at + 1 :], whole + whole[:at] + b"x"):
                assert same(fields, "marks", [other]) == 0


host = st.text(st.sampled_from("aZ09.-_:[]%/@ "), max_size=12).map(str.encode)
port = st.integers(-1, 100_000).map(str) | st.sampled_from(
    ["", "00080", "000080", "65535", "65536", "99999", "8x"]
)


@patient
@given(host, port)
@example(b"", "80")
@example(b"a", "")
def test_any_authority(fields: Twins, host: bytes, port: str) -> None:
    same(fields, "is_plain_authority", host)
    same(fields, "is_plain_authority", host + b":" + port.encode())


@pytest.mark.parametrize("port", [0, 1, 65534, 65535, 65536, 65537, 99999, 100_000])
def test_ports_around_the_last(fields: Twins, port: int) -> None:
    assert same(fields, "is_plain_authority", b"a:%d" % port) == (port <= 65535)
    assert same(fields, "is_plain_authority", b"a:%05d" % port) == (port <= 65535)


@pytest.mark.parametrize("text", [b"a" * 100_000, b"a" * 100_000 + b"/", b"a:" + b"1" * 100_000])
def test_a_long_authority(fields: Twins, text: bytes) -> None:
    same(fields, "is_plain_authority", text)


# -- writing


@patient
@given(pairs, st.sets(name, max_size=6))
def test_fields_are_dropped_alike(
    fields: Twins, pairs: list[tuple[bytes, bytes]], dropped: set[bytes]
) -> None:
    names = [name.lower() for name, _ in pairs]
    kept = same(fields, "without", pairs, names, dropped)
    assert kept is not pairs
    same(fields, "without", tuple(pairs), tuple(names), frozenset(dropped))
    same(fields, "without", pairs, names[1:], dropped)
    same(fields, "without", pairs[1:], names, dropped)


@patient
@given(pairs)
def test_fields_are_written_and_refused_alike(fields: Twins, pairs: list[tuple[bytes, bytes]]) -> None:
    same(fields, "lines", pairs)
    same(fields, "lines", tuple(pairs))


@pytest.mark.parametrize("size", [0, 1, 65536, 1 << 22])
def test_lines_of_any_size_are_written_whole(fields: Twins, size: int) -> None:
    rows = [(b"n" * (size % 1000), b"v" * size)] * 3
    assert same(fields, "lines", rows) == b"".join(b"%b: %b\r\n" % row for row in rows)


@pytest.mark.parametrize(
    "rows",
    [
        *([(b"a",)], [(b"a", b"b", b"c")], [b"ab"], [None], None, 5),
        *([(b"a", None)], [(None, b"b")], [("a", b"b")]),
    ],
)
def test_what_are_no_pairs_of_bytes_is_refused_alike(fields: Twins, rows: Any) -> None:
    same(fields, "lines", rows)


@pytest.mark.parametrize("wrong", [None, "text", 5])
def test_what_is_no_bytes_is_a_type_error(fields: Twins, wrong: Any) -> None:
    for call, arguments in (
        ("plain_fields", (wrong, 5)),
        ("is_plain_authority", (wrong,)),
        ("marks", ([wrong],)),
    ):
        assert outcome(getattr(fields.compiled, call), *arguments) == ("raises", TypeError)


def test_what_is_made_belongs_to_nobody_else(fields: Twins) -> None:
    compiled, block, broken = (
        fields.compiled,
        b"Some-Name: some value\r\nHost: a\r\n",
        b"Some-Name: some value\r\nHo",
    )
    rows, names, dropped = (
        [(b"some-name", b"some value"), (b"Host", b"a b")],
        [b"some-name", b"host"],
        {b"host"},
    )
    held = [block, broken, rows, names, dropped, *rows, *rows[0], *rows[1], *names]
    before = [sys.getrefcount(each) for each in held]
    for _ in range(1000):
        compiled.plain_fields(block, 5)
        compiled.plain_fields(broken, 5)
        compiled.plain_fields(block, 1)
        compiled.without(rows, names, dropped)
        compiled.marks(names)
        compiled.lines(rows)
        outcome(compiled.lines, [*rows, (b"n", b"\n")])
        outcome(compiled.without, rows, names[1:], dropped)
    assert [sys.getrefcount(each) for each in held] == before
    found, lower, _ = compiled.plain_fields(block, 5)
    made = [*found[0], lower[0], compiled.lines(rows)]
    assert [sys.getrefcount(made[at]) for at in range(4)] == [3, 3, 3, 2]
