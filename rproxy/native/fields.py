"""Field sections of HTTP/1 as lists, for `wire.http1_fields` and `policy.forwarding`; see `native`.

As in `heads`, what is not plain is left to the caller, with None. Measured by `h1_newconn` in bench/.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from typing import Final

HOST: Final = 1
CONTENT_LENGTH: Final = 2
TRANSFER_ENCODING: Final = 4
CONNECTION: Final = 8
EXPECT: Final = 16
UPGRADE: Final = 32

MARKS: Final = {
    b"host": HOST,
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"expect": EXPECT,
    b"upgrade": UPGRADE,
}
"""The fields that say something about the message's frame."""

# One match per line and none across lines: that the matches are as many as the line ends proves that every
# line matched from its first byte to its last. Possessive, so linear.
_PLAIN = re.compile(rb"(?m)^([0-9A-Za-z-]++):[ \t]*+([\t\x20-\x7e\x80-\xff]*+)(?<![ \t])\r\n")
_AUTHORITY = re.compile(rb"[0-9A-Za-z._-]++(?::([0-9]{1,5}+))?+").fullmatch

Pair = tuple[bytes, bytes]


def plain_fields(block: bytes, most: int) -> tuple[list[Pair], list[bytes], int] | None:
    """The pairs of name and value, the names in lower case, and all their MARKS.

    `block` ends with CRLF or is empty. None if a name is not of letters, digits and dashes, a value has white
    space behind it, anything is malformed, or there are more than `most`.
    """
    pairs: list[Pair] = _PLAIN.findall(block)
    if len(pairs) != block.count(b"\n") or len(pairs) > most:
        return None
    names = [name.lower() for name, _ in pairs]
    return pairs, names, marks(names)


def marks(names: Sequence[bytes]) -> int:
    """The MARKS of all names (lower case) together."""
    found = 0
    for name in names:
        found |= MARKS.get(name, 0)
    return found


def is_plain_authority(authority: bytes) -> bool:
    """Whether it is a name or an IPv4 address, perhaps with a port up to 65535; False says nothing else."""
    match = _AUTHORITY(authority)
    return match is not None and (match[1] is None or int(match[1]) <= 65535)


def without(pairs: Sequence[Pair], names: Sequence[bytes], dropped: Set[bytes]) -> list[Pair]:
    """The pairs, in a new list, whose name is not among the dropped; `names` are those of the pairs."""
    return [pair for name, pair in zip(names, pairs, strict=True) if name not in dropped]


def lines(pairs: Sequence[Pair]) -> bytes:
    """A line for each pair. Raises `ValueError` for a line break or NUL in one."""
    parts: list[bytes] = []
    for name, value in pairs:
        parts += (name, b": ", value, b"\r\n")
    written = b"".join(parts)
    if len(written) - len(written.translate(None, b"\r\n\0")) != 2 * len(pairs):  # one look at all bytes
        raise ValueError("line break or NUL in a head")
    return written
