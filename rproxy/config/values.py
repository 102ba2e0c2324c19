"""The single values of a config file as types: durations, sizes, names, paths, networks. For `schema`.

Each type is what a consumer gets (seconds as float, bytes as int, names in canonical form) with
the one function that makes it from what TOML gave. Such a function raises `Wrong`, whose text is
what the person who wrote the file reads; it never repairs.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterable
from datetime import date, datetime, time
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BeforeValidator, PlainValidator, ValidationInfo

from rproxy.policy.networks import NetworkSet
from rproxy.wire.hostname import canonical_pattern

MAX_SECONDS: Final = 365 * 86400.0
"""The longest duration: a year. More is a mistaken unit, and far less than what a clock can count."""
MAX_BYTES: Final = 2**63 - 1
"""The largest size: what a file offset or a Content-Length can hold in every program."""
MAX_COUNT: Final = 2**31 - 1
"""The largest count: what listen(2) and the other limits of the kernel hold in a C int."""
MAX_PRINTED: Final = 10**30
"""Python refuses to print an integer of more than 4300 digits; nobody needs thirty."""
SHOWN: Final = 60
"""Characters of a wrong text that a message repeats."""

CLOUDS: Final = ("cloudflare", "cloudfront", "fastly")
"""Networks that go by a name, as in rpxy."""


class Wrong(ValueError):
    """A value that cannot be used: what was expected and found, and in `hint` what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def base_of(info: ValidationInfo) -> Path:
    """The folder that relative paths start from: that of the config file, or the current one."""
    base = (info.context or {}).get("base")
    return base if isinstance(base, Path) else Path.cwd()


def did_you_mean(written: str, allowed: Iterable[str]) -> str:
    """A hint that names the allowed word nearest to what was written, or nothing when none is near."""
    near = nearest(written, allowed)
    return f'did you mean "{near}"?' if near else ""


def nearest(written: str, allowed: Iterable[str]) -> str | None:
    """The allowed word that looks most like what was written; None when none does."""
    found = difflib.get_close_matches(written[:SHOWN].lower(), allowed, 1, 0.6)
    return found[0] if found else None


def describe(value: object) -> str:
    """What TOML gave, in words: `the text "abc"`, `the number 5`, `a list`."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f"the text {quoted(value)}"
        case int() if abs(value) > MAX_PRINTED:  # Python refuses to print the largest
            return "a number beyond all use"
        case int() | float():
            return f"the number {str(value)[:SHOWN]}"
        case dict() | list() | tuple():
            return "a table" if isinstance(value, dict) else "a list"
        case date() | datetime() | time():
            return "a date or time"
        case _:
            return "something else"


def quoted(text: str) -> str:
    """A text from the file in double quotes, on one line and not too long."""
    return json.dumps(text if len(text) <= SHOWN else text[:SHOWN] + "…", ensure_ascii=not text.isprintable())


def plain(value: object, wanted: str = "a text") -> str:
    """A text that is not empty and has no control characters: what every name, path and address is."""
    if not isinstance(value, str):
        raise Wrong(f"expected {wanted}, got {describe(value)}", _quote_hint(value))
    if not value.strip():
        raise Wrong(f"expected {wanted}, got an empty text")
    if _CONTROL(value):
        raise Wrong(f"expected {wanted}, got control characters in {quoted(value)}")
    return value


def whole(low: int, high: int) -> Callable[[object], int]:
    """A reader of whole numbers from `low` to `high`."""

    wanted = f"a whole number from {low} to {high}" if high < MAX_COUNT else f"a whole number, {low} or more"

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            hint = "write it without quotes" if isinstance(value, str) and value.strip().isdigit() else ""
            raise Wrong(f"expected {wanted}, got {describe(value)}", hint)
        if not low <= value <= high:
            raise Wrong(f"expected {wanted}, got {describe(value).removeprefix('the number ')}")
        return value

    return read


def one_of(literal: Any) -> Callable[[object], Any]:
    """A reader of the words that a `Literal` lists."""
    allowed = get_args(literal)

    def read(value: object) -> Any:
        if value not in allowed:
            words = ", ".join(f'"{word}"' for word in allowed)
            hint = did_you_mean(value, allowed) if isinstance(value, str) else ""
            raise Wrong(f"expected one of {words}, got {describe(value)}", hint)
        return value

    return read


def any_number(value: object) -> tuple[object, ...]:
    """A list as a tuple, empty or not, and one value alone as a tuple of one."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def one_or_many(value: object) -> tuple[object, ...]:
    """A list as a tuple, and one value alone as a tuple of one; an empty list is refused."""
    if isinstance(value, list | tuple):
        return filled(value)
    return (value,)


def filled(value: object) -> tuple[object, ...]:
    """A list with something in it, as a tuple."""
    if not isinstance(value, list | tuple):
        hint = "put it in brackets: [ … ]" if isinstance(value, dict | str) else ""
        raise Wrong(f"expected a list, got {describe(value)}", hint)
    if not value:
        raise Wrong("expected a list with something in it, got an empty one")
    return tuple(value)


def seconds(value: object) -> float:
    """A duration: `"500ms"`, `"10s"`, `"5m"`, `"1h"`, or a number of seconds."""
    found = _seconds_of_text(value) if isinstance(value, str) else value
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise Wrong(f"expected {_DURATION}, got {describe(value)}")
    if not 0 <= found <= MAX_SECONDS:  # also false for nan
        raise Wrong(f"expected a duration from 0 to 365 days, got {describe(value)}")
    return float(found)


def _some_seconds(value: object) -> float:
    found = seconds(value)
    if found == 0:
        raise Wrong("expected a duration above 0: a wait without a limit would never end")
    return found


def _some_milliseconds(value: object) -> float:
    """As rpxy has it: a whole number of milliseconds, where 0 means five seconds."""
    return whole(0, 86_400_000)(value) / 1000 or 5.0


def _seconds_of_text(text: str) -> float:
    if text.strip() == "0":
        return 0.0
    match = _DURATION_TEXT(text)
    if match is None:
        unitless = re.fullmatch(r"\s*\d+(\.\d+)?\s*", text, re.ASCII)
        hint = f'add a unit ("{text.strip()}s"), or leave out the quotes for seconds' if unitless else ""
        raise Wrong(f"expected {_DURATION}, got {describe(text)}", hint)
    number = float(match[1])
    return number * _UNIT_SECONDS[match[2]] if math.isfinite(number) else number


def size(value: object) -> int:
    """A number of bytes, or `"64k"`, `"10m"`, `"1g"`; 0 and `"unlimited"` mean that there is no limit."""
    if isinstance(value, str):
        value = _bytes_of_text(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Wrong(f"expected {_SIZE}, got {describe(value)}")
    if not 0 <= value <= MAX_BYTES:
        raise Wrong(f"expected a size from 0 to {MAX_BYTES} bytes, got {describe(value)}")
    return value


def _bytes_of_text(text: str) -> int:
    if text == "unlimited":
        return 0
    match = _SIZE_TEXT(text)
    if match is None:
        raise Wrong(f"expected {_SIZE}, got {describe(text)}")
    return int(match[1]) << 10 * " kmg".index((match[2] or " ").lower())


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        hint = f"write {value.lower()} without quotes" if value in ("true", "false", "True", "False") else ""
        raise Wrong(f"expected true or false, got {describe(value)}", hint if isinstance(value, str) else "")
    return value


def _path(value: object, info: ValidationInfo) -> Path:
    text = plain(value, "a path")
    if text.startswith("~"):
        raise Wrong(f"{quoted(text)} begins with '~', which only a shell expands", "write the whole path")
    return base_of(info) / text


def _name(value: object) -> str:
    text = plain(value, "a host name")
    if (
        len(text) > 1024
    ):  # four times the longest name, as U-labels may shrink; says so without the whole text
        raise Wrong(f"expected a host name, got a text of {len(text)} characters")
    return canonical_pattern(text)


def _network(value: object) -> str:
    """An entry of a `NetworkSet`: an address, a network in CIDR form, or `unix`."""
    text = plain(value, 'a network such as "10.0.0.0/8"')
    NetworkSet((text,))
    return text


def _network_or_cloud(value: object) -> str:
    return value if isinstance(value, str) and value in CLOUDS else _network(value)


def _secret(value: object) -> str:
    text = plain(value, "a secret")
    padded = text + "=" * (-len(text) % 4)
    if not re.fullmatch(r"[A-Za-z0-9_-]{43}", text, re.ASCII) or len(urlsafe_b64decode(padded)) != 32:
        raise Wrong(  # the secret itself is not repeated: messages end up in logs
            "expected 32 bytes as 43 characters of base64url",
            "make one: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'",
        )
    return text


def _url_path(value: object) -> str:
    text = plain(value, "a path")
    if not text.startswith("/"):
        raise Wrong(f"expected a path that begins with '/', got {quoted(text)}", f'write "/{text[:SHOWN]}"')
    if not re.fullmatch(r"[!-~]+", text) or "?" in text or "#" in text:
        raise Wrong(
            f"{quoted(text)} has a character that no request path has (a space, '?', '#' or non-ASCII)",
            "a prefix is compared with the path as sent, percent-encoded and without the query",
        )
    return text


def _quote_hint(value: object) -> str:
    return "put it in quotes" if isinstance(value, int | float) and not isinstance(value, bool) else ""


# What could change a terminal or a log line, and what no file name or packet can carry.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]").search
_DURATION = 'a duration such as "500ms", "10s", "5m", "1h" or a number of seconds'
_DURATION_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h)\s*", re.ASCII).fullmatch
_UNIT_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
_SIZE = 'a size such as "64k", "10m", "1g" or a number of bytes'
# Twenty digits are more than MAX_BYTES has, and cheap to read.
_SIZE_TEXT = re.compile(r"\s*(\d{1,20})\s*([kKmMgG]?)\s*", re.ASCII).fullmatch

Balance = Literal[
    "none", "round_robin", "random", "sticky", "least_connections", "source_ip", "primary_backup"
]
StreamBalance = Literal["none", "round_robin", "random", "least_connections", "source_ip", "primary_backup"]
ProxyVersion = Literal["none", "v1", "v2"]
UpstreamOption = Literal[
    "keep_original_host",
    "set_upstream_host",
    "upgrade_insecure_requests",
    "force_http11_upstream",
    "force_http2_upstream",
    "forwarded_header",
]

Text = Annotated[str, PlainValidator(plain)]
Flag = Annotated[bool, PlainValidator(_flag)]
Port = Annotated[int, PlainValidator(whole(1, 65535))]
Count = Annotated[int, PlainValidator(whole(0, MAX_COUNT))]
Some = Annotated[int, PlainValidator(whole(1, MAX_COUNT))]
Weight = Annotated[int, PlainValidator(whole(1, 1000))]
Status = Annotated[int, PlainValidator(whole(100, 599))]
Seconds = Annotated[float, PlainValidator(seconds)]
SomeSeconds = Annotated[float, PlainValidator(_some_seconds)]
WholeSeconds = Annotated[int, PlainValidator(whole(0, int(MAX_SECONDS)))]
Milliseconds = Annotated[float, PlainValidator(_some_milliseconds)]
"""Written as rpxy's whole milliseconds, given to consumers in seconds."""
Size = Annotated[int, PlainValidator(size)]
FilePath = Annotated[Path, PlainValidator(_path)]
UrlPath = Annotated[str, PlainValidator(_url_path)]
Secret = Annotated[str, PlainValidator(_secret)]
Names = Annotated[tuple[Annotated[str, PlainValidator(_name)], ...], BeforeValidator(one_or_many)]
Networks = Annotated[tuple[Annotated[str, PlainValidator(_network)], ...], BeforeValidator(one_or_many)]
NetworksOrClouds = Annotated[
    tuple[Annotated[str, PlainValidator(_network_or_cloud)], ...], BeforeValidator(any_number)
]
