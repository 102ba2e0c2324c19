"""The ClientHello, read from the bytes a TLS client sends first; used by `downstream.peek`.

No TLS is done here and nothing is changed: the bytes are looked at, and later replayed as they came.
The lengths of a hello (RFC 8446 §4.1.2) must nest exactly, and what cannot become a hello is refused
at the byte that shows it. The stream may be cut anywhere, into segments and into records (§5.1):
the answer never depends on it, and the cost is linear in the bytes received.
"""

from __future__ import annotations

import re
from struct import Struct, unpack
from struct import error as StructError
from typing import Final, NamedTuple

from rproxy.errors import BadHello, HelloTooLarge, NotTLS
from rproxy.wire.hostname import from_wire

MAX_HELLO: Final = 65536
"""Bytes, record headers included. Browsers send 0.5 to 2 KiB, with post-quantum key shares and ECH at most
a few KiB; the length field would allow 16 MiB per connection, held for as long as a hello may take."""

MAX_RECORD: Final = 16384
"""Bytes of payload in one record: 2^14, RFC 8446 §5.1."""


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
        return bytes(self._raw)

    def feed(self, data: bytes) -> ClientHello | None:
        """The hello once it is complete, None before; not to be called again after a hello or a refusal.

        Raises `NotTLS` at the first byte that no hello has there, `BadHello` when lengths do not
        nest, `HelloTooLarge` as soon as a record or the hello is known to exceed its limit.
        """
        if self._raw:
            self._append(data)
            return self._advance()
        self._raw = data
        body = _only_record(data, self._limit)
        return self._advance() if body is None else parse(body)

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
    try:
        # Unpacking and indexing past the end raise by themselves: lengths that point outside need no test.
        at, size = _before_extensions(body), len(body)
        if at == size:  # before TLS 1.2 there may be no extension block at all
            return ClientHello(None, (), _u16(body, 0))
        if _u16(body, at)[0] != size - at - 2:
            raise BadHello("extension block")
        return _hello(body, _extensions(body, at + 2))
    except (StructError, IndexError):
        raise BadHello("a length points outside the hello") from None


def looks_like_http(prefix: bytes) -> bool:
    """Whether bytes refused as `NotTLS` begin an HTTP/1 request, so that a 400 page will be understood."""
    return _METHOD(prefix) is not None


# The longest registered method, UPDATEREDIRECTREF, has 17 letters. Only capitals and "-", not every
# token (RFC 9110 §5.6.2): "SSH-2.0-x y" would be a token and a space too.
_METHOD = re.compile(rb"[A-Z][A-Z-]{0,19} ").match

_u16 = Struct("!H").unpack_from
_u16_u16 = Struct("!HH").unpack_from
_u8_u16 = Struct("!BH").unpack_from

_SERVER_NAME, _ALPN, _SUPPORTED_VERSIONS = 0, 16, 43

_GREASE = frozenset(0x1010 * n + 0x0A0A for n in range(16))
"""Values sent only to see whether servers ignore what they do not know, RFC 8701 §2."""


def _only_record(data: bytes, limit: int) -> bytes | None:
    """The hello's body when it lies whole in the first record, else None and nothing is decided.

    Most hellos come this way, and it is cheaper than the general one, which is its oracle in the tests.
    """
    if len(data) < 9 or data[0] != 0x16 or data[5] != 1:
        return None
    record = data[3] << 8 | data[4]
    end = 9 + int.from_bytes(data[6:9])
    if end > record + 5 or end > len(data) or end > limit or record > MAX_RECORD:
        return None
    return data[9:end]


def _before_extensions(body: bytes) -> int:
    """Where the extension block begins: behind version, random, session id, ciphers, compression."""
    session = body[34]
    ciphers: int = _u16(body, 35 + session)[0]
    compressions = body[37 + session + ciphers]
    if session > 32 or ciphers < 2 or ciphers % 2 or compressions < 1:
        raise BadHello("session id, cipher suites or compression methods")
    return 38 + session + ciphers + compressions


def _extensions(body: bytes, at: int) -> dict[int, bytes | None]:
    """The three extensions we read, None where absent; what others contain is the peer's business."""
    found: dict[int, bytes | None] = {_SERVER_NAME: None, _ALPN: None, _SUPPORTED_VERSIONS: None}
    size = len(body)
    while at != size:  # an extension that overruns makes the next unpack fail
        kind, length = _u16_u16(body, at)
        at += 4 + length
        if kind in found:
            if found[kind] is not None:
                raise BadHello("an extension twice")
            found[kind] = body[at - length : at]
    return found


def _hello(body: bytes, found: dict[int, bytes | None]) -> ClientHello:
    names, protocols, versions = found.values()
    raw = None if names is None else _host_name(names)
    name = None if raw is None else from_wire(raw)
    return ClientHello(
        name,
        () if protocols is None else _protocols(protocols),
        _u16(body, 0) if versions is None else _versions(versions),
        raw if raw and name is None else b"",
    )


def _host_name(extension: bytes) -> bytes | None:
    """The first host_name of a server_name extension, or None when all entries are of other types."""
    size, at, name = len(extension), 2, None
    if extension[0] << 8 | extension[1] != size - 2 or size == 2:
        raise BadHello("server_name list")
    while at != size:
        kind, length = _u8_u16(extension, at)
        at += 3 + length
        if kind == 0 and name is None:
            name = extension[at - length : at]
    return name


def _protocols(extension: bytes) -> tuple[bytes, ...]:
    size, at = len(extension), 2
    if extension[0] << 8 | extension[1] != size - 2 or size == 2:
        raise BadHello("ALPN list")
    names = []
    while at < size:
        start = at + 1
        at = start + extension[at]
        names.append(extension[start:at])
    if at != size or b"" in names:
        raise BadHello("ALPN name")
    return tuple(names)


def _versions(extension: bytes) -> tuple[int, ...]:
    length = len(extension) - 1
    if extension[0] != length or length == 0:
        raise BadHello("supported_versions list")
    versions = unpack(f"!{length // 2}H", extension[1:])  # raises when the length is odd
    if _GREASE.isdisjoint(versions):
        return versions
    return tuple([version for version in versions if version not in _GREASE])
