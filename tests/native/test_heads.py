"""Heads of HTTP/1.1 in Python and in Cython: what one makes of any bytes, the other makes of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.native.twins import Twins, outcome, patient

MAX_METHOD, MAX_TARGET, MAX_HEAD = 64, 8192, 65536
GOOD = b"HTTP/1.1 200 OK\r\n"
FIELDS = (
    b"Host: a.test\r\nUser-Agent: some/1.0 (like others)\r\nAccept: */*\r\n",
    b"Host: a.test\r\n",
    b"host:a.test\r\ncookie: a=b; c=d\r\nx-empty:\r\n",
    b"",
)
REQUESTS = (
    b"GET / HTTP/1.1\r\n%b\r\n",
    b"GET /a/b?c=d&e=%%20 HTTP/1.1\r\n%b\r\n",
    b"POST /form HTTP/1.1\r\n%b\r\n",
    b"GE / HTTP/1.1\r\n%b\r\n",
    b"GETS * HTTP/1.1\r\n%b\r\n",
    b"CONNECT a.test:443 HTTP/1.1\r\n%b\r\n",
    b"GET / HTTP/1.0\r\n%b\r\n",
    b"get http://a.test/#here HTTP/1.1\r\n%b\r\n",
    b"\r\nGET / HTTP/1.1\r\n%b\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n%b",
)
RESPONSES = (
    GOOD + b"%b\r\n",
    b"HTTP/1.1 200 \r\n%b\r\n",
    b"HTTP/1.1 200 OKAY\r\n%b\r\n",
    b"HTTP/1.1 404 Not Found\r\n%b\r\n",
    b"HTTP/1.0 200 OK\r\n%b\r\n",
)
REAL = [form % fields for form in REQUESTS + RESPONSES for fields in FIELDS]
READERS = ("plain_request", "plain_response")

readers = pytest.mark.parametrize("reader", READERS)
either = st.sampled_from(READERS)
octet = st.integers(0, 255).map(lambda number: bytes([number]))
telling = st.sampled_from([b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\0", b":", b"#", b"\x7f", b"\xff"])


@pytest.fixture(scope="module")
def heads(twins_of: Callable[[str], Twins]) -> Twins:
    return twins_of("heads")


def same(heads: Twins, name: str, *arguments: Any) -> Any:
    """What both do."""
    python, compiled = (outcome(getattr(twin, name), *arguments) for twin in heads)
    assert python == compiled, (name, arguments)
    return python[1]


def blocks_of(heads: Twins, reader: str, buffer: bytes) -> Iterator[bytes]:
    """What an earlier head may have given: nothing, this one's fields, and those of all others."""
    yield from FIELDS
    found = getattr(heads.python, reader)(buffer, 0, b"none")
    if found is not None:
        yield found[-2]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A real head in which up to three places were changed."""
    buffer = draw(st.sampled_from(REAL))
    for _ in range(draw(st.integers(0, 3))):
        at, gone = draw(st.integers(0, len(buffer))), draw(st.integers(0, 2))
        buffer = buffer[:at] + draw(octet | telling | st.just(b"")) + buffer[at + gone :]
    return buffer


# -- reading


def test_the_limits_are_the_same(heads: Twins) -> None:
    for twin in heads:
        assert (twin.MAX_METHOD, twin.MAX_TARGET, twin.MAX_HEAD) == (MAX_METHOD, MAX_TARGET, MAX_HEAD)


def test_plain_heads_are_taken_by_the_compiled_one_too(heads: Twins) -> None:
    """Not only the same: it would be useless if it took none."""
    head = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
    assert heads.compiled.plain_request(head, 0, b"") == (b"GET", b"/a", b"Host: a\r\n", len(head))
    assert heads.compiled.plain_request(head, 0, b"Host: a\r\n") == (b"GET", b"/a", None, len(head))
    good = GOOD + b"A: b\r\n\r\n"
    assert heads.compiled.plain_response(good, 0, b"") == (b"A: b\r\n", len(good))
    assert heads.compiled.plain_response(good, 0, b"A: b\r\n") == (None, len(good))


@readers
def test_real_heads_cut_at_every_byte_and_with_more_behind(heads: Twins, reader: str) -> None:
    for whole in REAL:
        for known in set(blocks_of(heads, reader, whole)):
            for end in range(len(whole) + 1):
                same(heads, reader, whole[:end], 0, known)
            same(heads, reader, whole + whole, 0, known)
            same(heads, reader, whole + whole, len(whole), known)


@patient
@given(reader=either, buffer=mutated(), before=st.binary(max_size=40), behind=st.binary(max_size=40))
def test_mutated_heads(heads: Twins, reader: str, buffer: bytes, before: bytes, behind: bytes) -> None:
    for known in set(blocks_of(heads, reader, buffer)):
        same(heads, reader, before + buffer + behind, len(before), known)


@patient
@given(either, st.binary(max_size=200), st.integers(0, 220), st.sampled_from(FIELDS))
@example("plain_request", b"", 0, b"")
@example("plain_request", b"\r\n\r\n", 0, b"")
@example("plain_response", b"\r\n\r\n", 0, b"")
def test_any_bytes_at_any_offset(heads: Twins, reader: str, buffer: bytes, at: int, known: bytes) -> None:
    same(heads, reader, buffer, at, known)


@patient
@given(buffer=mutated(), shift=st.integers(-3, 3))
def test_offsets_around_the_end_of_the_bytes(heads: Twins, buffer: bytes, shift: int) -> None:
    for reader in READERS:
        same(heads, reader, buffer, max(0, len(buffer) + shift), b"")


@readers
@pytest.mark.parametrize("at", [-1, -2, -64, -65536, -(2**31), -(2**63)])
def test_the_compiled_one_reads_nothing_before_the_bytes(heads: Twins, reader: str, at: int) -> None:
    """Nobody asks for that; Python would count from the end."""
    for buffer in (b"", *REAL):
        assert getattr(heads.compiled, reader)(buffer, at, b"") is None


@readers
@pytest.mark.parametrize("at", [2**31, 2**32, 2**62, 2**63 - 1 - 65536, 2**63 - 1])
def test_offsets_far_behind_the_bytes_are_read_from_by_neither(heads: Twins, reader: str, at: int) -> None:
    """In another process, because it would be killed."""
    assert getattr(heads.python, reader)(GOOD, at, b"") is None
    script = f"import heads, sys; sys.exit(heads.{reader}({GOOD!r}, {at}, b'') is not None)"
    folder = Path(str(heads.compiled.__file__)).parent
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, check=False, timeout=60)
    assert done.returncode == 0


@pytest.mark.parametrize("size", [1, 2, 3, 4, 63, 64, 65, 66, 200])
@pytest.mark.parametrize("letter", [b"G", b"!", b"(", b"\x80"])
def test_methods_around_the_longest(heads: Twins, size: int, letter: bytes) -> None:
    found = same(heads, "plain_request", letter * size + b" / HTTP/1.1\r\nHost: a\r\n\r\n", 0, b"")
    assert (found is not None) == (size <= MAX_METHOD and letter in b"G!")


@pytest.mark.parametrize("size", [0, 1, 2, 8190, 8191, 8192, 8193, 8194, 20000, 70000])
def test_targets_around_the_longest(heads: Twins, size: int) -> None:
    found = same(heads, "plain_request", b"GET " + b"/" * size + b" HTTP/1.1\r\nHost: a\r\n\r\n", 0, b"")
    assert (found is not None) == (0 < size <= MAX_TARGET)


@readers
@pytest.mark.parametrize("size", [MAX_HEAD - 2, MAX_HEAD - 1, MAX_HEAD, MAX_HEAD + 1, MAX_HEAD + 2])
@pytest.mark.parametrize("before", [0, 1, 100_000])
@pytest.mark.parametrize("behind", [0, 1, 100_000])
def test_heads_around_the_largest(heads: Twins, reader: str, size: int, before: int, behind: int) -> None:
    line = GOOD if reader == "plain_response" else b"GET / HTTP/1.1\r\n"
    block = b"X: " + b"x" * (size - len(line) - 7) + b"\r\n"
    head = b"y" * before + line + block + b"\r\n" + b"z" * behind
    for known in (b"", block, block[1:], block + block):
        found = same(heads, reader, head, before, known)
        assert (found is not None) == (size <= MAX_HEAD)
        assert found is None or found[-1] == before + size
    for end in (before + size - 1, before + size):
        same(heads, reader, head[:end], before, block)


@patient
@given(
    either, st.lists(st.sampled_from([b"A: b\r\n", b"A: b", b"\r\n", b"AA: b\r\n", b"A: bb\r\n"]), max_size=4)
)
def test_known_fields_that_are_nearly_these(heads: Twins, reader: str, parts: list[bytes]) -> None:
    """Known is what another head had: empty, or lines without an empty one."""
    line = GOOD if reader == "plain_response" else b"GET / HTTP/1.1\r\n"
    head = line + b"".join(parts) + b"\r\n"
    for known in (b"", b"A: b\r\n", b"A: b\r\nA: b\r\n", b"AA: b\r\n", b"A: bb\r\nA: b\r\n"):
        for end in (len(head), len(head) - 1, len(head) - 2):
            same(heads, reader, head[:end], 0, known)


@patient
@given(either, st.lists(mutated(), min_size=1, max_size=5))
def test_a_connection_of_heads_each_known_by_the_one_before(
    heads: Twins, reader: str, several: list[bytes]
) -> None:
    buffer, at, known = b"".join(several), 0, b""
    while (found := same(heads, reader, buffer, at, known)) is not None:
        assert found[-1] > at
        known, at = known if found[-2] is None else found[-2], found[-1]


@readers
@pytest.mark.parametrize(
    "arguments",
    [("GET", 0, b""), (None, 0, b""), (b"", 0, None), (b"", 0, "a"), (b"", None, b""), (b"", "0", b"")],
)
def test_what_is_no_bytes_and_no_offset_is_a_type_error(
    heads: Twins, reader: str, arguments: tuple[Any, ...]
) -> None:
    """For the compiled one; Python's may not come to look at all of them."""
    assert outcome(getattr(heads.compiled, reader), *arguments) == ("raises", TypeError)


# -- writing

token = st.sampled_from([b"GET", b"HEAD", b"M-SEARCH", b"g", b"X" * 65, b"", b"GE T", b"G\r", b"\x80", b"a:"])
target = st.sampled_from([b"/", b"*", b"/a?b", b"http://a/", b"", b"/ b", b"/#", b"/\x7f", b"/\xff", b"/\n"])
text = st.sampled_from([b"", b"a", b"some value", b"\xff", b"\t"]) | st.binary(max_size=20)
pair = st.tuples(text, text)
pairs = st.lists(pair, max_size=6) | st.lists(pair, max_size=6).map(tuple)
written = st.sampled_from([b"", b"A: b\r\n", b"A: b\r\nC: d\r\n", b"whatever"])


@patient
@given(token | st.binary(max_size=70), target | st.binary(max_size=70), pairs, written)
def test_requests_are_written_and_refused_alike(
    heads: Twins, method: bytes, target: bytes, pairs: Any, lines: bytes
) -> None:
    same(heads, "request_head", method, target, pairs, lines)


@patient
@given(st.integers(-5, 1100), text, pairs, written)
@example(99, b"", [], b"")
@example(100, b"", [], b"")
@example(999, b"x", [], b"")
@example(1000, b"", [], b"")
def test_responses_are_written_and_refused_alike(
    heads: Twins, status: int, reason: bytes, pairs: Any, lines: bytes
) -> None:
    same(heads, "response_head", status, reason, pairs, lines)


@pytest.mark.parametrize("size", [0, 1, 100, 65536, 1 << 22])
def test_heads_of_any_size_are_written_whole(heads: Twins, size: int) -> None:
    rows = [(b"n" * (size % 1000), b"v" * size)] * 3
    made = same(heads, "response_head", 200, b"r" * size, rows, b"l" * size)
    assert made == b"HTTP/1.1 200 %b\r\n%b%b\r\n" % (
        b"r" * size, b"".join(b"%b: %b\r\n" % row for row in rows), b"l" * size
    )  # fmt: skip
    same(heads, "request_head", b"GET", b"/" + b"t" * size, rows, b"l" * size)


@pytest.mark.parametrize("octet", range(256))
def test_each_byte_in_each_place(heads: Twins, octet: int) -> None:
    one = bytes([octet])
    for text in (one, b"a" + one, one + b"a", b"a" + one + b"a"):
        same(heads, "request_head", text, b"/", [], b"")
        same(heads, "request_head", b"GET", text, [], b"")
        same(heads, "response_head", 200, text, [], b"")
        for row in ((text, b"v"), (b"n", text)):
            same(heads, "request_head", b"GET", b"/", [row], b"")
            same(heads, "response_head", 200, b"OK", [(b"n", b"v"), row, (b"n", b"v")], b"")
        same(heads, "plain_request", text + b" / HTTP/1.1\r\n\r\n", 0, b"")
        same(heads, "plain_request", b"GET " + text + b" HTTP/1.1\r\n\r\n", 0, b"")


@pytest.mark.parametrize(
    "rows",
    [
        *([(b"a",)], [(b"a", b"b", b"c")], [b"ab"], [None], None, 5),
        *([(b"a", None)], [(None, b"b")], [("a", b"b")]),
    ],
)
def test_what_are_no_pairs_of_bytes_is_refused_alike(heads: Twins, rows: Any) -> None:
    same(heads, "response_head", 200, b"OK", rows, b"")
    same(heads, "request_head", b"GET", b"/", rows, b"")


@pytest.mark.parametrize("wrong", [None, "text", 5])
def test_what_is_no_bytes_is_a_type_error(heads: Twins, wrong: Any) -> None:
    for arguments in ((wrong, b"/", [], b""), (b"GET", wrong, [], b""), (b"GET", b"/", [], wrong)):
        assert same(heads, "request_head", *arguments) is TypeError
    for more in ((200, wrong, [], b""), (200, b"", [], wrong)):
        assert same(heads, "response_head", *more) is TypeError


def test_what_is_made_belongs_to_nobody_else(heads: Twins) -> None:
    """One reference, and the parts that went in have as many as before."""
    name, value, lines = b"some-name", b"some value", b"A: b\r\n"
    rows = [(name, value)]
    before = [sys.getrefcount(each) for each in (name, value, lines, rows)]
    made = [heads.compiled.response_head(200, b"OK", rows, lines) for _ in range(1000)]
    assert {sys.getrefcount(made[at]) for at in range(1000)} == {2}
    buffer, known = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n", b"Host: b\r\n"
    for _ in range(1000):
        heads.compiled.plain_request(buffer, 0, known)
        outcome(heads.compiled.response_head, 200, b"\n", rows, lines)
        outcome(heads.compiled.request_head, b"GET", b"/", [(name, value), (name, b"\n")], lines)
    assert [sys.getrefcount(each) for each in (name, value, lines, rows)] == before
    block = heads.compiled.plain_request(buffer, 0, known)[2]
    assert sys.getrefcount(block) == 2
