"""Fields that the configuration sets, adds or removes: `request_headers` and `response_headers`.

Made once per app and route by `assemble`, applied by `forwarding` behind everything it does itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum

from rproxy.wire.message import Pair


class Side(Enum):
    """Whose fields are changed."""

    REQUEST = "request"
    RESPONSE = "response"


class HeaderRules:
    """Fields to take out and fields to put in; never changes. Empty rules are false and cost nothing."""

    __slots__ = ("_added", "_gone")

    def __init__(
        self,
        side: Side,
        *,
        set: Mapping[str, str | Sequence[str]] | None = None,
        add: Mapping[str, str | Sequence[str]] | None = None,
        remove: Iterable[str] = (),
    ) -> None:
        """`set` replaces all fields of a name, `add` puts more beside them; a list is several fields.

        Raises ValueError, with a sentence for the person who wrote it, for what is no field, for what
        frames a message or belongs to one connection, and for a name that is removed and set or added.
        """
        replaced = _pairs(side, set or {})
        added = _pairs(side, add or {})
        removed = frozenset(_name(side, name) for name in remove)
        if side is Side.REQUEST and b"host" in removed.union(_names(added)):
            raise ValueError("A request has exactly one Host: it can be set, not added or removed.")
        for name in sorted(removed.intersection(_names([*replaced, *added]))):
            raise ValueError(f"{name.decode('ascii')} is removed and given a value: do one of the two.")
        self._gone = frozenset(map(_dashed, removed | _names(replaced)))
        self._added = (*replaced, *added)

    @property
    def names(self) -> frozenset[bytes]:
        """Every name that the rules touch, in lower case."""
        return self._gone | _names(self._added)

    def __bool__(self) -> bool:
        return bool(self._gone or self._added)

    def then(self, others: HeaderRules) -> HeaderRules:
        """Rules that do what applying these and then `others` does: an app's, then its route's."""
        both = HeaderRules.__new__(HeaderRules)
        both._gone = self._gone | others._gone
        both._added = (*_without(self._added, others._gone), *others._added)
        return both

    def apply(self, pairs: list[Pair]) -> list[Pair]:
        """The fields as the rules want them: `pairs` itself if there are no rules, else a new list."""
        if not self:
            return pairs
        kept = _without(pairs, self._gone) if self._gone else pairs
        return [*kept, *self._added]


# RFC 9110 §7.6.1 and RFC 9112 §6: they belong to one connection, and we write them there.
_OURS = frozenset(
    b"connection keep-alive proxy-connection te trailer transfer-encoding content-length upgrade"
    b" http2-settings proxy-authenticate proxy-authorization expect".split()
)
_IS_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII).fullmatch
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search


def _pairs(side: Side, fields: Mapping[str, str | Sequence[str]]) -> list[Pair]:
    pairs: list[Pair] = []
    for spelled, values in fields.items():
        name = _name(side, spelled)
        if name in _names(pairs):
            raise ValueError(f"{spelled} is there twice: names that differ in case only are one.")
        several = [values] if isinstance(values, str) else values
        pairs += [(spelled.encode("ascii"), _value(spelled, value)) for value in several]
    return pairs


def _name(side: Side, spelled: str) -> bytes:
    """The name in lower case."""
    if not _IS_TOKEN(spelled):
        raise ValueError(f"{spelled!r} is no header name: write letters, digits and dashes.")
    name = spelled.lower().encode("ascii")
    if name in _OURS:
        raise ValueError(f"{spelled} belongs to the connection and is the proxy's own.")
    if side is Side.RESPONSE and name == b"host":
        raise ValueError("Host is a request header: a response has none.")
    return name


def _value(name: str, value: str) -> bytes:
    if _CONTROL(value):
        raise ValueError(f"The value of {name} has a line break or another control character.")
    if value != value.strip(" \t"):
        raise ValueError(f"The value of {name} begins or ends with white space.")
    return value.encode("utf-8")


def _names(pairs: Iterable[Pair]) -> frozenset[bytes]:
    return frozenset(name.lower() for name, _ in pairs)


def _without(pairs: Iterable[Pair], gone: frozenset[bytes]) -> list[Pair]:
    return [pair for pair in pairs if _dashed(pair[0].lower()) not in gone]


def _dashed(name: bytes) -> bytes:
    """CGI and WSGI cannot tell `X_User` from `X-User`: a rule for one is about both."""
    return name.replace(b"_", b"-")
