"""Rules that set, add and remove fields."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.policy.rules import HeaderRules, Side
from rproxy.wire.message import Pair

PAIRS: list[Pair] = [(b"Server", b"x"), (b"X-A", b"1"), (b"x-a", b"2"), (b"X-B", b"3")]


def test_set_replaces_every_field_of_the_name() -> None:
    rules = HeaderRules(Side.RESPONSE, set={"x-A": "9", "Content-Security-Policy": "default-src 'self'"})
    assert rules.apply(PAIRS) == [
        (b"Server", b"x"),
        (b"X-B", b"3"),
        (b"x-A", b"9"),
        (b"Content-Security-Policy", b"default-src 'self'"),
    ]


def test_add_puts_a_field_beside_those_that_are_there() -> None:
    rules = HeaderRules(Side.RESPONSE, add={"X-A": ["3", ""]})
    assert rules.apply(PAIRS) == [*PAIRS, (b"X-A", b"3"), (b"X-A", b"")]


def test_remove_takes_out_every_field_of_the_name() -> None:
    assert HeaderRules(Side.REQUEST, remove=["X-a", "Y"]).apply(PAIRS) == [PAIRS[0], PAIRS[3]]


def test_no_rules_are_false_and_give_the_very_same_list() -> None:
    rules = HeaderRules(Side.REQUEST)
    assert not rules
    assert rules.apply(PAIRS) is PAIRS
    assert HeaderRules(Side.REQUEST, remove=["a"])
    assert HeaderRules(Side.REQUEST, add={"a": "b"})


def test_applying_rules_leaves_the_given_list_as_it_was() -> None:
    before = list(PAIRS)
    HeaderRules(Side.REQUEST, set={"X-A": "9"}, add={"Z": "z"}, remove=["Server"]).apply(PAIRS)
    assert before == PAIRS


def test_names_are_those_that_any_rule_touches() -> None:
    rules = HeaderRules(Side.REQUEST, set={"A": "1"}, add={"B": "2"}, remove=["C"])
    assert rules.names == {b"a", b"b", b"c"}


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize(
    "name",
    [
        "Connection",
        "keep-alive",
        "Proxy-Connection",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "CONTENT-LENGTH",
        "Upgrade",
        "HTTP2-Settings",
        "Proxy-Authenticate",
        "Proxy-Authorization",
        "Expect",
        "",
        "a b",
        "a:",
        "é",
        "a\r\nb",
        "a\0",
    ],
)
def test_a_name_that_is_none_or_not_yours_is_an_error(side: Side, name: str) -> None:
    for kind in ({"set": {name: "x"}}, {"add": {name: "x"}}, {"remove": [name]}):
        with pytest.raises(ValueError, match=r"[.]$"):
            HeaderRules(side, **kind)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value", ["a\r\nSet-Cookie: b", "a\rb", "a\nb", "a\0b", "\x1b[0m", "\x7f", " a", "a\t"]
)
def test_a_value_that_could_break_a_line_or_a_terminal_is_an_error(value: str) -> None:
    for kind in ({"set": {"X-A": value}}, {"add": {"X-A": ["a", value]}}):
        with pytest.raises(ValueError, match="X-A"):
            HeaderRules(Side.RESPONSE, **kind)  # type: ignore[arg-type]


def test_a_value_may_have_tabs_and_letters_of_any_script() -> None:
    rules = HeaderRules(Side.RESPONSE, set={"X-A": "a\tü"})
    assert rules.apply([]) == [(b"X-A", b"a\t\xc3\xbc")]


def test_contradictions_are_errors() -> None:
    with pytest.raises(ValueError, match="removed and given a value"):
        HeaderRules(Side.REQUEST, set={"X-A": "1"}, remove=["x-a"])
    with pytest.raises(ValueError, match="removed and given a value"):
        HeaderRules(Side.REQUEST, add={"X-A": "1"}, remove=["x-a"])
    with pytest.raises(ValueError, match="twice"):
        HeaderRules(Side.REQUEST, set={"X-A": "1", "x-a": "2"})


def test_host_can_be_set_in_requests_and_nothing_else() -> None:
    assert HeaderRules(Side.REQUEST, set={"Host": "a"}).apply([(b"host", b"b")]) == [(b"Host", b"a")]
    for kind in ({"add": {"Host": "a"}}, {"remove": ["host"]}):
        with pytest.raises(ValueError, match="exactly one Host"):
            HeaderRules(Side.REQUEST, **kind)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a response has none"):
        HeaderRules(Side.RESPONSE, set={"Host": "a"})


NAMES = st.sampled_from(["A", "a", "B", "C"])
FIELDS = st.dictionaries(st.sampled_from(["A", "B"]), st.sampled_from(["1", "2"]))


@given(FIELDS, FIELDS, FIELDS, FIELDS, st.lists(st.tuples(NAMES, NAMES)))
def test_merged_rules_do_what_one_after_the_other_does(
    set1: dict[str, str],
    add1: dict[str, str],
    set2: dict[str, str],
    add2: dict[str, str],
    fields: list[tuple[str, str]],
) -> None:
    pairs = [(name.encode(), value.encode()) for name, value in fields]
    app = HeaderRules(Side.REQUEST, set=set1, add=add1, remove=["C"] if set2 else [])
    route = HeaderRules(Side.REQUEST, set=set2, add=add2, remove={"A", "B", "C"} - set(set2) - set(add2))
    assert app.then(route).apply(pairs) == route.apply(app.apply(pairs))
    assert app.then(HeaderRules(Side.REQUEST)).apply(pairs) == app.apply(pairs)
