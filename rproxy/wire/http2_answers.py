"""The responses of an HTTP/2 peer: what HPACK gave to a `Response`. Called by `wire.http2_client`.

As with requests (see `http2_head`) the fields are written down as an HTTP/1.1 head and read with the reader
of HTTP/1, which has to find the same fields again: then no client of ours reads them otherwise. Peers repeat
their fields on a connection, which is paid for once.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from .http1_fields import read_facts
from .http2_head import Malformed
from .message import BadRequest, BadResponse, Framing, Headers, Pair, Response

# Looked up once: in 3.11 a member of an Enum costs as much as a call.
_NONE: Final = Framing.NONE
_LENGTH: Final = Framing.LENGTH
_CHUNKED: Final = Framing.CHUNKED

_OF_CONNECTIONS: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
_NO_OPTIONS: Final[frozenset[bytes]] = frozenset()
_REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}
"""HTTP/2 has none of them; clients that speak HTTP/1.1 are used to them."""
_STATUSES: Final = {b"%d" % status: status for status in range(100, 1000)}


class PeerReset(BadResponse):
    """A peer has reset a stream; `code` is its reason (RFC 9113 §7), one that nobody knows is possible."""

    reason = "peer_reset"

    def __init__(self, code: int) -> None:
        super().__init__(f"the peer has reset the stream, code {code}")
        self.code = code


class ResponseFields:
    """Makes the responses of one connection; remembers the last fields, which are likely to be the next."""

    __slots__ = ("_fields", "_framing", "_headers", "_length")

    def __init__(self) -> None:
        self._fields: Sequence[Pair] = ()
        self._headers = Headers(())
        self._framing, self._length = _NONE, 0

    def response(self, fields: Sequence[Pair], method: bytes, ended: bool) -> Response:
        """The response of a header section to a `method` request (RFC 9113 §8.3.2); `ended`: no body follows.

        Where no length is announced a body counts as chunked, so that trailers may follow. Raises
        `Malformed`.
        """
        status = _status(fields)
        regular = fields[1:]
        if regular != self._fields:
            self._read(regular)
        framing, length = self._body_of(status, method, ended)
        reason = _REASONS.get(status, b"")
        return Response(20, status, reason, self._headers, framing, length, True, _NO_OPTIONS, b"")

    def _read(self, regular: Sequence[Pair]) -> None:
        _check_names(regular)
        block = b"".join([b"%b: %b\r\n" % pair for pair in regular])
        try:
            facts = read_facts(block)
        except BadRequest as refusal:
            raise Malformed(*refusal.args)
        if list(facts.headers.pairs) != list(regular):
            raise Malformed("field that reads otherwise in HTTP/1.1")
        self._fields, self._headers = regular, facts.headers
        self._framing, self._length = facts.framing, facts.length

    def _body_of(self, status: int, method: bytes, ended: bool) -> tuple[Framing, int]:
        """As in HTTP/1.1 (RFC 9112 §6.3), but that the end of a body shows by itself."""
        tunnel = method == b"CONNECT" and 200 <= status < 300
        if status < 200 or status == 204 or tunnel:
            if self._length:
                raise Malformed("body where none can be")
            if ended and (status < 200 or tunnel):
                raise Malformed("interim response, or tunnel, that ends its stream")
            return _NONE, 0
        if method == b"HEAD" or status == 304:
            return _NONE, 0
        if self._framing is _LENGTH:
            if ended and self._length:
                raise Malformed("Content-Length without a body")
            return _LENGTH, self._length
        return (_LENGTH, 0) if ended else (_CHUNKED, 0)


def _status(fields: Sequence[Pair]) -> int:
    """The only pseudo-header field of a response, which comes first."""
    if not fields or fields[0][0] != b":status":
        raise Malformed("response without :status")
    status = _STATUSES.get(fields[0][1], 0)
    if not status or status == 101:  # RFC 9113 §8.6: HTTP/2 has no upgrades
        raise Malformed("status out of range")
    return status


def _check_names(fields: Sequence[Pair]) -> None:
    """Nothing in upper case (RFC 9113 §8.2.1), nothing that belongs to an HTTP/1 connection (§8.2.2)."""
    for name, _ in fields:
        if name in _OF_CONNECTIONS:
            raise Malformed("connection-specific field")
        if name[:1] == b":" or name != name.lower():
            raise Malformed("field name in upper case, or pseudo-header field that is none")
