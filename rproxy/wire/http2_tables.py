"""The tables of HPACK (RFC 7541): the fields that both sides know, and Huffman's code. Used by the codecs.

Huffman's code is canonical, so the lengths of its codes say all of it; a machine that reads four bits at a
time is made of them once, 0.1 ms for each of its 256 states.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from .message import Pair


def _fields(text: bytes) -> tuple[Pair, ...]:
    lines = [line.strip().partition(b" ") for line in text.strip().split(b"\n")]
    return tuple((name, value) for name, _, value in lines)


STATIC: Final = _fields(
    b"""
    :authority
    :method GET
    :method POST
    :path /
    :path /index.html
    :scheme http
    :scheme https
    :status 200
    :status 204
    :status 206
    :status 304
    :status 400
    :status 404
    :status 500
    accept-charset
    accept-encoding gzip, deflate
    accept-language
    accept-ranges
    accept
    access-control-allow-origin
    age
    allow
    authorization
    cache-control
    content-disposition
    content-encoding
    content-language
    content-length
    content-location
    content-range
    content-type
    cookie
    date
    etag
    expect
    expires
    from
    host
    if-match
    if-modified-since
    if-none-match
    if-range
    if-unmodified-since
    last-modified
    link
    location
    max-forwards
    proxy-authenticate
    proxy-authorization
    range
    referer
    refresh
    retry-after
    server
    set-cookie
    strict-transport-security
    transfer-encoding
    user-agent
    vary
    via
    www-authenticate
    """
)
"""Appendix A; the first has the number 1."""

# Appendix B: which symbols have codes of a length, shortest first; within a length they are in their order.
_LENGTHS: Final = (
    (5, b"012aceiost"),
    (6, b" %-./3456789=A_bdfghlmnpru"),
    (7, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, b"&*,;XZ"),
    (10, b'!"()?'),
    (11, b"'+|"),
    (12, b"#>"),
    (13, b"\0$@[]~"),
    (14, b"^}"),
    (15, b"<`{"),
    (19, b"\\\xc3\xd0"),
    (20, b"\x80\x82\x83\xa2\xb8\xc2\xe0\xe2"),
    (21, b"\x99\xa1\xa7\xac\xb0\xb1\xb3\xd1\xd8\xd9\xe3\xe5\xe6"),
    (
        22,
        b"\x81\x84\x85\x86\x88\x92\x9a\x9c\xa0\xa3\xa4\xa9\xaa\xad\xb2\xb5\xb9\xba\xbb\xbd\xbe\xc4\xc6"
        b"\xe4\xe8\xe9",
    ),
    (
        23,
        b"\x01\x87\x89\x8a\x8b\x8c\x8d\x8f\x93\x95\x96\x97\x98\x9b\x9d\x9e\xa5\xa6\xa8\xae\xaf\xb4\xb6"
        b"\xb7\xbc\xbf\xc5\xe7\xef",
    ),
    (24, b"\t\x8e\x90\x91\x94\x9f\xab\xce\xd7\xe1\xec\xed"),
    (25, b"\xc7\xcf\xea\xeb"),
    (26, b"\xc0\xc1\xc8\xc9\xca\xcd\xd2\xd5\xda\xdb\xee\xf0\xf2\xf3\xff"),
    (27, b"\xcb\xcc\xd3\xd4\xd6\xdd\xde\xdf\xf1\xf4\xf5\xf6\xf7\xf8\xfa\xfb\xfc\xfd\xfe"),
    (
        28,
        b"\x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x0f\x10\x11\x12\x13\x14\x15\x17\x18\x19\x1a\x1b\x1c"
        b"\x1d\x1e\x1f\x7f\xdc\xf9",
    ),
    (30, b"\n\r\x16"),
)
# The rest of the code space, all ones, is the end of a string (EOS), which never stands in one.


class Machine(NamedTuple):
    """Reads Huffman's code by nibbles. In both tables a state's 16 entries begin at 16 times its number."""

    states: tuple[int, ...]
    """The state behind a nibble; -1 where no code goes on like this."""
    symbols: tuple[int, ...]
    """The symbol that a nibble completes, or -1."""
    ends: frozenset[int]
    """The states in which a string may end: in fewer than 8 bits, all of them ones (§5.2)."""


def codes() -> dict[int, tuple[int, int]]:
    """For each symbol its code and the bits that has."""
    found: dict[int, tuple[int, int]] = {}
    code = bits = 0
    for length, symbols in _LENGTHS:
        code, bits = code << (length - bits), length
        for symbol in symbols:
            found[symbol] = code, length
            code += 1
    return found


def _machine() -> Machine:
    """From the tree of all codes: its inner nodes are the states, the root is 0."""
    tree: list[dict[int, int]] = [{}]  # by bit: another node, or ~symbol
    for symbol, (code, length) in codes().items():
        node = 0
        for at in range(length - 1, 0, -1):
            bit = code >> at & 1
            if bit not in tree[node]:
                tree[node][bit] = len(tree)
                tree.append({})
            node = tree[node][bit]
        tree[node][code & 1] = ~symbol
    steps = [_step(tree, node, nibble) for node in range(len(tree)) for nibble in range(16)]
    ends, node = {0}, 0
    for _ in range(7):
        node = tree[node][1]
        ends.add(node)
    return Machine(tuple(to for to, _ in steps), tuple(symbol for _, symbol in steps), frozenset(ends))


def _step(tree: list[dict[int, int]], node: int, nibble: int) -> tuple[int, int]:
    symbol = -1
    for at in (3, 2, 1, 0):
        to = tree[node].get(nibble >> at & 1)
        if to is None:
            return -1, -1
        if to < 0:
            symbol, to = ~to, 0
        node = to
    return node, symbol


HUFFMAN: Final = _machine()
