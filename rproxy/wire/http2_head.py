"""The fields of an HTTP/2 message: what HPACK gave to a `Request`, or to trailers. Called by `wire.http2`.

Whatever passes here can be written as HTTP/1.1 and is read there as the same message, by anybody: the fields
are written down as an HTTP/1.1 head and read with the reader of HTTP/1, which has to find the same fields
again. A client that repeats its fields on a connection, as most do, pays for that once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .http1_body import MAX_TRAILER_SECTION
from .http1_fields import Facts, check_authority, read_facts, read_trailers
from .http1_head import MAX_METHOD, MAX_TARGET, read_request_line
from .message import (
    BadRequest,
    Framing,
    Headers,
    NotImplementedHere,
    Pair,
    Request,
    TargetTooLong,
)

# Looked up once: in 3.11 a member of an Enum costs as much as a call.
_NONE: Final = Framing.NONE
_LENGTH: Final = Framing.LENGTH
_CHUNKED: Final = Framing.CHUNKED

_PSEUDO: Final = frozenset((b":method", b":scheme", b":authority", b":path", b":protocol"))
_REQUIRED: Final = frozenset((b":method", b":scheme", b":path"))
# RFC 9113 §8.2.2: they speak of an HTTP/1 connection, and framed the message there.
_OF_CONNECTIONS: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
_DEFAULT_PORT: Final = {b"http": b":80", b"https": b":443"}
_NO_OPTIONS: Final[frozenset[bytes]] = frozenset()
_ASKS_UPGRADE: Final = frozenset((b"upgrade",))


class Malformed(BadRequest):
    """A message that breaks a rule of RFC 9113 §8: a stream error, where other refusals are answered."""


class RequestFields:
    """Makes the requests of one connection; remembers the last fields, which are likely to be the next."""

    __slots__ = ("_facts", "_fields", "_line")

    def __init__(self) -> None:
        self._fields: Sequence[Pair] = ()
        self._facts = read_facts(b"")
        self._line = (b"", b"")

    def request(self, fields: Sequence[Pair], ended: bool) -> Request:
        """The request of a header section; `ended` if no body follows.

        Raises `Malformed`, or another `BadRequest` for what a well-formed message asks in vain.
        """
        pseudo, regular = _split(fields)
        facts = self._facts if regular == self._fields else self._read(regular)
        method = pseudo.get(b":method", b"")
        protocol = pseudo.get(b":protocol")
        if method == b"CONNECT" and protocol is None:
            return _connect(pseudo, facts)
        if not pseudo.keys() >= _REQUIRED:
            raise Malformed("pseudo-header field missing")
        scheme, path = pseudo[b":scheme"], pseudo[b":path"]
        authority = _authority(pseudo.get(b":authority"), facts.host, scheme)
        if protocol is not None:
            method = _extended(method, protocol, facts)
        self._check_line(method, path)
        framing, length = _framing(facts, ended or protocol is not None)
        body = length > 0 or framing is _CHUNKED
        expects, upgrade = facts.expects_continue and body, protocol or b""
        options = _ASKS_UPGRADE if upgrade else _NO_OPTIONS
        return Request(
            method,
            path,
            path,
            authority,
            scheme,
            20,
            facts.headers,
            framing,
            length,
            True,
            expects,
            options,
            upgrade,
        )

    def _read(self, regular: Sequence[Pair]) -> Facts:
        _check_names(regular)
        block = b"".join([b"%b: %b\r\n" % pair for pair in regular])
        try:
            facts = read_facts(block)
        except BadRequest as refusal:
            if type(refusal) is not BadRequest:  # well-formed, but too large, or with a wish we do not know
                raise
            raise Malformed(*refusal.args)
        _check_same(facts.headers, regular)
        self._fields, self._facts = regular, facts
        return facts

    def _check_line(self, method: bytes, path: bytes) -> None:
        """As in HTTP/1, of the path the origin form or `*` (RFC 9113 §8.3.1)."""
        if (method, path) == self._line:
            return
        if len(path) > MAX_TARGET:
            raise TargetTooLong(":path too long")
        if len(method) > MAX_METHOD:
            raise NotImplementedHere("method too long")
        if path[:1] != b"/" and (path != b"*" or method != b"OPTIONS"):
            raise Malformed(":path in no known form")
        try:
            line = read_request_line(b"%b %b HTTP/1.1\r\n" % (method, path), 0)
        except BadRequest as refusal:
            raise Malformed(*refusal.args)
        if line[:2] != (method, path):
            raise Malformed("malformed method or :path")
        self._line = line[:2]


def trailers_of(fields: Sequence[Pair]) -> Headers:
    """The trailers of a request's body (RFC 9113 §8.1). Raises `Malformed`."""
    _check_names(fields)
    block = b"".join([b"%b: %b\r\n" % pair for pair in fields])
    if len(block) > MAX_TRAILER_SECTION:
        raise Malformed("trailer section too long")
    try:
        trailers = read_trailers(block)
    except BadRequest as refusal:
        raise Malformed(*refusal.args)
    _check_same(trailers, fields)
    return trailers


def _split(fields: Sequence[Pair]) -> tuple[dict[bytes, bytes], Sequence[Pair]]:
    """The pseudo-header fields, all of which come first, and the rest (RFC 9113 §8.3)."""
    pseudo: dict[bytes, bytes] = {}
    for name, value in fields:
        if name[:1] != b":":
            break
        if name not in _PSEUDO or name in pseudo:
            raise Malformed("pseudo-header field unknown or twice")
        pseudo[name] = value
    return pseudo, fields[len(pseudo) :]


def _check_names(fields: Sequence[Pair]) -> None:
    """Nothing in upper case (RFC 9113 §8.2.1), nothing that belongs to an HTTP/1 connection."""
    for name, value in fields:
        if name in _OF_CONNECTIONS:
            raise Malformed("connection-specific field")
        if name != name.lower():
            raise Malformed("field name in upper case")
        if name == b"te" and value != b"trailers":
            raise Malformed("TE other than trailers")


def _check_same(found: Headers, sent: Sequence[Pair]) -> None:
    """That HTTP/1 reads what was sent: no white space around values, no line that is another's."""
    if list(found.pairs) != list(sent):
        raise Malformed("field that reads otherwise in HTTP/1.1")


def _authority(authority: bytes | None, host: bytes | None, scheme: bytes) -> bytes:
    """What :authority and Host agree on (RFC 9113 §8.3.1); another hop may believe either of them."""
    port = _DEFAULT_PORT.get(scheme)
    if port is None:
        raise Malformed(":scheme other than http and https")
    if authority is None:
        if host is None:
            raise BadRequest("neither :authority nor Host")
        return host  # checked by `read_facts`
    check_authority(authority)
    if host is not None and authority.lower().removesuffix(port) != host.lower().removesuffix(port):
        raise Malformed(":authority and Host disagree")
    return authority


def _framing(facts: Facts, ended: bool) -> tuple[Framing, int]:
    """How the peer is told where the body ends."""
    if ended and facts.length:
        raise Malformed("Content-Length without a body")
    if facts.framing is _LENGTH:
        return _LENGTH, facts.length
    return (_NONE if ended else _CHUNKED), 0


def _connect(pseudo: dict[bytes, bytes], facts: Facts) -> Request:
    """RFC 9113 §8.5: host and port, nothing else; what follows is the tunnel's."""
    if b":scheme" in pseudo or b":path" in pseudo:
        raise Malformed("CONNECT with :scheme or :path")
    authority = _authority(pseudo.get(b":authority"), facts.host, b"https")
    if not check_authority(authority):
        raise BadRequest("CONNECT without a port")
    if facts.framing is not _NONE:
        raise Malformed("CONNECT with a body")
    return Request(
        b"CONNECT", authority, b"", authority, b"", 20, facts.headers, _NONE, 0, True, False, _NO_OPTIONS, b""
    )


def _extended(method: bytes, protocol: bytes, facts: Facts) -> bytes:
    """RFC 8441 §4: the method that HTTP/1.1 has for it. Only WebSocket is known."""
    if method != b"CONNECT":
        raise Malformed(":protocol without CONNECT")
    if protocol != b"websocket":
        raise NotImplementedHere("protocol other than websocket")
    if facts.framing is not _NONE:
        raise Malformed("CONNECT with a body")
    return b"GET"
