"""Request heads as HPACK, for `wire.http2_client`: as `http2_encode` has it for responses."""

from __future__ import annotations

from typing import Final

from .http2_encode import Encoder
from .http2_tables import STATIC
from .message import Fields, Pair

MOST_LINES: Final = 64
"""Methods and schemes remembered for one connection: a client may send any method."""
_NUMBERS: Final = {pair: number for number, pair in enumerate(STATIC, 1)}
_ROOT: Final = bytes([0x80 | _NUMBERS[(b":path", b"/")]])


class RequestEncoder(Encoder):
    """Encodes the requests of one connection."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: dict[Pair, bytes] = {}

    def request(
        self, method: bytes, scheme: bytes, target: bytes, fields: Fields, protocol: bytes = b""
    ) -> bytes:
        """The header block of a request; Host becomes `:authority`. Raises `ValueError` as `fields` does.

        With `protocol` it is an extended CONNECT (RFC 8441 §4), and without one a CONNECT has neither
        scheme nor path (RFC 9113 §8.5).
        """
        own = fields.own
        authority = [value for name, value in own if name.lower() == b"host"][:1]
        pseudo: list[Pair] = [(b":authority", value) for value in authority]
        if protocol:
            pseudo.append((b":protocol", protocol))
            line = self._line(b"CONNECT", scheme) + self._path(target)
        elif method == b"CONNECT":
            line = self.fields([(b":method", method)])
        else:
            line = self._line(method, scheme) + self._path(target)
        if fields.block is not self._block:
            self._block, self._common = fields.block, self.fields(fields.block.pairs)
        return line + self.fields(pseudo) + self.fields(own) + self._common

    def _line(self, method: bytes, scheme: bytes) -> bytes:
        known = self._lines.get((method, scheme))
        if known is None:
            known = self._indexed((b":method", method)) + self._indexed((b":scheme", scheme))
            if len(self._lines) < MOST_LINES:
                self._lines[(method, scheme)] = known
        return known

    def _indexed(self, pair: Pair) -> bytes:
        number = _NUMBERS.get(pair)
        return bytes([0x80 | number]) if number else self.fields([pair])

    def _path(self, target: bytes) -> bytes:
        return _ROOT if target == b"/" else self.fields([(b":path", target)])

    def _learn(self, name: bytes) -> bytes:
        """Host has been said already: two hosts are two chances to be misunderstood."""
        if name.lower() != b"host":
            return super()._learn(name)
        self._names[name] = b""  # as many as there are ways to write it; we write it in one
        return b""
