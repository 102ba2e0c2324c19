"""Which route serves a path, which paths are refused, and what replaces a prefix."""

import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.policy.paths import PathTable, replaced, unambiguous

TABLE = PathTable({b"/": "default", b"/foo": "foo", b"/foo/bar": "bar"})


@pytest.mark.parametrize(
    ("path", "route"),
    [
        (b"/foo", "foo"),
        (b"/foo/", "foo"),
        (b"/foo?x=/foo/bar", "foo"),
        (b"/foo/?", "foo"),
        (b"/foo//bar", "foo"),
        (b"/foobar", "default"),
        (b"/foo/barx", "foo"),
        (b"/foo/bar", "bar"),
        (b"/foo/bar?q", "bar"),
        (b"/foo/bar/x", "bar"),
        (b"/foo/bar/x/y/z?/foo", "bar"),
        (b"/FOO", "default"),
        (b"/%66oo", "default"),
        (b"/foo%2fbar", "default"),
        (b"/x/../foo", "default"),
        (b"//foo", "default"),
        (b"/?/foo/bar", "default"),
        (b"/", "default"),
        (b"*", "default"),
        (b"**", None),
        (b"", None),
    ],
)
def test_the_longest_prefix_on_a_segment_boundary_serves(path: bytes, route: str | None) -> None:
    """R-RT-3, R-RT-5."""
    assert TABLE.find(path) == route


def test_a_trailing_slash_in_the_configuration_changes_nothing() -> None:
    """R-RT-4."""
    table = PathTable({b"/foo/": 1})
    assert [table.find(path) for path in (b"/foo", b"/foo/", b"/foo/x", b"/foox")] == [1, 1, 1, None]


def test_a_default_alone_serves_every_path_and_questions_about_the_whole_server() -> None:
    table = PathTable({b"/": 0})
    assert [table.find(path) for path in (b"/", b"/a/b", b"*", b"")] == [0, 0, 0, None]


def test_without_a_default_nobody_answers_for_the_whole_server() -> None:
    assert PathTable({b"/a": 0}).find(b"*") is None


def test_an_empty_table_serves_nothing() -> None:
    assert PathTable[int]({}).find(b"/") is None


@pytest.mark.parametrize("prefixes", [[b"foo"], [b""], [b"/a?b"], [b"/a", b"/a/"], [b"/", b"//"]])
def test_what_is_no_prefix_or_there_twice_is_an_error(prefixes: list[bytes]) -> None:
    with pytest.raises(ValueError, match="prefix"):
        PathTable(dict.fromkeys(prefixes, 1))


def test_the_size_of_the_table_does_not_change_the_answer() -> None:
    many = {b"/r%d" % i: b"/r%d" % i for i in range(500)}
    table = PathTable(many)
    assert [table.find(prefix + b"/x") for prefix in many] == list(many)
    assert all(PathTable({prefix: prefix}).find(prefix + b"?x") == prefix for prefix in many)


@given(
    st.sets(st.lists(st.sampled_from([b"a", b"b", b"ab"]), max_size=4).map(tuple)),
    st.lists(st.sampled_from([b"a", b"b", b"/", b"?", b"ab/", b"/a"]), max_size=10).map(b"".join),
)
def test_find_agrees_with_trying_every_prefix(segments: set[tuple[bytes, ...]], rest: bytes) -> None:
    prefixes = [b"/" + b"/".join(parts) for parts in segments]
    path = b"/" + rest
    plain = path.partition(b"?")[0]
    fitting = [p for p in prefixes if p == b"/" or plain == p or plain.startswith(p + b"/")]
    assert PathTable({p: p for p in prefixes}).find(path) == max(fitting, key=len, default=None)


@pytest.mark.parametrize(
    "path",
    [
        b"/..",
        b"/.",
        b"/a/../b",
        b"/a/./b",
        b"/a/..?x",
        b"/../../etc/passwd",
        b"/a/%2e%2e/b",
        b"/a/%2E./b",
        b"/a/.%2e",
        b"/a/..%2fb",
        b"/a/..%2Fb",
        b"/a%2f..%2fb",
        b"/a%2F%2E%2E%2Fb",
        b"/a/..%5cb",
        b"/a%5C..%5Cb",
        b"/a/..;/b",
        b"/a/..;x=1/b",
        b"/a/.;/b",
        b"/a/%2e%2e;/b",
        b"/a/..%3b/b",
        b"/a/..%3Bx/b",
        b"/a\\..\\b",
        b"/a\\b",
        b"/a%00",
        b"/a%00.txt?x",
        b"/a/..%00/b",
        b"/a//../b",
    ],
)
def test_a_path_that_a_peer_could_read_as_another_is_refused(path: bytes) -> None:
    assert not unambiguous(path)


@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b"*",
        b"",
        b"/a/b.c/d",
        b"/.well-known/acme-challenge/x",
        b"/a/...",
        b"/a/..b/b../.c",
        b"/a;x=1/b;..",
        b"/projects/group%2Fname",
        b"/a//b",
        b"//a",
        b"/%66oo",
        b"/a%5cb",
        b"/a%252e%252e/b",
        b"/100%",
        b"/caf%c3%a9%20.",
        b"/a?x=/../y",
        b"/a?x=%00\\..",
        b"/a?../..",
    ],
)
def test_other_paths_go_on_as_they_are(path: bytes) -> None:
    assert unambiguous(path)


PIECES = [b"/", b".", b"..", b"%2e", b"%2E", b"%2f", b"%5C", b"\\", b";", b"%3B", b"a", b"?", b"%00", b"%25"]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
def test_no_path_that_decodes_to_a_dot_segment_is_let_through(rest: bytes) -> None:
    """The oracle decodes what a careless server decodes, then looks at the segments."""
    path = b"/" + rest
    decoded = unquote_to_bytes(path.partition(b"?")[0])
    segments = [segment.partition(b";")[0] for segment in re.split(rb"[/\\]", decoded)]
    harmful = b"\0" in decoded or b"\\" in path.partition(b"?")[0] or {b".", b".."} & set(segments)
    assert unambiguous(path) == (not harmful)


@pytest.mark.parametrize(
    ("prefix", "replacement", "path", "seen"),
    [
        (b"/path/another", b"/path", b"/path/another/xx?query=ng", b"/path/xx?query=ng"),
        (b"/maps", b"/replacing/path1", b"/maps/org/any.ext", b"/replacing/path1/org/any.ext"),
        (b"/subapp1", b"/", b"/subapp1", b"/"),
        (b"/subapp1", b"/", b"/subapp1?q=1", b"/?q=1"),
        (b"/subapp1", b"/", b"/subapp1/", b"/"),
        (b"/subapp1", b"/", b"/subapp1/x", b"/x"),
        (b"/a", b"/b/", b"/a/x", b"/b/x"),
        (b"/a", b"/b/", b"/a", b"/b/"),
        (b"/a", b"/b", b"/a/", b"/b/"),
        (b"/a/", b"/b", b"/a/x", b"/b/x"),
        (b"/", b"/api", b"/x", b"/api/x"),
        (b"/", b"/api", b"/", b"/api/"),
        (b"/", b"/", b"/x//y?z", b"/x//y?z"),
        (b"/a", b"", b"/a", b"/"),
        (b"/a", b"", b"/a/x", b"/x"),
        (b"/a", b"/b", b"/a//x", b"/b//x"),
        (b"/a", b"/b", b"/a?x=/a/y//z", b"/b?x=/a/y//z"),
        (b"/a", None, b"/a//x?y", b"/a//x?y"),
        (b"/", b"/api", b"*", b"*"),
    ],
)
def test_a_prefix_is_replaced_with_one_slash_at_the_join(
    prefix: bytes, replacement: bytes | None, path: bytes, seen: bytes
) -> None:
    """R-RT-6."""
    assert replaced(path, prefix, replacement) == seen


SEGMENTS = st.lists(st.sampled_from([b"a", b"b", b"c.d"]), max_size=3).map(
    lambda parts: b"/" + b"/".join(parts)
)


@given(SEGMENTS, SEGMENTS, st.booleans(), SEGMENTS, st.sampled_from([b"", b"?", b"?x=/y//z"]))
def test_replacing_never_makes_a_double_slash(
    prefix: bytes, replacement: bytes, slash: bool, rest: bytes, query: bytes
) -> None:
    path = prefix.rstrip(b"/") + rest + query
    seen = replaced(path, prefix, replacement + b"/" * slash)
    assert seen.startswith(b"/")
    assert b"//" not in seen.removesuffix(query)
    assert seen.endswith(rest.lstrip(b"/") + query)
