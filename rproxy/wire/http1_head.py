"""The first line of an HTTP/1 head, and the head as a whole: lines and `Facts` to `Request` and `Response`.

Called by `http1` once a head is complete, and for the first line alone while a head trickles in. Strict
(RFC 9112 §3, §4): single spaces, CRLF, no 8-bit byte and no fragment in a target.
"""

from __future__ import annotations

import re
from typing import Final

from .http1_fields import Facts, check_authority
from .message import (
    BadRequest,
    BadResponse,
    Framing,
    NotImplementedHere,
    Request,
    Response,
    TargetTooLong,
    UnknownVersion,
)

MAX_METHOD: Final = 64
"""Bytes of a method: the longest registered one has 17 (RFC 9110 §16.1)."""
MAX_TARGET: Final = 8192
"""Bytes of a request-target: RFC 9112 §3 asks for 8000 at least; nginx takes 8 KiB."""
MAX_LINE: Final = MAX_METHOD + 1 + MAX_TARGET + len(b" HTTP/1.1\r\n")
"""Bytes of a request line or status line with its CRLF."""

# Looked up once: in 3.11 a member of an Enum costs as much as a call.
_NONE: Final = Framing.NONE
_CHUNKED: Final = Framing.CHUNKED
_UNTIL_CLOSE: Final = Framing.UNTIL_CLOSE

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_REQUEST_LINE: Final = re.compile(
    rb"(?:\r\n)?+(%b{1,%d}+) ([\x21\x22\x24-\x7e]++) HTTP/1\.([01])\r\n" % (_TOKEN, MAX_METHOD)
)
# The reason may be missing with its space: common, harmless, and we write our own line.
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*+))?+\r\n")
_GOOD: Final = b"HTTP/1.1 200 OK\r\n"
_VERSIONED: Final = re.compile(rb"%b++ [\x21\x22\x24-\x7e]++ HTTP/[0-9]\.[0-9]\r\n" % _TOKEN)
_NOT_IN_LINE: Final = re.compile(rb"[^\x20-\x7e\r\n]")
_NOT_IN_STATUS_LINE: Final = re.compile(rb"[^\t\x20-\x7e\x80-\xff\r\n]")
_ABSOLUTE: Final = re.compile(rb"(https?)://([^/?]*+)(.*+)", re.IGNORECASE)
_DEFAULT_PORT: Final = {b"http": b":80", b"https": b":443"}


RequestLine = tuple[bytes, bytes, int, int]
"""Method, target, version (10 or 11), and the offset of the byte behind the line."""

StatusLine = tuple[int, int, bytes, int]
"""Version (10 or 11), status, reason, and the offset of the byte behind the line."""


def read_request_line(buffer: bytes, at: int) -> RequestLine:
    """Parse the request line at `at`, with or without an empty line before it (RFC 9112 §2.2 asks for one).

    The line must be complete. Raises the refusal that fits: 400, 414, 501 or 505.
    """
    match = _REQUEST_LINE.match(buffer, at)
    if match is None:
        raise _why_no_request_line(buffer, at)
    method, target, minor = match.groups()
    if len(target) > MAX_TARGET:
        raise TargetTooLong("request-target too long")
    return method, target, 11 if minor == b"1" else 10, match.end()


def check_partial_request_line(buffer: bytes | bytearray, at: int, seen: int) -> int:
    """Refuse a request line that has no end yet if none could make it good; `seen` bytes were checked before.

    Returns the offset behind its LF, or -1. So a client that speaks no HTTP is answered at once.
    """
    start = at + 2 if buffer.startswith(b"\r\n", at) else at
    limit = start + MAX_LINE
    end = buffer.find(b"\n", max(seen, start), limit) + 1
    if _NOT_IN_LINE.search(buffer, max(seen, start), end or limit):
        raise BadRequest("byte that has no place in a request line")
    if not end and len(buffer) >= limit:
        raise _why_too_long(bytes(buffer[start:limit]))
    return end or -1


def _why_no_request_line(buffer: bytes, at: int) -> BadRequest:
    """The refusal for the request line at `at`, in the order in which a trickled line would meet it."""
    try:
        check_partial_request_line(buffer, at, at)
    except BadRequest as refusal:
        return refusal
    start = at + 2 if buffer.startswith(b"\r\n", at) else at
    line = buffer[start : buffer.find(b"\n", start) + 1]
    if not _VERSIONED.fullmatch(line):
        return BadRequest("malformed request line")
    if len(line.partition(b" ")[0]) > MAX_METHOD:
        return NotImplementedHere("method too long")
    return UnknownVersion("version other than 1.0 and 1.1")


def _why_too_long(line: bytes) -> BadRequest:
    if b" " in line[: MAX_METHOD + 1]:
        return TargetTooLong("request-target too long")
    return NotImplementedHere("method too long")


def read_status_line(buffer: bytes, at: int) -> StatusLine:
    """Parse the status line at `at`, which must be complete; raises `BadResponse`."""
    if buffer.startswith(_GOOD, at):  # most answers begin with these bytes
        return 11, 200, b"OK", at + len(_GOOD)
    match = _STATUS_LINE.match(buffer, at, at + MAX_LINE)
    if match is None:
        raise BadResponse("malformed status line")
    minor, status, reason = match.groups()
    return 11 if minor == b"1" else 10, int(status), reason or b"", match.end()


def check_partial_status_line(buffer: bytes | bytearray, at: int, seen: int) -> int:
    """As `check_partial_request_line`, for a status line; raises `BadResponse`."""
    limit = at + MAX_LINE
    end = buffer.find(b"\n", max(seen, at), limit) + 1
    if _NOT_IN_STATUS_LINE.search(buffer, max(seen, at), end or limit):
        raise BadResponse("byte that has no place in a status line")
    if not end and len(buffer) >= limit:
        raise BadResponse("status line too long")
    return end or -1


def make_request(line: RequestLine, facts: Facts) -> Request:
    """Join a request line and what its fields say; raises `BadRequest` where they do not fit."""
    method, target, version, _ = line
    authority, framing, length, options = facts.host, facts.framing, facts.length, facts.connection
    expects, upgrade = facts.expects_continue, facts.upgrade
    path, scheme = target, b""
    if version == 10:
        if framing is _CHUNKED:
            raise BadRequest("HTTP/1.0 with Transfer-Encoding")
        expects, upgrade = False, b""
    elif authority is None:
        raise BadRequest("HTTP/1.1 without Host")
    if target[0] != 0x2F or method == b"CONNECT":
        path, scheme, authority = _other_form(method, target, authority, framing)
    return Request(
        method,
        target,
        path,
        authority or b"",
        scheme,
        version,
        facts.headers,
        framing,
        length,
        _keep_alive(version, options),
        expects and (length > 0 or framing is _CHUNKED),
        options,
        upgrade,
    )


def _keep_alive(version: int, options: frozenset[bytes]) -> bool:
    """RFC 9112 §9.3: `close` wins, 1.1 stays open, 1.0 only if it says so."""
    return b"close" not in options and (version == 11 or b"keep-alive" in options)


def _other_form(
    method: bytes, target: bytes, host: bytes | None, framing: Framing
) -> tuple[bytes, bytes, bytes | None]:
    """Path, scheme and authority of a target that is not in origin form (RFC 9112 §3.2.2 to §3.2.4)."""
    if method == b"CONNECT":
        return b"", b"", _tunnel_authority(target, host, framing)
    if target == b"*" and method == b"OPTIONS":
        return target, b"", host
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise BadRequest("request-target in no known form")
    scheme, authority, path = match[1].lower(), match[2], match[3]
    check_authority(authority)
    _check_agreement(authority, host, scheme)
    if not path:
        path = b"*" if method == b"OPTIONS" else b"/"
    return path if path[0] in b"/*" else b"/" + path, scheme, authority


def _tunnel_authority(target: bytes, host: bytes | None, framing: Framing) -> bytes:
    """A CONNECT names host and port, and has no body: what follows is the tunnel's (RFC 9110 §9.3.6)."""
    if not check_authority(target):
        raise BadRequest("CONNECT without a port")
    if framing is not _NONE:
        raise BadRequest("CONNECT with a body")
    _check_agreement(target, host, b"https")
    return target


def _check_agreement(authority: bytes, host: bytes | None, scheme: bytes) -> None:
    """Target and Host must name one place; another hop may believe either of them."""
    port = _DEFAULT_PORT[scheme]
    if host is not None and authority.lower().removesuffix(port) != host.lower().removesuffix(port):
        raise BadRequest("request-target and Host disagree")


def make_response(line: StatusLine, facts: Facts, method: bytes) -> Response:
    """Join a status line and what its fields say, as the answer to a `method` request.

    Raises `BadResponse` where they do not fit (RFC 9112 §6.3).
    """
    version, status, reason, _ = line
    framing, length, options = facts.framing, facts.length, facts.connection
    if framing is _CHUNKED and version == 10:
        raise BadResponse("HTTP/1.0 with Transfer-Encoding")
    if status < 200 or status == 204 or (method == b"CONNECT" and status < 300):
        if framing is _CHUNKED or length:
            raise BadResponse("body where none can be")
        framing = _NONE
    elif method == b"HEAD" or status == 304:
        framing, length = _NONE, 0
    elif framing is _NONE:
        framing = _UNTIL_CLOSE
    keep_alive = framing is not _UNTIL_CLOSE and _keep_alive(version, options)
    upgrade = facts.upgrade if version == 11 else b""
    return Response(version, status, reason, facts.headers, framing, length, keep_alive, options, upgrade)
