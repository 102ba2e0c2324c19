"""The ClientHello of TLS (RFC 8446 §4.1.2), for `wire.clienthello`; see `native`.

Unlike the others these twins decide: they refuse what is malformed, with the same words, and judge a name as
`wire.hostname.from_wire` does. Nobody looks at a hello again. Measured by `sni_conn` in bench/.
"""

from __future__ import annotations

import re
from struct import Struct, unpack
from struct import error as StructError
from typing import Final

from rproxy.errors import BadHello

MAX_RECORD: Final = 16384
"""Bytes of payload in one record: 2^14, RFC 8446 §5.1."""
MAX_NAME: Final = 254
"""Bytes of a usable name, see `wire.hostname`."""

Hello = tuple[str | None, tuple[bytes, ...], tuple[int, ...], bytes]
"""As `wire.clienthello.ClientHello` says: a usable server_name, in lower case; ALPN protocols; TLS versions;
and the name as it was sent if it is not usable."""

# What `wire.hostname` takes. Possessive, so that a hostile name costs one pass.
_NAME = re.compile(rb"[0-9A-Za-z][0-9A-Za-z-]*+(?:\.[0-9A-Za-z][0-9A-Za-z-]*+)*+").fullmatch

_u16 = Struct("!H").unpack_from
_u16_u16 = Struct("!HH").unpack_from
_u8_u16 = Struct("!BH").unpack_from

_SERVER_NAME, _ALPN, _SUPPORTED_VERSIONS = 0, 16, 43

_GREASE = frozenset(0x1010 * n + 0x0A0A for n in range(16))
"""Values sent only to see whether servers ignore what they do not know, RFC 8701 §2."""


def from_record(data: bytes, limit: int) -> Hello | None:
    """The hello if it lies whole in the first record and in `limit` bytes, else None and nothing is decided.

    Raises `BadHello` if it does, and its lengths do not nest.
    """
    if len(data) < 9 or data[0] != 0x16 or data[5] != 1:
        return None
    record = data[3] << 8 | data[4]
    end = 9 + int.from_bytes(data[6:9], "big")
    if end > record + 5 or end > len(data) or end > limit or record > MAX_RECORD:
        return None
    return from_body(data[9:end])


def from_body(body: bytes) -> Hello:
    """A hello from all that is behind the header of its message; `BadHello` if lengths do not nest."""
    try:
        # Unpacking and indexing past the end raise by themselves: lengths that point outside need no test.
        at, size = _before_extensions(body), len(body)
        if at == size:  # before TLS 1.2 there may be no extension block at all
            return None, (), _u16(body, 0), b""
        if _u16(body, at)[0] != size - at - 2:
            raise BadHello("extension block")
        return _hello(body, _extensions(body, at + 2))
    except (StructError, IndexError):
        raise BadHello("a length points outside the hello") from None


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


def _hello(body: bytes, found: dict[int, bytes | None]) -> Hello:
    names, protocols, versions = found.values()
    raw = b"" if names is None else _host_name(names)
    usable = len(raw) <= MAX_NAME and _NAME(raw) is not None
    return (
        raw.lower().decode("ascii") if usable else None,
        () if protocols is None else _protocols(protocols),
        _u16(body, 0) if versions is None else _versions(versions),
        b"" if usable else raw,
    )


def _host_name(extension: bytes) -> bytes:
    """The first host_name of a server_name extension; empty as well when all entries are of other types."""
    size, at, name = len(extension), 2, None
    if extension[0] << 8 | extension[1] != size - 2 or size == 2:
        raise BadHello("server_name list")
    while at != size:
        kind, length = _u8_u16(extension, at)
        at += 3 + length
        if kind == 0 and name is None:
            name = extension[at - length : at]
    return name or b""


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
