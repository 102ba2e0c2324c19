"""PROXY protocol headers, versions 1 and 2: from bytes to values and back.

Sections quoted as §2.1 and §2.2 are those of HAProxy's "The PROXY protocol". `downstream.peek` and
`rproxy.endpoints` read headers; `relay` and `rproxy.endpoints` write them.
"""

from __future__ import annotations

import functools
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import assert_never

from rproxy.errors import BadProxyHeader
from rproxy.wire.address import MAPPED, Address, Inet, Unix, inet

# TLV types (§2.2). NOOP and CRC32C belong to one header: they are never kept and never forwarded.
ALPN = 0x01
AUTHORITY = 0x02
CRC32C = 0x03
NOOP = 0x04
UNIQUE_ID = 0x05
SSL = 0x20
NETNS = 0x30

LONGEST_LINE = 107
"""Bytes of a version 1 header with its CRLF: the worst case that §2.1 computes."""
LARGEST_BODY = 4096
"""Bytes behind the 16 of a version 2 header: unix addresses take 216, a TLS client's TLVs some hundred."""
LONGEST_UNIQUE_ID = 128
"""Bytes, from §2.2."""

Tlvs = tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What a proxy in front of us said about a connection.

    Where `source` is None (LOCAL, UNKNOWN, UNSPEC) it said nothing about a client, and the
    socket's own addresses count.
    """

    version: int
    """1 or 2."""
    source: Address | None
    """The client; None together with `destination`."""
    destination: Address | None
    """Where the client connected to."""
    tlvs: Tlvs = ()
    """Type and value of each TLV in the order sent; always empty in version 1 and where `source` is None."""
    local: bool = False
    """Whether it is version 2's LOCAL command: the proxy speaks for itself, as health checks do."""

    def tlv(self, kind: int) -> bytes | None:
        """The value of the first TLV of this type."""
        return next((value for known, value in self.tlvs if known == kind), None)


def begins_header(prefix: bytes) -> bool | None:
    """Whether a stream that begins with these bytes begins with a header; None if more bytes must tell."""
    for signature in (_V1, _V2):
        if prefix.startswith(signature):
            return True
        if signature.startswith(prefix):
            return None
    return False


class ProxyHeaderReader:
    """Reads one header of either version from a stream that may be cut anywhere.

    Feed it until it gives the header, then take `rest`; a reader serves one connection once.
    """

    __slots__ = ("_buffer", "_largest_body", "rest")

    def __init__(self, largest_body: int = LARGEST_BODY) -> None:
        """`largest_body` is in bytes and limits the length field of version 2."""
        self._largest_body = largest_body
        self._buffer = b""
        self.rest = b""
        """What followed the header; empty until there is one."""

    def feed(self, data: bytes) -> ProxyHeader | None:
        """The header once it is complete; raises `BadProxyHeader` as soon as it cannot become one."""
        buffer = self._buffer = self._buffer + data
        begun = begins_header(buffer)
        if begun is None:
            return None
        if not begun:
            raise BadProxyHeader("The connection does not begin with a PROXY header.")
        first = buffer[0] == _V1[0]
        end = _v1_end(buffer) if first else _v2_end(buffer, self._largest_body)
        if end is None:
            return None
        self._buffer, self.rest = b"", buffer[end:]
        return _read_v1(buffer[:end]) if first else _read_v2(buffer[:end])


def encode_v1(source: Address | None, destination: Address | None) -> bytes:
    """A version 1 header (§2.1): UNKNOWN unless both are `Inet`; two families are written as IPv6."""
    if not (isinstance(source, Inet) and isinstance(destination, Inet)):
        return b"PROXY UNKNOWN\r\n"
    first, second, v6 = _one_family(source.host, destination.host)
    family = "TCP6" if v6 else "TCP4"
    return f"PROXY {family} {first} {second} {source.port} {destination.port}\r\n".encode("ascii")


def encode_v2(
    source: Address | None, destination: Address | None, tlvs: Iterable[tuple[int, bytes]] = ()
) -> bytes:
    """A version 2 header (§2.2): LOCAL unless both addresses are `Inet` or both `Unix`.

    Raises ValueError for TLVs above 64 KiB, a checksum among them, and a path above 108 bytes.
    """
    command = _PROXY
    if isinstance(source, Inet) and isinstance(destination, Inet):
        family, block = _inet_block(source, destination)
    elif isinstance(source, Unix) and isinstance(destination, Unix):
        family, block = _Family.UNIX, _unix_path(source) + _unix_path(destination)
    else:
        command, family, block = _LOCAL, _Family.UNSPEC, b""
    if tlvs:
        block += _encode_tlvs(tlvs)
    if len(block) > _LARGEST_LENGTH:
        raise ValueError(f"{len(block)} bytes do not fit the length field of a PROXY header.")
    return _START.pack(_V2, command, family, len(block)) + block


def crc32c(octets: bytes) -> int:
    """The CRC of RFC 3720 appendix B.4 (Castagnoli), which guards a version 2 header."""
    table, crc = _crc_table(), 0xFFFFFFFF
    for octet in octets:
        crc = table[(crc ^ octet) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


class _Family(IntEnum):
    """Family and transport of a version 2 header; datagrams are not here, we listen on TCP."""

    UNSPEC = 0x00
    TCP4 = 0x11
    TCP6 = 0x21
    UNIX = 0x31


_FAMILIES = frozenset(_Family)
_V1 = b"PROXY "
_V2 = b"\r\n\r\n\0\r\nQUIT\n"
_LOCAL, _PROXY = 0x20, 0x21
_START = struct.Struct("!12sBBH")
_TCP4 = struct.Struct("!4s4sHH")
_TCP6 = struct.Struct("!16s16sHH")
_UNIX = struct.Struct("!108s108s")
_TLV = struct.Struct("!BH")
_LARGEST_LENGTH = 0xFFFF
_SSL_START = 5
"""Bytes before the TLVs inside an SSL TLV: flags and the result of the verification (§2.2.6)."""
_AT_MOST_ONCE = (ALPN, AUTHORITY, CRC32C, UNIQUE_ID, SSL, NETNS)
"""Given twice, two readers could believe two different values."""


def _v1_end(buffer: bytes) -> int | None:
    newline = buffer.find(b"\n", 0, LONGEST_LINE)
    if newline >= 0:
        return newline + 1
    if len(buffer) >= LONGEST_LINE:
        raise BadProxyHeader(f"A version 1 PROXY header is longer than {LONGEST_LINE} bytes.")
    return None


def _read_v1(line: bytes) -> ProxyHeader:
    if not line.endswith(b"\r\n") or line.find(b"\r") != len(line) - 2:
        raise BadProxyHeader("A version 1 PROXY header has a lone CR or LF.")
    family, *fields = line[len(_V1) : -2].split(b" ")
    if family == b"UNKNOWN":
        return ProxyHeader(1, None, None)
    if family not in (b"TCP4", b"TCP6"):
        raise BadProxyHeader("A version 1 PROXY header names no family of TCP4, TCP6 and UNKNOWN.")
    if len(fields) != 4:
        raise BadProxyHeader("A version 1 PROXY header needs two addresses and two ports, one space apart.")
    kind = socket.AF_INET if family == b"TCP4" else socket.AF_INET6
    source = inet(_host(kind, fields[0]), _port(fields[2]))
    return ProxyHeader(1, source, inet(_host(kind, fields[1]), _port(fields[3])))


def _host(family: socket.AddressFamily, text: bytes) -> str:
    # Through the packed form: §2.1 permits upper case and uncompressed IPv6, values have one spelling.
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, text.decode("ascii")))
    except (OSError, ValueError):
        raise BadProxyHeader("A version 1 PROXY header has an address that is none of its family.")


def _port(text: bytes) -> int:
    if not text.isdigit() or len(text) > 5 or (len(text) > 1 and text[0] == ord("0")) or int(text) > 0xFFFF:
        raise BadProxyHeader("A version 1 PROXY header has a port that is no number from 0 to 65535.")
    return int(text)


def _v2_end(buffer: bytes, largest_body: int) -> int | None:
    if len(buffer) < _START.size:
        return None
    _, command, family, length = _START.unpack_from(buffer)
    if command not in (_LOCAL, _PROXY):
        raise BadProxyHeader("A binary PROXY header has another version than 2 or an unknown command.")
    if length > largest_body:
        raise BadProxyHeader(f"A version 2 PROXY header is longer than 16 + {largest_body} bytes.")
    if command == _PROXY and family not in _FAMILIES:
        raise BadProxyHeader("A version 2 PROXY header has a family that is not TCP or a unix stream.")
    end: int = _START.size + length
    return end if len(buffer) >= end else None


def _read_v2(header: bytes) -> ProxyHeader:
    if header[12] == _LOCAL:  # §2.2: accept it, ignore the family and discard the block
        return ProxyHeader(2, None, None, (), True)
    family = _Family(header[13])
    if family is _Family.UNSPEC:  # where its TLVs would begin is not specified either
        return ProxyHeader(2, None, None)
    try:
        source, destination, end = _read_addresses(header, family)
    except struct.error:
        raise BadProxyHeader("A version 2 PROXY header is too short for its addresses.")
    tlvs = _read_tlvs(header, end) if end < len(header) else ()
    return ProxyHeader(2, source, destination, tlvs)


def _read_addresses(header: bytes, family: _Family) -> tuple[Address | None, Address | None, int]:
    """Source, destination, and where the TLVs begin; raises struct.error where the header ends before."""
    at, ntop = _START.size, socket.inet_ntop
    match family:
        case _Family.TCP4:
            first, second, port, other = _TCP4.unpack_from(header, at)
            kind = socket.AF_INET
            return inet(ntop(kind, first), port), inet(ntop(kind, second), other), at + _TCP4.size
        case _Family.TCP6:
            first, second, port, other = _TCP6.unpack_from(header, at)
            kind = socket.AF_INET6
            return inet(ntop(kind, first), port), inet(ntop(kind, second), other), at + _TCP6.size
        case _Family.UNIX:
            first, second = _UNIX.unpack_from(header, at)
            return Unix(_path(first)), Unix(_path(second)), at + _UNIX.size
        case _Family.UNSPEC:
            return None, None, len(header)
        case _:
            assert_never(family)


def _path(padded: bytes) -> bytes:
    """A path ends at its first NUL; an abstract name begins with one and ends before its padding."""
    return padded.rstrip(b"\0") if padded[0] == 0 else padded.partition(b"\0")[0]


def _read_tlvs(header: bytes, at: int) -> Tlvs:
    spans = _split_tlvs(header, at)
    kinds = [kind for kind, _, _ in spans]
    if any(kinds.count(kind) > 1 for kind in _AT_MOST_ONCE):
        raise BadProxyHeader("A version 2 PROXY header has a TLV twice that may occur once.")
    for kind, start, end in spans:
        _check_tlv(header, kind, start, end)
    return tuple((kind, header[start:end]) for kind, start, end in spans if kind not in (NOOP, CRC32C))


def _split_tlvs(block: bytes, at: int) -> list[tuple[int, int, int]]:
    """Type, start and end of each TLV from `at` to the very end of the block."""
    spans = []
    while at < len(block):
        start = at + _TLV.size
        if start > len(block):
            raise BadProxyHeader("A version 2 PROXY header ends inside the start of a TLV.")
        kind, length = _TLV.unpack_from(block, at)
        at = start + length
        if at > len(block):
            raise BadProxyHeader("A version 2 PROXY header ends inside a TLV.")
        spans.append((kind, start, at))
    return spans


def _check_tlv(header: bytes, kind: int, start: int, end: int) -> None:
    if kind == UNIQUE_ID and end - start > LONGEST_UNIQUE_ID:
        raise BadProxyHeader(f"A version 2 PROXY header has a unique id above {LONGEST_UNIQUE_ID} bytes.")
    if kind == SSL:
        if end - start < _SSL_START:
            raise BadProxyHeader("A version 2 PROXY header has an SSL TLV that is too short.")
        _split_tlvs(header[start:end], _SSL_START)
    if kind == CRC32C:
        # §2.2.3: the sum of the whole header, computed with this field as zeroes
        zeroed = header[:start] + bytes(4) + header[end:]
        if end - start != 4 or crc32c(zeroed) != int.from_bytes(header[start:end], "big"):
            raise BadProxyHeader("A version 2 PROXY header does not match its checksum.")


@functools.cache
def _crc_table() -> tuple[int, ...]:
    """One entry per octet, for the reflected polynomial; built when the first checksum is seen."""
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


def _one_family(first: str, second: str) -> tuple[str, str, bool]:
    """Both hosts as text of one family, and whether that is IPv6."""
    first, second = _plain(first), _plain(second)
    if ":" not in first and ":" not in second:
        return first, second, False
    return _as_v6(first), _as_v6(second), True


def _plain(host: str) -> str:
    """The host without zone, which means something on one machine only; IPv4 if it is IPv4-mapped."""
    if "%" in host:
        host = host.partition("%")[0]
    return host[len(MAPPED) :] if "." in host and host.startswith(MAPPED) else host


def _as_v6(host: str) -> str:
    return host if ":" in host else MAPPED + host


def _inet_block(source: Inet, destination: Inet) -> tuple[_Family, bytes]:
    first, second, v6 = _one_family(source.host, destination.host)
    family, layout, kind = (
        (_Family.TCP6, _TCP6, socket.AF_INET6) if v6 else (_Family.TCP4, _TCP4, socket.AF_INET)
    )
    pton = socket.inet_pton
    return family, layout.pack(pton(kind, first), pton(kind, second), source.port, destination.port)


def _unix_path(address: Unix) -> bytes:
    if len(address.path) > 108:
        raise ValueError("A unix socket's path has at most 108 bytes.")
    return address.path.ljust(108, b"\0")


def _encode_tlvs(tlvs: Iterable[tuple[int, bytes]]) -> bytes:
    parts = []
    for kind, value in tlvs:
        if kind == CRC32C or len(value) > _LARGEST_LENGTH:
            raise ValueError("A TLV is a checksum, which is of no other header, or does not fit its length.")
        parts.append(_TLV.pack(kind, len(value)) + value)
    return b"".join(parts)
