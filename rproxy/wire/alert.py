"""TLS alerts as bytes: refusing before any TLS library has seen the connection. Used by peek and relay."""

from __future__ import annotations


def alert_record(description: int) -> bytes:
    """A fatal alert in a record of its own (RFC 8446 §5.1 and §6), as any TLS version understands it."""
    return b"\x15\x03\x03\x00\x02\x02" + bytes((description,))
