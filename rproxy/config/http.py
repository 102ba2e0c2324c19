"""The models of what HTTP needs besides names and peers: patience, header rules, cookies, pages, logs.

Part of `schema` and `apps`. Header names and values stay text here; they are ASCII, checked.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import BeforeValidator, PlainValidator, ValidationInfo, model_validator

from rproxy.config.table import Table
from rproxy.config.values import (
    MAX_COUNT,
    Count,
    FilePath,
    Seconds,
    SomeSeconds,
    Wrong,
    base_of,
    describe,
    one_of,
    one_or_many,
    plain,
    quoted,
    seconds,
    size,
    whole,
)
from rproxy.policy.sticky import DEFAULT_AGE, DEFAULT_NAME

MAX_RETRIES: Final = 16
"""Other peers tried for one request: each may take connect_timeout, and no client waits for more."""
MAX_HEADER_NAME: Final = 256
"""Characters of a header name: ten times the longest in use."""
MAX_HEADER_VALUE: Final = 8192
"""Characters of a header value: long security policies have half; common servers take no longer heads."""

NOT_FOR_RULES: Final = (
    *("connection", "content-length", "expect", "host", "keep-alive", "proxy-connection"),
    *("te", "trailer", "transfer-encoding", "upgrade"),
)
"""Fields that say how messages are cut apart and where they go: a rule for one could smuggle requests."""


class Tuned(NamedTuple):
    """How long, how often and how much for one `reverse_proxy` entry, with every default filled in."""

    connect_timeout: float
    response_timeout: float
    body_timeout: float
    upgrade_idle_timeout: float
    retries: int
    keepalive: int
    upstream_keepalive_timeout: float


Retries = Annotated[int, PlainValidator(whole(0, MAX_RETRIES))]


class Tuning(Table):
    """The keys of `Tuned` where they stand for an app or an entry; None: as one level above."""

    connect_timeout: SomeSeconds | None = None
    response_timeout: SomeSeconds | None = None
    """Seconds from the request's end to the response's head."""
    body_timeout: SomeSeconds | None = None
    """Seconds without a byte of a body, in either direction."""
    upgrade_idle_timeout: Seconds | None = None
    """Seconds without a byte on a connection that was upgraded; 0: never."""
    retries: Retries | None = None
    """Other peers that a request is tried at."""
    keepalive: Count | None = None
    """Idle connections kept for each peer; 0: none."""
    upstream_keepalive_timeout: SomeSeconds | None = None
    """Seconds that an idle one is kept."""


def _rate(value: object) -> int:
    """Bytes per second; the forms of a size but for `"unlimited"`, which says nothing about a minimum."""
    if value == "unlimited":
        raise Wrong("expected bytes per second, got unlimited", "0 switches the check off")
    found = size(value)
    if found > MAX_COUNT:
        raise Wrong(f"expected at most {MAX_COUNT} bytes per second, got {describe(value)}")
    return found


Rate = Annotated[int, PlainValidator(_rate)]


def _header_name(value: object) -> str:
    name = plain(value, "a header name")
    if not _TOKEN(name) or len(name) > MAX_HEADER_NAME:
        raise Wrong(f"{quoted(name)} is no header name", "letters, digits and -, without the colon")
    if name.lower() in NOT_FOR_RULES:
        hint = 'upstream_options = ["set_upstream_host"] changes it' if name.lower() == "host" else ""
        raise Wrong(f"{quoted(name)} is written by the proxy itself, no rule may change it", hint)
    return name


def _header_value(value: object) -> str:
    if value == "":
        raise Wrong("expected a header value, got an empty text", "remove = [ … ] takes a header away")
    text = plain(value, "a header value")
    if not text.isascii():
        raise Wrong(f"{quoted(text)} has characters that are not ASCII", "programs disagree on their meaning")
    if text != text.strip():
        raise Wrong(f"{quoted(text)} begins or ends with a space", "it would not arrive")
    if len(text) > MAX_HEADER_VALUE:
        raise Wrong(f"a header value has at most {MAX_HEADER_VALUE} characters, not {len(text)}")
    return text


HeaderName = Annotated[str, PlainValidator(_header_name)]
HeaderValue = Annotated[str, PlainValidator(_header_value)]


class HeaderRules(Table):
    """Changes to the fields of each request or response; a name stands in one of the three, once."""

    set: dict[HeaderName, HeaderValue] = {}
    """Fields that replace all of that name."""
    add: dict[HeaderName, Annotated[tuple[HeaderValue, ...], BeforeValidator(one_or_many)]] = {}
    """Fields that come besides those of that name: one for each value."""
    remove: Annotated[tuple[HeaderName, ...], BeforeValidator(one_or_many)] = ()

    @model_validator(mode="after")
    def _one_rule_for_a_name(self) -> HeaderRules:
        names = Counter(name.lower() for name in chain(self.set, self.add, self.remove))
        for name in chain(self.set, self.add, self.remove):
            if names[name.lower()] > 1:
                hint = "set replaces, add adds one more, remove takes away; upper and lower case are the same"
                raise Wrong(f"{quoted(name)} has more than one rule", hint)
        return self


def _cookie_name(value: object) -> str:
    name = plain(value, "a cookie name")
    if not _TOKEN(name) or len(name) > 64:
        raise Wrong(f"{quoted(name)} is no cookie name", "up to 64 letters, digits, - and _")
    return name


def _cookie_age(value: object) -> int:
    found = seconds(value)
    if found < 1 or found != int(found):
        raise Wrong(f"expected whole seconds, 1 or more, got {describe(value)}", "cookies count in seconds")
    return int(found)


class StickyCookie(Table):
    """The cookie of `load_balance = "sticky"`."""

    name: Annotated[str, PlainValidator(_cookie_name)] = DEFAULT_NAME
    max_age: Annotated[int, PlainValidator(_cookie_age)] = DEFAULT_AGE
    """Whole seconds, counted from the last use."""


def _page_key(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[45](\d\d|xx)", value, re.ASCII):
        raise Wrong(f"expected a status from 400 to 599, 4xx or 5xx, got {describe(value)}")
    return value


def _page_file(value: object, info: ValidationInfo) -> Path:
    text = plain(value, "the path of an .html file")
    if not text.endswith((".html", ".htm")):
        raise Wrong(f"{quoted(text)} is no .html file", "clients that want JSON or text get that anyway")
    return base_of(info) / text


ErrorPages = dict[Annotated[str, PlainValidator(_page_key)], Annotated[Path, PlainValidator(_page_file)]]
"""HTML files by `"404"` or, where there is none for a status, by `"4xx"`."""

LogFormat = Literal["rpxy", "common", "combined", "json"]


class AccessLog(Table):
    """Where one line per request is written, and how."""

    path: FilePath | None = None
    """None: with the other log lines."""
    format: Annotated[LogFormat, PlainValidator(one_of(LogFormat))] = "rpxy"

    def over(self, general: AccessLog) -> AccessLog:
        """What is said here, and `general` where nothing is."""
        return general.model_copy(update={key: getattr(self, key) for key in self.model_fields_set})


_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
