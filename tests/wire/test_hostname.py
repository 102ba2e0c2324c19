"""One canonical form of host names: what people write, what clients send, what stands for them on disk."""

import base64
import hashlib
import os
import re
import subprocess
import sys
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rproxy.wire.hostname import canonical, canonical_pattern, from_wire, hashed


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"example.org", "example.org"),
        (b"WWW.Example.ORG", "www.example.org"),
        (b"localhost", "localhost"),
        (b"192.0.2.7", "192.0.2.7"),
        (b"xn--sr8hvo.ws", "xn--sr8hvo.ws"),
        (b"a-.b--.c", "a-.b--.c"),
        (b"a" * 64 + b".org", "a" * 64 + ".org"),
        (b"a" * 254, "a" * 254),
        (b"a" * 255, None),
        (b"", None),
        (b".", None),
        (b"example.org.", None),
        (b".example.org", None),
        (b"a..b", None),
        (b"-a.org", None),
        (b"a.-b", None),
        (b"under_score.org", None),
        (b"*.example.org", None),
        (b"example.org:443", None),
        (b"[::1]", None),
        (b"a/../b", None),
        (b"a\0", None),
        (b"example.org\n", None),
        (b" a", None),
        ("bücher.example".encode(), None),
        (b"\xe2\x84\xaa.org", None),
    ],
)
def test_names_on_the_wire_are_lowered_or_refused(raw: bytes, name: str | None) -> None:
    """S-10, S-9."""
    assert from_wire(raw) == name


@settings(deadline=None)
@given(st.binary(max_size=260) | st.from_regex(rb"[a-zA-Z0-9.\-_]{1,12}", fullmatch=True))
def test_wire_names_follow_the_rules_one_by_one(raw: bytes) -> None:
    labels = raw.lower().split(b".")
    allowed = set(b"abcdefghijklmnopqrstuvwxyz0123456789-")
    good = len(raw) <= 254 and all(
        label and not label.startswith(b"-") and allowed.issuperset(label) for label in labels
    )
    assert from_wire(raw) == (raw.lower().decode("latin-1") if good else None)


def test_a_hostile_name_costs_one_pass() -> None:
    begin = time.thread_time()
    for _ in range(100):
        assert from_wire(b"a-" * 126 + b"_") is None
        assert from_wire(b"a." * 126 + b".") is None
    assert time.thread_time() - begin < 1


CANONICAL = {
    "example.org": "example.org",
    "Example.ORG.": "example.org",
    "🕸💍.ws": "xn--sr8hvo.ws",
    "XN--SR8HVO.ws": "xn--sr8hvo.ws",
    "Bücher.example": "xn--bcher-kva.example",
    "bu\u0308cher.example": "xn--bcher-kva.example",
    "xn--BCHER-kva.example": "xn--bcher-kva.example",
    "straße.de": "xn--strae-oqa.de",
    "\uff45xample\u3002\uff4f\uff52\uff47\u3002": "example.org",
    "\u212aelvin.org": "kelvin.org",
    "soft\u00adhyphen.org": "softhyphen.org",
    "192.0.2.7": "192.0.2.7",
    "localhost": "localhost",
    "a-.b--c.d": "a-.b--c.d",
    "a" * 63 + ".org": "a" * 63 + ".org",
    ".".join(["a" * 49] * 5) + ".abc": ".".join(["a" * 49] * 5) + ".abc",
}


@pytest.mark.parametrize("text", CANONICAL)
def test_a_written_name_has_one_canonical_form(text: str) -> None:
    """S-16, S-17."""
    assert canonical(text) == canonical_pattern(text) == CANONICAL[text]


REFUSED = {
    "": "'' is no host name: it is empty",
    ".": "'.' is no host name: it is empty",
    "a..b": "'a..b' has an empty label: a dot in front, or two dots in a row",
    ".a": "'.a' has an empty label: a dot in front, or two dots in a row",
    "a.org..": "'a.org..' has an empty label: a dot in front, or two dots in a row",
    "-a.b": "label '-a' of '-a.b' begins with '-', which no client's name may",
    "a.b_c": "label 'b_c' of 'a.b_c': '_' (U+005F) cannot stand in a host name; letters, digits and '-' can",
    "a b.c": "label 'a b' of 'a b.c': ' ' (U+0020) cannot stand in a host name; letters, digits and '-' can",
    "ü_.c": "'ü_.c': '_' (U+005F) cannot stand in a host name; letters, digits and '-' can",
    "a\uff3fb": "'a\uff3fb': '\uff3f' (U+FF3F) cannot stand in a host name; letters, digits and '-' can",
    "a\ud800": "'a\\ud800': '\\ud800' (U+D800) cannot stand in a host name; letters, digits and '-' can",
    "\u0301a.b": "label '\u0301a' of '\u0301a.b' begins with a combining mark, '\u0301' (U+0301)",
    "xn--.de": "label 'xn--' of 'xn--.de' begins with 'xn--' but encodes no international name",
    "xn--abc-.de": "label 'xn--abc-' of 'xn--abc-.de' begins with 'xn--' but encodes no international name",
    "xn--a": "label 'xn--a' of 'xn--a' begins with 'xn--' but encodes no international name",
    "xn--Bcher-KVB9Z": "label 'xn--bcher-kvb9z' of 'xn--Bcher-KVB9Z' begins with 'xn--' but encodes no",
    "xn--é.de": "label 'xn--é' of 'xn--é.de' begins with 'xn--' but is not encoded",
    "a" * 64: "is 64 characters long in DNS form; at most 63 are allowed",
    "ü" * 60: "is 66 characters long in DNS form; at most 63 are allowed",
    ".".join(["a" * 49] * 5) + ".abcd": "is 254 characters long in DNS form; at most 253 are allowed",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_name_that_cannot_be_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(REFUSED[text])):
        canonical(text)


def test_an_a_label_of_another_spelling_is_refused() -> None:
    """The punycode of an upper-case or decomposed label would be a second name for the same host."""
    for label in ("BÜCHER", "bu\u0308cher"):
        other = "xn--" + label.encode("punycode").decode("ascii")
        with pytest.raises(ValueError, match="encodes no international name"):
            canonical(other)


PATTERNS = {
    "*.example.org": "*.example.org",
    "*.ORG": "*.org",
    "*.Bücher.example.": "*.xn--bcher-kva.example",
}


@pytest.mark.parametrize("text", PATTERNS)
def test_a_wildcard_may_lead(text: str) -> None:
    assert canonical_pattern(text) == PATTERNS[text]


MISTAKES = {
    "https://Example.org/x": "has a scheme; write 'Example.org', the name alone",
    "http://[::1]/": "has a scheme; write 'example.org', the name alone",
    "example.org/x": "has a path; write 'example.org', the name alone",
    "example.org:443/": "has a path; write 'example.org', the name alone",
    "/": "has a path; write 'example.org', the name alone",
    "example.org:443": "has a port; write 'example.org', ports belong to the listeners",
    "[::1]:443": "is an IPv6 address, which no client sends as a name; write a host name",
    "2001:db8::1": "is an IPv6 address, which no client sends as a name; write a host name",
    "my_host.org": "has a '_', which host names cannot have; write letters, digits and '-'",
    "*": "names no domain; write '*.example.org', or make this the default",
    "*.": "names no domain; write '*.example.org', or make this the default",
    "a.*.org": "'*' may only stand for whole labels in front, as in '*.example.org'",
    "*a.org": "'*' may only stand for whole labels in front, as in '*.example.org'",
    "*.*.org": "'*' may only stand for whole labels in front, as in '*.example.org'",
    "*..org": "has an empty label",
    "": "it is empty",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistaken_pattern_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(MISTAKES[text])):
        canonical_pattern(text)


TEXTS = st.text(max_size=20) | st.text(alphabet="aAß.-xn·éü。\u200d\u0301א1", max_size=12)


@settings(deadline=None)
@given(TEXTS | TEXTS.map("xn--".__add__))
def test_a_canonical_name_stays_as_it_is_and_can_be_asked_for(text: str) -> None:
    try:
        name = canonical(text)
    except ValueError:
        return
    assert canonical(name) == canonical(name.upper()) == name
    assert from_wire(name.upper().encode("ascii")) == name


@settings(deadline=None)
@given(st.text(min_size=1, max_size=10))
def test_unicode_spellings_of_a_name_are_one_name(text: str) -> None:
    try:
        name = canonical(text + ".org")
    except ValueError:
        return
    assert canonical(unicodedata.normalize("NFD", text) + ".org") == name
    assert canonical(text + "。org") == name


@settings(deadline=None)
@given(st.text(max_size=20) | st.text(alphabet="*.a:/[_", max_size=8))
def test_patterns_are_names_or_wildcards_over_names(text: str) -> None:
    try:
        pattern = canonical_pattern(text)
    except ValueError:
        return
    assert canonical(pattern.removeprefix("*.")) == pattern.removeprefix("*.")


@pytest.mark.parametrize("name", ["example.org", "a", "a" * 254])
def test_hashed_names_are_43_safe_characters_of_blake2s(name: str) -> None:
    """S-13."""
    assert re.fullmatch("[A-Za-z0-9_-]{43}", hashed(name))
    assert (
        base64.urlsafe_b64decode(hashed(name) + "=")
        == hashlib.blake2s(name.encode(), digest_size=32).digest()
    )


def test_hashed_names_are_the_same_on_every_machine() -> None:
    assert hashed("example.org") == "fL9ygbpqQxvRUdCjyNNUhr1uEVdo_RwD4KDTBLvDeuc"


def test_ascii_names_do_not_load_the_unicode_tables() -> None:
    code = "import sys, rproxy.wire.hostname as h; h.canonical('A.org'); print('idna' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert loaded.stdout == "False\n"
