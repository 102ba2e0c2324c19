"""The field section of an HTTP/1 head or trailer: bytes to `Headers`, and what its fields say about framing.

Called by `http1` for each head it has not just seen on the same connection, or on another one of late.
Strict (RFC 9112 §5): what another parser could read differently is refused, never repaired. The refusals are
those of a request; `http1.ResponseReader` turns them into `BadResponse`.
"""

from __future__ import annotations

import re
from typing import Final

from rproxy.native.fields import (
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    HOST,
    MARKS,
    TRANSFER_ENCODING,
    UPGRADE,
    is_plain_authority,
    marks,
    plain_fields,
)

from .message import BadRequest, ExpectationFailed, Framing, Headers, HeadTooLarge, NotImplementedHere

MAX_FIELDS: Final = 128
"""Fields of a head. Browsers send about 15, chains of proxies 40; HAProxy allows 101, Apache 100."""
MAX_TRAILERS: Final = 32
"""Fields of a trailer section: gRPC sends 3."""
MAX_LENGTH_DIGITS: Final = 18
"""Digits of a Content-Length: below 2^63 whatever the digits, so no parser behind us overflows."""
MAX_OPTIONS: Final = 32
"""Names in Connection: real ones list one to three, each costs a set entry and a lookup per field."""
MOST_KNOWN: Final = 256
"""Field sections remembered for all connections together: of health checks, monitors, programs that ask anew
each time. They take 2 MB at most; when there are so many, remembering begins anew."""
MAX_KNOWN: Final = 1024
"""Bytes of one of them. Longer ones are mostly browsers' with cookies, which are not remembered anyway."""
MOST_KNOWN_FIELDS: Final = 24
"""Fields of one of them: each takes 150 bytes besides what it says."""

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
# One match per line and none across lines: that the matches are as many as the line ends proves that every
# line matched from its first byte to its last. Possessive, so linear.
_ANY: Final = re.compile(rb"(?m)^(" + _TOKEN + rb"):[ \t]*+([\t\x20-\x7e\x80-\xff]*+)\r\n")
_IS_TOKEN: Final = re.compile(_TOKEN).fullmatch
_IS_UPGRADE: Final = re.compile(rb"%b(?:/%b)?+(?:[ \t]*+,[ \t]*+%b(?:/%b)?+)*+" % ((_TOKEN,) * 4)).fullmatch
_AUTHORITY: Final = re.compile(rb"(?:[0-9A-Za-z._-]++|\[[0-9A-Fa-f:.]++\])(?::([0-9]{1,5}+))?+").fullmatch
_ODD: Final = bytes(c if chr(c).isalnum() and c < 128 else 0x2D for c in range(256))

# Looked up once: in 3.11 a member of an Enum costs as much as a call.
_NONE: Final = Framing.NONE
_LENGTH: Final = Framing.LENGTH
_CHUNKED: Final = Framing.CHUNKED

# CGI, WSGI and their kin turn dashes (some of them anything else, too) into `_`: a field that would become
# one of these behind us is a forgery.
_TWINNED: Final = frozenset(
    b"content-length transfer-encoding content-type proxy-connection proxy-authorization keep-alive"
    b" x-forwarded-for x-forwarded-proto x-forwarded-port x-forwarded-host x-forwarded-ssl x-forwarded-server"
    b" x-forwarded-prefix x-forwarded-scheme x-forwarded-by x-real-ip x-original-uri x-original-url"
    b" x-rewrite-url x-client-ip x-cluster-client-ip true-client-ip cf-connecting-ip fastly-client-ip"
    b" cloudfront-viewer-address x-scheme x-url-scheme x-request-id front-end-https".split()
)
# RFC 9110 §6.5.1: fields that frame, route, authenticate or say how to read the content; a recipient that
# merges trailers into the head would obey them too late or against what was checked.
_NOT_IN_TRAILERS: Final = (
    frozenset(MARKS)
    | _TWINNED
    | frozenset(
        b"te trailer authorization cookie set-cookie www-authenticate authentication-info proxy-authenticate"
        b" proxy-authentication-info content-encoding content-range max-forwards cache-control pragma range"
        b" age date expires location retry-after vary warning if-match if-none-match if-modified-since"
        b" if-unmodified-since if-range forwarded via proxy".split()
    )
)
# What only a proxy may say: where a request came from, what it asked for, which certificate was shown. `_`
# and other bytes that CGI and WSGI take for a dash are as good as one.
is_claim: Final = re.compile(
    rb"""(?x)
    x[\W_]forwarded (?: [\W_] | \Z )
    | (?: forwarded | x[\W_]real[\W_]ip | x[\W_]original[\W_]ur[il] | x[\W_]rewrite[\W_]url ) \Z
    | (?: x[\W_] )? (?: client[\W_]?cert | (?: ssl | tls )[\W_]client | ssl[\W_]cert )
    | x[\W_]arr[\W_]clientcert | x[\W_]amzn[\W_]mtls"""
).match
# Fields in which nothing is secret: what else a client says is forgotten with its connection.
_OPEN: Final = frozenset(
    b"host connection user-agent accept accept-charset accept-encoding accept-language cache-control pragma"
    b" content-type content-length transfer-encoding te expect keep-alive dnt priority sec-gpc sec-ch-ua"
    b" sec-ch-ua-mobile sec-ch-ua-platform sec-fetch-dest sec-fetch-mode sec-fetch-site sec-fetch-user"
    b" upgrade-insecure-requests x-requested-with".split()
)
_OPTIONS: Final = {value: frozenset([value]) for value in (b"keep-alive", b"close", b"upgrade")}
_NO_OPTIONS: Final[frozenset[bytes]] = frozenset()


class Facts:
    """What one field section says, whatever message it stands in; never changes."""

    __slots__ = ("connection", "expects_continue", "framing", "headers", "host", "length", "upgrade")

    def __init__(
        self,
        headers: Headers,
        host: bytes | None,
        framing: Framing,
        length: int,
        expects_continue: bool,
        connection: frozenset[bytes],
        upgrade: bytes,
    ) -> None:
        self.headers, self.host = headers, host
        self.framing = framing
        """LENGTH, CHUNKED, or NONE if the fields say nothing."""
        self.length, self.expects_continue, self.connection = length, expects_continue, connection
        self.upgrade = upgrade
        """The value of Upgrade if Connection lists it, else empty."""


def read_facts(block: bytes) -> Facts:
    """Parse the lines of a head after the first; `block` is empty or ends with CRLF, without the empty line.

    Raises `BadRequest` or a kind of it.
    """
    plain = plain_fields(block, MAX_FIELDS)
    if plain is not None:
        headers, present = Headers(plain[0], plain[1]), plain[2]
    else:
        headers = read_headers(block, MAX_FIELDS)
        present = marks(headers.names)
    host: bytes | None = None
    options, upgrade = _NO_OPTIONS, b""
    if present & HOST:
        host = _only(headers, b"host")
        if not is_plain_authority(host):
            check_authority(host)
    if present & CONNECTION:
        options = _connection(headers)
    if present & UPGRADE:
        upgrade = _upgrade(headers)
    framing, length = _framing(headers, present)
    expects = bool(present & EXPECT) and _expectation(_only(headers, b"expect"))
    return Facts(headers, host, framing, length, expects, options, upgrade if b"upgrade" in options else b"")


class Known:
    """The field sections of late, so that one which comes again on another connection is not read again."""

    __slots__ = ("_facts",)

    def __init__(self) -> None:
        self._facts: dict[bytes, Facts] = {}

    def read(self, block: bytes) -> Facts:
        """As `read_facts`; only those with nothing but usual fields are kept."""
        if len(block) > MAX_KNOWN:
            return read_facts(block)
        facts = self._facts.get(block)
        if facts is None:
            facts = read_facts(block)
            names = facts.headers.names
            if len(names) <= MOST_KNOWN_FIELDS and _OPEN.issuperset(names):
                if len(self._facts) >= MOST_KNOWN:
                    self._facts.clear()
                facts.headers.shared = True
                self._facts[block] = facts
        return facts


def read_trailers(block: bytes) -> Headers:
    """Parse a trailer section, without its empty line (RFC 9112 §7.1.2).

    Raises `BadRequest` for a bad field and for any field that has no business behind a body.
    """
    headers = read_headers(block, MAX_TRAILERS)
    if not _NOT_IN_TRAILERS.isdisjoint(headers.names) or any(map(is_claim, headers.names)):
        raise BadRequest("forbidden field in trailers")
    return headers


def read_headers(block: bytes, most: int) -> Headers:
    """The fields of `block`, whose lines all end with CRLF; at most `most` of them."""
    plain = plain_fields(block, most)
    if plain is not None:
        return Headers(plain[0], plain[1])
    lines = block.count(b"\n")
    pairs = _odd_pairs(block, lines)
    if lines > most:
        raise HeadTooLarge("too many fields")
    return Headers(pairs)


def _odd_pairs(block: bytes, lines: int) -> list[tuple[bytes, bytes]]:
    """The fields of a block with unusual names, or white space behind values."""
    pairs: list[tuple[bytes, bytes]] = _ANY.findall(block)
    if len(pairs) != lines:
        raise BadRequest("malformed field line")
    for name, _ in pairs:
        plain = name.lower().translate(_ODD)
        if plain in _TWINNED and plain != name.lower():
            raise BadRequest("field name that mimics another")
    return [(name, value.rstrip(b" \t")) for name, value in pairs]


def check_authority(authority: bytes) -> bytes | None:
    """The digits of the port of a `host` or `host:port`, or None; raises `BadRequest` for anything else.

    Hosts are letters, digits and `-._`, or an address in brackets: no user, no percent sign, no empty port.
    """
    match = _AUTHORITY(authority)
    if match is None:
        raise BadRequest("malformed authority")
    port: bytes | None = match[1]
    if port is not None and int(port) > 65535:
        raise BadRequest("port out of range")
    return port


def _only(headers: Headers, name: bytes) -> bytes:
    names = headers.names
    if names.count(name) != 1:
        raise BadRequest(f"more than one {name.decode('ascii')} field")
    return headers.pairs[names.index(name)][1]


def _framing(headers: Headers, present: int) -> tuple[Framing, int]:
    """How the fields say the body ends (RFC 9112 §6.3); at most one of them may speak."""
    if present & TRANSFER_ENCODING:
        if present & CONTENT_LENGTH:
            raise BadRequest("Content-Length and Transfer-Encoding")
        return _transfer_coding(_only(headers, b"transfer-encoding")), 0
    if present & CONTENT_LENGTH:
        return _LENGTH, _content_length(_only(headers, b"content-length"))
    return _NONE, 0


def _content_length(value: bytes) -> int:
    """RFC 9110 §8.6, and no leading zero: some read those as octal."""
    if not value.isdigit() or len(value) > MAX_LENGTH_DIGITS or (value[0] == 0x30 and len(value) > 1):
        raise BadRequest("malformed Content-Length")
    return int(value)


def _transfer_coding(value: bytes) -> Framing:
    """RFC 9112 §6.1; names of codings ignore case. `chunked` alone, since we decode nothing else."""
    if value.lower() == b"chunked":
        return _CHUNKED
    codings = [coding.strip(b" \t") for coding in value.lower().split(b",")]
    if not all(map(_IS_TOKEN, codings)):
        raise BadRequest("malformed Transfer-Encoding")
    if b"chunked" in codings[:-1]:
        raise BadRequest("chunked is not the last transfer coding")
    raise NotImplementedHere("transfer coding other than chunked")


def _expectation(value: bytes) -> bool:
    if value.lower() != b"100-continue":
        raise ExpectationFailed("unknown expectation")
    return True


def _connection(headers: Headers) -> frozenset[bytes]:
    """What all Connection fields name (RFC 9110 §7.6.1); empty list elements are allowed."""
    names = headers.names
    if names.count(b"connection") == 1:
        value = headers.pairs[names.index(b"connection")][1].lower()
    else:
        value = b",".join(headers.all(b"connection")).lower()
    known = _OPTIONS.get(value)
    if known is not None:
        return known
    if value.count(b",") >= MAX_OPTIONS:
        raise BadRequest("too many names in Connection")
    options = frozenset(option.strip(b" \t") for option in value.split(b",")) - {b""}
    if not all(map(_IS_TOKEN, options)):
        raise BadRequest("malformed Connection")
    return options


def _upgrade(headers: Headers) -> bytes:
    """The protocols of all Upgrade fields (RFC 9110 §7.8)."""
    value = b", ".join(headers.all(b"upgrade"))
    if not _IS_UPGRADE(value):
        raise BadRequest("malformed Upgrade")
    return value
