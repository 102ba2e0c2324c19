"""The ClientHello, read from the bytes a TLS client sends first; used by `downstream.peek`.

No TLS is done here and nothing is changed: the bytes are looked at, and later replayed as they came.
The lengths of a hello (RFC 8446 §4.1.2) must nest exactly, and what cannot become a hello is refused
at the byte that shows it. The stream may be cut anywhere, into segments and into records (§5.1):
the answer never depends on it, and the cost is linear in the bytes received.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from rproxy.errors import BadHello, HelloTooLarge, NotTLS
from rproxy.native.hello import MAX_RECORD, Hello, from_body, from_record

MAX_HELLO: Final = 65536
"""Bytes, record headers included. Browsers send 0.5 to 2 KiB, with post-quantum key shares and ECH at most
a few KiB; the length field would allow 16 MiB per connection, held for as long as a hello may take."""


class ClientHello(NamedTuple):
    """What a client wants, as far as it decides the way of the connection."""

    server_name: str | None
    """The first host_name, in lower case (RFC 6066 §3); None when there is none or it is unusable."""
    alpn: tuple[bytes, ...]
    """The protocols offered, best first (RFC 7301 §3.1); empty without the extension."""
    versions: tuple[int, ...]
    """TLS versions offered, 0x0304 for TLS 1.3, without GREASE (RFC 8701); legacy_version alone
    when the client sent no supported_versions (RFC 8446 §4.2.1)."""
    unusable_name: bytes = b""
    """The host_name as it was sent, when `hostname.from_wire` refuses it; may hold any byte."""


class HelloReader:
    """Collects one ClientHello; `limit` counts the raw bytes that may be needed to complete it."""

    __slots__ = ("_at", "_left", "_limit", "_message", "_raw")

    def __init__(self, limit: int = MAX_HELLO) -> None:
        self._limit = limit
        self._raw: bytes | bytearray = b""
        self._message = bytearray()  # the handshake message so far, without record headers
        self._at = 0  # first raw byte not yet looked at
        self._left = 0  # bytes of the open record that lie at or behind `_at`

    @property
    def received(self) -> bytes:
        """Every byte fed so far, also what follows the hello; to be replayed to the peer unmodified."""
        raw = self._raw
        return raw if isinstance(raw, bytes) else bytes(raw)

    def feed(self, data: bytes) -> ClientHello | None:
        """The hello once it is complete, None before; not to be called again after a hello or a refusal.

        Raises `NotTLS` at the first byte that no hello has there, `BadHello` when lengths do not
        nest, `HelloTooLarge` as soon as a record or the hello is known to exceed its limit.
        """
        if self._raw:
            self._append(data)
            return self._advance()
        self._raw = data
        # Most hellos come in one segment and one record. What follows is the oracle of this in the tests.
        found = from_record(data, self._limit)
        return self._advance() if found is None else _hello(found)

    def _append(self, data: bytes) -> None:
        # A bytearray grows in place: `bytes + bytes` would copy all of it for every small segment.
        if not isinstance(self._raw, bytearray):
            self._raw = bytearray(self._raw)
        self._raw += data

    def _advance(self) -> ClientHello | None:
        end = min(len(self._raw), self._limit)
        while self._left or self._open_record(end):
            self._take(min(self._left, end - self._at))
            if self._complete():
                size = int.from_bytes(self._message[1:4])
                return parse(bytes(self._message[4 : 4 + size]))
            if self._left:
                break
        if end == self._limit:
            raise HelloTooLarge("the hello does not end within the limit")
        return None

    def _open_record(self, end: int) -> bool:
        """Whether a record header lies before `end`; it is then behind us."""
        raw, at = self._raw, self._at
        if at < end and raw[at] != 0x16:
            raise NotTLS("not a handshake record")
        if end - at < 5:
            return False
        # raw[at + 1 : at + 3] is the record's version, which has no meaning (RFC 8446 §5.1).
        size = raw[at + 3] << 8 | raw[at + 4]
        if size == 0:
            raise BadHello("empty record")
        if size > MAX_RECORD:
            raise HelloTooLarge("record above 2^14 bytes")
        self._at, self._left = at + 5, size
        return True

    def _take(self, size: int) -> None:
        self._message += self._raw[self._at : self._at + size]
        self._at += size
        self._left -= size

    def _complete(self) -> bool:
        message = self._message
        if message and message[0] != 1:
            raise NotTLS("not a ClientHello")
        if len(message) < 4:
            return False
        missing = 4 + int.from_bytes(message[1:4]) - len(message)
        if missing > 0 and self._least_end(missing) > self._limit:
            raise HelloTooLarge("the length of the hello is above the limit")
        return missing <= 0

    def _least_end(self, missing: int) -> int:
        """Where the hello ends in the raw bytes if from here on the client wastes no record header."""
        records = -(-max(0, missing - self._left) // MAX_RECORD)
        return self._at + missing + 5 * records


def parse(body: bytes) -> ClientHello:
    """A hello from the whole body of the handshake message, without its 4-byte header; raises `BadHello`."""
    return _hello(from_body(body))


def looks_like_http(prefix: bytes) -> bool:
    """Whether bytes refused as `NotTLS` begin an HTTP/1 request, so that a 400 page will be understood."""
    return _METHOD(prefix) is not None


# The longest registered method, UPDATEREDIRECTREF, has 17 letters. Only capitals and "-", not every
# token (RFC 9110 §5.6.2): "SSH-2.0-x y" would be a token and a space too.
_METHOD: Final = re.compile(rb"[A-Z][A-Z-]{0,19} ").match


def _hello(found: Hello) -> ClientHello:
    return tuple.__new__(ClientHello, found)  # the class's own `__new__` is Python's, and costs twice as much
