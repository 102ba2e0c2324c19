"""The one part of WebSocket's opening handshake that is reckoned. Asked by both ends' `http2_tunnel`."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha1
from typing import Final

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_of(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept that answers a Sec-WebSocket-Key (RFC 6455 §4.2.2).

    It shows that a server has read the key as one, and protects nothing: any bytes have an answer.
    """
    return b64encode(sha1(key + _GUID, usedforsecurity=False).digest())
