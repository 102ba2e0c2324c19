"""HTTP messages as values, the same for every version; made by the codecs, read by everything above them.

Nothing here has a clock, a socket or a limit. Everything is bytes, as on the wire. `Headers` may be shared
between messages and connections (see `http1_fields.Known`), so nothing in it is ever changed in place.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from enum import Enum
from typing import Any, Final

from rproxy.errors import Refusal
from rproxy.native.fields import without

Piece = bytes | memoryview
"""A part of a body: of a read-only buffer, so it may be written later without a copy."""

Pair = tuple[bytes, bytes]
"""One field: the name as it was spelled, the value without the white space around it."""


class BadRequest(Refusal):
    """A request that is malformed or could be read in two ways; the text says why, in our words."""

    reason = "bad_request"
    status = 400


class TargetTooLong(BadRequest):
    """A request-target above our limit (RFC 9110 §15.5.15)."""

    reason = "target_too_long"
    status = 414


class ExpectationFailed(BadRequest):
    """An Expect other than `100-continue` (RFC 9110 §10.1.1)."""

    reason = "expectation_failed"
    status = 417


class HeadTooLarge(BadRequest):
    """A head or trailer section above our limits in bytes or in fields (RFC 6585 §5)."""

    reason = "head_too_large"
    status = 431


class NotImplementedHere(BadRequest):
    """A transfer coding other than `chunked`, or a method longer than any real one (RFC 9112 §3, §6.1)."""

    reason = "not_implemented"
    status = 501


class UnknownVersion(BadRequest):
    """A well-formed request line of a version other than HTTP/1.0 and HTTP/1.1."""

    reason = "unknown_version"
    status = 505


class BadResponse(Refusal):
    """A response that is malformed, ambiguous or cut short: the peer's connection is closed, never reused."""

    reason = "bad_response"
    status = 502


class Framing(Enum):
    """How the end of a body is found (RFC 9112 §6.3)."""

    NONE = 1
    """There is no body and no field that speaks of one."""
    LENGTH = 2
    """`length` bytes follow; 0 is possible."""
    CHUNKED = 3
    """Chunks follow, then a trailer section."""
    UNTIL_CLOSE = 4
    """The body lasts until the peer closes; responses only."""


class Headers:
    """The fields of one message in their order, names as spelled; never changed once made."""

    __slots__ = ("names", "pairs", "shared")

    def __init__(self, pairs: Sequence[Pair], names: list[bytes] | None = None) -> None:
        """`names` are those of the pairs in lower case, if somebody has them already."""
        self.pairs = pairs
        self.names = [name.lower() for name, _ in pairs] if names is None else names
        """The names in lower case, one per pair: what every lookup compares with."""
        self.shared = False
        """Whether messages of several connections have this very object, see `http1_fields.Known`."""

    def get(self, name: bytes) -> bytes | None:
        """The first value of the field `name` (lower case), or None."""
        names = self.names
        return self.pairs[names.index(name)][1] if name in names else None

    def all(self, name: bytes) -> list[bytes]:
        """Every value of the field `name` (lower case), in order."""
        names = self.names
        if name not in names:
            return []
        return [pair[1] for lower, pair in zip(names, self.pairs, strict=True) if lower == name]

    def without(self, dropped: Set[bytes]) -> list[Pair]:
        """A new list of the pairs whose lower-case name is not in `dropped`."""
        return without(self.pairs, self.names, dropped)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and list(self.pairs) == list(other.pairs)

    def __hash__(self) -> int:
        return hash(tuple(self.pairs))

    def __repr__(self) -> str:
        return f"Headers({list(self.pairs)!r})"


class Block:
    """Fields that messages of one client or peer have in common, with what HTTP/1 writes for them."""

    __slots__ = ("lines", "pairs")

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.pairs = pairs
        self.lines: bytes | None = None
        """Made by `http1_write` when first needed, and checked there."""


EMPTY: Final = Block(())


class Fields:
    """The fields of a head that is to be written: those of this message alone in front."""

    __slots__ = ("block", "own")

    def __init__(self, own: list[Pair], block: Block = EMPTY) -> None:
        """`own` may be added to until the head is written, `block` is shared."""
        self.own, self.block = own, block

    @property
    def pairs(self) -> list[Pair]:
        """All of them: a new list."""
        return [*self.own, *self.block.pairs]


class Request:
    """A request's head, every part checked."""

    __slots__ = (
        "authority",
        "connection",
        "expects_continue",
        "framing",
        "headers",
        "keep_alive",
        "length",
        "method",
        "path",
        "scheme",
        "target",
        "upgrade",
        "version",
    )

    def __init__(
        self,
        method: bytes,
        target: bytes,
        path: bytes,
        authority: bytes,
        scheme: bytes,
        version: int,
        headers: Headers,
        framing: Framing,
        length: int,
        keep_alive: bool,
        expects_continue: bool,
        connection: frozenset[bytes],
        upgrade: bytes,
    ) -> None:
        self.method = method
        """Any token; case matters."""
        self.target = target
        """As sent, for the log."""
        self.path = path
        """What to route by and to forward: path and query, or `*`; empty for CONNECT."""
        self.authority = authority
        """`host` or `host:port` as spelled, from the target or from Host; or empty: HTTP/1.0."""
        self.scheme = scheme
        """`http` or `https` if the target was absolute, else empty."""
        self.version = version
        """10 or 11."""
        self.headers = headers
        self.framing = framing
        self.length = length
        """Bytes of body if `framing` is LENGTH, else 0."""
        self.keep_alive = keep_alive
        """Whether the client allows another request on this connection (RFC 9112 §9.3)."""
        self.expects_continue = expects_continue
        """Whether the client waits for `100 Continue` before it sends the body."""
        self.connection = connection
        """What Connection names, in lower case; anybody may name anything, `host` too."""
        self.upgrade = upgrade
        """The value of Upgrade if Connection lists it and the version is 1.1, else empty."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Request) and _parts(self) == _parts(other)

    def __hash__(self) -> int:
        return hash(_parts(self))

    def __repr__(self) -> str:
        return f"Request{_parts(self)!r}"


def bare_request(method: bytes, path: bytes) -> Request:
    """A request of our own, without fields and without a body."""
    none: frozenset[bytes] = frozenset()
    return Request(method, path, path, b"", b"", 11, Headers(()), Framing.NONE, 0, True, False, none, b"")


class Response:
    """A response's head, every part checked."""

    __slots__ = (
        "connection",
        "framing",
        "headers",
        "keep_alive",
        "length",
        "reason",
        "status",
        "upgrade",
        "version",
    )

    def __init__(
        self,
        version: int,
        status: int,
        reason: bytes,
        headers: Headers,
        framing: Framing,
        length: int,
        keep_alive: bool,
        connection: frozenset[bytes],
        upgrade: bytes,
    ) -> None:
        self.version = version
        """10 or 11."""
        self.status = status
        """100 to 999; below 200 another head follows, but for 101."""
        self.reason = reason
        self.headers = headers
        self.framing = framing
        """For the request it answers: NONE for HEAD, 1xx, 204 and 304 whatever the fields say."""
        self.length = length
        """Bytes of body if `framing` is LENGTH, else 0."""
        self.keep_alive = keep_alive
        """Whether the peer allows another request on this connection, as far as the head says."""
        self.connection = connection
        self.upgrade = upgrade
        """The value of Upgrade if Connection lists it and the version is 1.1, else empty."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Response) and _parts(self) == _parts(other)

    def __hash__(self) -> int:
        return hash(_parts(self))

    def __repr__(self) -> str:
        return f"Response{_parts(self)!r}"

    @property
    def interim(self) -> bool:
        """Whether the final response is still to come (RFC 9110 §15.2)."""
        return self.status < 200 and self.status != 101


def _parts(message: Request | Response) -> tuple[Any, ...]:
    head = (message.version, message.headers, message.framing, message.length, message.keep_alive)
    if isinstance(message, Response):
        return (*head, message.status, message.reason, message.connection, message.upgrade)
    line = (message.method, message.target, message.path, message.authority, message.scheme)
    return (*line, *head, message.expects_continue, message.connection, message.upgrade)
