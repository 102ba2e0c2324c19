"""Who passed a request on before it came to us: X-Forwarded-For and Forwarded (RFC 7239), read and written.

Asked by `forwarding` for peers in `trusted_forwarded_proxies` only; what others claim is never read. Fields
are read from their end, where those proxies have added what they saw: that decides who is banned.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from typing import NamedTuple

from rproxy.policy.networks import NetworkSet
from rproxy.wire.address import inet
from rproxy.wire.message import Headers

MAX_HOPS = 64
"""Hops of a chain: CDN, ingress and mesh together make five; each costs an address to parse and a look-up."""
MAX_BYTES = 4096
"""Bytes of all X-Forwarded-For or all Forwarded fields: 64 hops of the longest usual form."""

UNKNOWN = "unknown"
"""The node of a hop that has no address, as of a client on a unix socket (RFC 7239 §6.2)."""


class Hop(NamedTuple):
    """Who sent a request to the next hop, and as what."""

    node: str
    """Canonical address text; or `unknown`, or an identifier that begins with `_` (RFC 7239 §6)."""
    proto: bytes = b""
    """`http` or `https` as that hop used it; empty if nobody says."""
    host: bytes = b""
    """The Host that it asked for; empty if nobody says."""

    @property
    def is_address(self) -> bool:
        """Whether the node is an address."""
        return self.node[0] not in "u_"


class Claims(NamedTuple):
    """What a trusted peer's fields amount to."""

    hops: tuple[Hop, ...]
    """From the client to the peer, which is the last; the first is the first we can vouch for."""
    https: bool
    """Whether the client spoke TLS to whoever saw it first."""
    port: int
    """The port that the client connected to."""


def believe(headers: Headers, peer: Hop, port: int, trusted: NetworkSet) -> Claims:
    """The claims of a request whose sender `peer` is trusted; `peer.proto` and `port` are those it used here.

    A proto that is believed and differs from ours brings its own port, unless X-Forwarded-Port names one.
    """
    kept = _trusted_part(_chain(headers), trusted)
    hops = (*kept, peer) if all(hop.is_address for hop in kept) else (peer,)
    proto = _proto(headers.all(b"x-forwarded-proto")) or hops[0].proto or peer.proto
    if proto != peer.proto:
        port = 443 if proto == b"https" else 80
    return Claims(hops, proto == b"https", _port(headers.all(b"x-forwarded-port")) or port)


def read_addresses(values: Sequence[bytes]) -> tuple[str, ...]:
    """The hops of X-Forwarded-For, ports dropped: those at the end that are addresses, within the limits."""
    nodes: list[str] = []
    for item in _from_the_end(values):
        node = read_node(item)
        if node is None or node[0] in "u_":
            break
        nodes.append(node)
    return tuple(reversed(nodes))


def read_forwarded(values: Sequence[bytes]) -> tuple[Hop, ...]:
    """The hops of Forwarded fields (RFC 7239 §4): those at the end that are well-formed."""
    hops: list[Hop] = []
    for item in _from_the_end(values):
        hop = _read_element(item)
        if hop is None:
            break
        hops.append(hop)
    return tuple(reversed(hops))


def _from_the_end(values: Sequence[bytes]) -> list[bytes]:
    """The members of a list, the last one first: each proxy adds its own there.

    What stands further left comes from strangers, and may be anything; nothing that they put there changes
    what our proxies have added.
    """
    listed = b",".join(values)
    members = listed[-MAX_BYTES:].split(b",")
    if len(listed) > MAX_BYTES:
        del members[0]  # a part of one
    return [item for item in map(_trim, reversed(members)) if item][:MAX_HOPS]


def write_forwarded(hops: Sequence[Hop]) -> bytes:
    """The value of a Forwarded field; what `read_forwarded` gives back."""
    return b", ".join(map(_element, hops))


def read_node(node: bytes) -> str | None:
    """The node in `192.0.2.7`, `[2001:db8::1]`, `unknown` or `_name`, with or without a port, or bare IPv6.

    Canonical, without brackets and port: an IPv4-mapped address is IPv4. None for anything else.
    """
    match = _NODE(node)
    if match is None or (match["port"] is not None and int(match["port"]) > 65535):
        return None
    if match["hidden"] is not None:
        hidden: str = match["hidden"].decode("ascii")
        return hidden if hidden[0] == "_" else UNKNOWN
    return _canonical((match["v6"] or match["v4"] or match["bare"]).decode("ascii"))


def _chain(headers: Headers) -> tuple[Hop, ...]:
    """What the fields say together: Forwarded, unless X-Forwarded-For says otherwise."""
    addresses = read_addresses(headers.all(b"x-forwarded-for"))
    named = read_forwarded(headers.all(b"forwarded"))
    if named and (not addresses or [hop.node for hop in named] == list(addresses)):
        return named
    return tuple(map(Hop, addresses))


def _trusted_part(hops: tuple[Hop, ...], trusted: NetworkSet) -> tuple[Hop, ...]:
    """The trusted hops at the end, and the one before them, whom the first of them saw.

    Anybody may have made up what stands further left. All, if all are trusted.
    """
    at = len(hops)
    while at and hops[at - 1].node in trusted:
        at -= 1
    return hops[max(at - 1, 0) :]


def _proto(values: Sequence[bytes]) -> bytes:
    """The first of X-Forwarded-Proto if all are http or https, else empty."""
    protos = [_trim(item).lower() for item in b",".join(values).split(b",", MAX_HOPS)]
    return protos[0] if all(proto in (b"http", b"https") for proto in protos) else b""


def _port(values: Sequence[bytes]) -> int:
    """The one X-Forwarded-Port, else 0."""
    return int(values[0]) if len(values) == 1 and _PORT(values[0]) and int(values[0]) < 65536 else 0


def _read_element(item: bytes) -> Hop | None:
    """One element of a Forwarded field. A comma in a quoted string divides it, too: no proxy writes one."""
    pairs: dict[bytes, bytes] = {}
    at, end = 0, b";"
    while end:
        match = _PAIR(item, at)
        if match is None:
            return None
        at = match.end()
        name, token, quoted, end = match.groups()
        if name is not None:
            if name.lower() in pairs:
                return None
            pairs[name.lower()] = token if quoted is None else _ESCAPE(rb"\1", quoted)
    return _hop(pairs)


def _hop(pairs: dict[bytes, bytes]) -> Hop | None:
    """One element; `by` and extensions are left out, they say nothing about the client."""
    node = read_node(pairs.get(b"for", b""))
    proto, host = pairs.get(b"proto", b"").lower(), pairs.get(b"host", b"")
    if node is None or proto not in (b"", b"http", b"https") or not _HOST(host):
        return None
    return Hop(node, proto, host)


def _element(hop: Hop) -> bytes:
    node = hop.node.encode("ascii")
    element = b'for="[%b]"' % node if b":" in node else b"for=" + node
    if hop.proto:
        element += b";proto=" + hop.proto
    if hop.host:
        element += b";host=" + (hop.host if _IS_TOKEN(hop.host) else b'"%b"' % hop.host)
    return element


def _canonical(address: str) -> str | None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return inet(socket.inet_ntop(family, socket.inet_pton(family, address)), 0).host
    except OSError:
        return None


def _trim(item: bytes) -> bytes:
    return item.strip(b" \t")


_PORT = re.compile(rb"[1-9][0-9]{0,4}").fullmatch
_HOST = re.compile(rb"[0-9A-Za-z.:_\[\]-]{0,261}").fullmatch  # a name of 253 bytes or an address, and a port
_IS_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL).sub
_NODE = re.compile(
    rb"""(?xi)
    (?: \[ (?P<v6> [0-9a-f]{0,4} : [0-9a-f:.]{1,44} ) \]
      | (?P<v4> [0-9.]{7,15} )
      | (?P<hidden> unknown | _[0-9a-z._-]{1,64} ) )
    (?: : (?: (?P<port> [0-9]{1,5} ) | _[0-9a-z._-]{1,64} ) )?
    | (?P<bare> [0-9a-f]{0,4} : [0-9a-f:.]{1,44} )"""
).fullmatch
# A pair, or nothing (a list may have empty members), up to `;` or the end.
_PAIR = re.compile(
    rb"""(?xs) [ \t]*+
    (?: ([!\#$%&'*+\-.^_`|~0-9A-Za-z]++) =
        (?: ([!\#$%&'*+\-.^_`|~0-9A-Za-z]++)
          | "( (?: [\t\x20\x21\x23-\x5b\x5d-\x7e] | \\[\t\x20-\x7e] )*+ )" )
    )?+
    [ \t]*+ ( ; | \Z )"""
).match
