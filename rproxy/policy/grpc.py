"""What a proxy has to know of gRPC: that a request is one, and how it says that a response broke off.

Called by `exchange`. Statuses and their meaning: "gRPC over HTTP/2", sections "Responses" and "Errors".
"""

from __future__ import annotations

from typing import Final

from rproxy.errors import Refusal
from rproxy.wire.http2_answers import PeerReset
from rproxy.wire.http2_events import ErrorCode
from rproxy.wire.message import Headers

UNAVAILABLE: Final = 14
"""The status of a call that may be made again; its client decides whether that is wise."""
# What a client makes of a reset with these codes; any other is INTERNAL.
_BY_RESET: Final = {
    int(ErrorCode.REFUSED_STREAM): UNAVAILABLE,
    int(ErrorCode.CANCEL): 1,
    int(ErrorCode.ENHANCE_YOUR_CALM): 8,
    int(ErrorCode.INADEQUATE_SECURITY): 7,
}
_INTERNAL: Final = 13


def is_grpc(headers: Headers) -> bool:
    """Whether a message is of a call of gRPC, not of gRPC-Web, which is HTTP as any other."""
    kind = (headers.get(b"content-type") or b"").lower()
    return kind == b"application/grpc" or kind.startswith((b"application/grpc+", b"application/grpc;"))


def status_of(refusal: Refusal) -> Headers:
    """The trailers that end a call which has broken off like this."""
    status = _BY_RESET.get(refusal.code, _INTERNAL) if isinstance(refusal, PeerReset) else UNAVAILABLE
    return Headers([(b"grpc-status", b"%d" % status), (b"grpc-message", _encoded(str(refusal)))])


def _encoded(text: str) -> bytes:
    """As grpc-message has it: printable ASCII, everything else and `%` itself as `%XX`."""
    octets = text.encode()
    return b"".join(bytes([c]) if 32 <= c < 127 and c != 0x25 else b"%%%02X" % c for c in octets)
