"""Which entry of a name table serves a name."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rproxy.policy.routes import NameTable

TABLE = NameTable(
    {
        "example.org": "apex",
        "*.example.org": "wild",
        "www.example.org": "www",
        "*.deep.example.org": "deep",
        "*.org": "tld",
        "localhost": "single",
        "192.0.2.7": "address",
        "*.net": 0,
        "zero.org": 0,
    }
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("example.org", "apex"),
        ("www.example.org", "www"),
        ("a.example.org", "wild"),
        ("a.b.example.org", "wild"),
        ("a.www.example.org", "wild"),
        ("deep.example.org", "wild"),
        ("a.deep.example.org", "deep"),
        ("a.b.deep.example.org", "deep"),
        ("notexample.org", "tld"),
        ("org", None),
        ("localhost", "single"),
        ("a.localhost", None),
        ("192.0.2.7", "address"),
        ("192.0.2.8", None),
        ("example.com", None),
        ("*.example.com", None),
        ("a.net", 0),
        ("zero.org", 0),
        ("", None),
    ],
)
def test_exact_names_win_then_the_longest_wildcard(name: str, value: object) -> None:
    assert TABLE.find(name) == value


def test_a_wildcard_alone_does_not_cover_its_own_domain() -> None:
    assert NameTable({"*.example.org": 1}).find("example.org") is None
    assert NameTable({"*.org": 1, "*.example.org": 2}).find("example.org") == 1


def test_an_empty_table_serves_nothing() -> None:
    assert NameTable[int]({}).find("example.org") is None


def test_a_table_does_not_change_with_the_mapping_it_was_made_from() -> None:
    patterns = {"a.org": 1, "*.b.org": 2}
    table = NameTable(patterns)
    patterns.clear()
    assert (table.find("a.org"), table.find("x.b.org")) == (1, 2)


class CountingStr(str):
    """A name that counts how often it, or a part of it, is hashed: once per look-up."""

    hashes: Counter[str] = Counter()

    def __hash__(self) -> int:
        self.hashes[str(self)] += 1
        return super().__hash__()

    def __getitem__(self, key: object) -> "CountingStr":
        return CountingStr(super().__getitem__(key))  # type: ignore[index]


@pytest.mark.parametrize("size", [10, 10_000])
@pytest.mark.parametrize(
    ("name", "value", "lookups"),
    [
        ("host7.org", 7, 1),
        ("a.w7.net", 7, 2),
        ("a.b.c.w7.net", 7, 5),
        ("a.b.example.com", None, 4),
        ("a." * 126 + "org", None, 5),
    ],
)
def test_a_find_costs_at_most_one_look_up_per_label(
    size: int, name: str, value: int | None, lookups: int
) -> None:
    """Also a name of 127 labels costs no more than the longest wildcard, of 9 characters, can match."""
    table = NameTable({f"host{n}.org": n for n in range(size)} | {f"*.w{n}.net": n for n in range(size)})
    CountingStr.hashes = Counter()
    assert table.find(CountingStr(name)) == value
    assert 1 <= CountingStr.hashes.total() <= lookups
    assert max(CountingStr.hashes.values()) == 1


LABELS = st.lists(st.sampled_from("abc"), min_size=1, max_size=4)
NAMES = LABELS.map(".".join)


@settings(deadline=None)
@given(st.dictionaries(NAMES | NAMES.map("*.".__add__), st.integers(), max_size=12), NAMES)
def test_find_agrees_with_a_search_through_all_patterns(patterns: dict[str, int], name: str) -> None:
    covering = [pattern for pattern in patterns if pattern[0] == "*" and name.endswith(pattern[1:])]
    best = name if name in patterns else max(covering, key=len, default=None)
    assert NameTable(patterns).find(name) == (None if best is None else patterns[best])
