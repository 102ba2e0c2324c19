"""What an HTTP/2 connection tells: small values, made by `wire.http2_connection`, read by both sides' owners.

Streams are named by their numbers (RFC 9113 §5.1.1); 0 stands for the connection as a whole.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from rproxy.errors import Refusal

from .message import Headers, Piece, Request


class ErrorCode(IntEnum):
    """RFC 9113 §7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class RequestHead(NamedTuple):
    """A request begins. With `protocol` it is an extended CONNECT (RFC 8441), told as a GET with Upgrade."""

    stream: int
    request: Request
    ended: bool
    """Whether there is no body; then no `End` follows."""


class RefusedHead(NamedTuple):
    """A request that is no good: to be answered, unless `was_reset`, for then its stream is gone."""

    stream: int
    refusal: Refusal
    was_reset: bool
    ended: bool


class Body(NamedTuple):
    """A piece of a request's body; `credit` bytes of window are given back once it was taken."""

    stream: int
    piece: Piece
    credit: int


class End(NamedTuple):
    """A request's body is complete."""

    stream: int
    trailers: Headers | None


class Reset(NamedTuple):
    """A stream is gone: the other side has reset it, or we have, because its message was malformed."""

    stream: int
    refusal: Refusal | None
    """What was wrong; None if the other side has left."""
    code: int
    """Why (RFC 9113 §7); one that nobody knows is possible."""


class WindowOpened(NamedTuple):
    """The client takes more on a stream, or with 0 perhaps on all of them."""

    stream: int


class Pong(NamedTuple):
    """The client has answered our PING."""

    payload: bytes


class Leaving(NamedTuple):
    """The client has sent GOAWAY: it will ask no more, what it has asked for is still to be answered."""


class Broken(NamedTuple):
    """The connection cannot go on; GOAWAY is in the output, nothing follows it."""

    code: ErrorCode
    why: str
    """In our words."""


Event = RequestHead | RefusedHead | Body | End | Reset | WindowOpened | Pong | Leaving | Broken
