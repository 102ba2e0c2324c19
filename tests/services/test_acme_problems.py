"""What an authority says, as a kind of trouble and as words for a person."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.services.acme_problems import (
    HINTS,
    MOST_WORDS,
    URN,
    Kind,
    clean,
    failed_order,
    failed_validation,
    refusal,
    type_of,
    words_of,
)

JSON: Any = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
)


def document(kind: str, detail: object = "because", **more: Any) -> dict[str, Any]:
    return {"type": URN + kind, "detail": detail, **more}


@pytest.mark.parametrize(
    ("kind", "status", "expected"),
    [
        ("rateLimited", 429, Kind.LIMITED),
        ("somethingNew", 429, Kind.LIMITED),
        ("rejectedIdentifier", 400, Kind.REFUSED),
        ("caa", 403, Kind.REFUSED),
        ("badCSR", 400, Kind.REFUSED),
        ("userActionRequired", 403, Kind.REFUSED),
        ("externalAccountRequired", 403, Kind.REFUSED),
        ("unauthorized", 401, Kind.REFUSED),
        ("malformed", 400, Kind.REFUSED),
        ("somethingNew", 400, Kind.REFUSED),
        ("connection", 400, Kind.VALIDATION),
        ("dns", 400, Kind.VALIDATION),
        ("serverInternal", 500, Kind.UNREACHABLE),
        ("serverInternal", 400, Kind.UNREACHABLE),
        ("somethingNew", 502, Kind.UNREACHABLE),
        ("badNonce", 400, Kind.UNREACHABLE),
        ("orderNotReady", 403, Kind.UNREACHABLE),
    ],
)
def test_each_type_of_error_has_its_kind(kind: str, status: int, expected: Kind) -> None:
    told = refusal(status, document(kind), "a new order", None, 0)
    assert (told.kind, told.type) == (expected, kind)


@pytest.mark.parametrize("body", [None, [], "x", {}, {"type": 5}, {"type": "about:blank"}, {"type": URN}])
def test_an_error_that_is_none_of_acme_is_trouble_of_the_authority(body: Any) -> None:
    told = refusal(404, body, "a new order from ca.example", 7, 0)
    assert (told.kind, told.retry_after) == (Kind.UNREACHABLE, 7)
    assert told.words == "the answer for a new order from ca.example is HTTP 404"


def test_words_say_what_happened_and_what_to_do() -> None:
    assert words_of(document("dns", "no A record")) == f"no A record (dns): {HINTS['dns']}"
    assert words_of(document("strange", None, title="Odd")) == "Odd (strange)"
    below = [document("caa", "a forbids"), document("dns", "b unknown"), 5]
    assert words_of(document("compound", "two", subproblems=below)) == "two; a forbids; b unknown (compound)"


def test_names_come_from_the_parts_of_an_error() -> None:
    below = [document("caa", identifier={"type": "dns", "value": "a.example"}), document("caa", identifier=5)]
    told = refusal(403, document("rejectedIdentifier", subproblems=below), "x", None, 0)
    assert told.names == ("a.example",)


def test_a_failed_validation_is_about_its_name() -> None:
    challenges = [{"type": "http-01"}, {"error": document("unauthorized", "a stranger answered")}]
    told = failed_validation("a.example", {"status": "invalid", "challenges": challenges})
    assert (told.kind, told.names) == (Kind.VALIDATION, ("a.example",))
    assert told.words.startswith("a.example: a stranger answered (unauthorized)")


def test_a_validation_that_fails_for_good_is_a_refusal() -> None:
    challenges = [{"error": document("caa", "not us")}]
    told = failed_validation("a.example", {"status": "invalid", "challenges": challenges})
    assert (told.kind, told.names) == (Kind.REFUSED, ("a.example",))


@pytest.mark.parametrize("broken", [None, [], 5, [5], [{"error": 5}], {"error": {}}])
def test_a_validation_that_fails_without_a_reason_counts_too(broken: Any) -> None:
    told = failed_validation("a.example", {"status": "expired", "challenges": broken})
    assert (told.kind, told.words) == (Kind.VALIDATION, "a.example: the authorization is expired")


def test_a_stranger_writes_no_lines_into_our_log() -> None:
    assert clean("a\n\x1b[31m b\u2028c\r\td") == "a [31m b c d"
    assert len(clean("x" * 10**6)) == MOST_WORDS
    assert clean(5) == ""


@given(JSON, JSON, st.integers(300, 599))
def test_any_document_makes_one_short_line(body: Any, other: Any, status: int) -> None:
    nested = {"type": URN + "x", "detail": body, "subproblems": other, "error": body, "challenges": other}
    for told in (
        refusal(status, body, "x", None, 0),
        refusal(status, nested, "x", None, 0),
        failed_order(nested),
        failed_validation("a", nested),
    ):
        assert told.words
        assert told.words.isprintable()
        assert len(told.words) < 3 * MOST_WORDS


def test_only_acmes_own_types_are_types() -> None:
    assert type_of({"type": "urn:acme:error:dns"}) == ""
    assert type_of({"type": URN + "dns\n" + "x" * 99}) == "dns " + "x" * 60
