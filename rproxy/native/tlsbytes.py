"""What goes into OpenSSL and comes out of it, for one connection of `tls`; see `native`.

pyOpenSSL's methods raise an exception for each read that finds nothing and copy everything twice; a call
by cffi costs as much as the encryption of a small request. Measured by `tls_h1`, `tls_handshake` and
`tls_bulk` in bench/. Imports OpenSSL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL

RECORD: Final = 16384
"""Bytes in one record, RFC 8446 §5.1."""
MOST: Final = 7 * RECORD
"""Bytes that are encrypted at a time: with what records add to them they are not more than one send takes."""

NONE: Final = 0
"""`ended` when nothing was in the way, as OpenSSL numbers it, see SSL_get_error(3); so are the others."""
WANT_READ: Final = 2
ZERO_RETURN: Final = 6
"""The other side has said that it sends no more."""

_lib: Any = Binding.lib
_view: Any = Binding.ffi.buffer
_from_buffer: Any = Binding.ffi.from_buffer


class Records:
    """The bytes of a pyOpenSSL `Connection` without a socket, which lives as long as this does.

    `ended` says why the last call stopped, and `count` is what OpenSSL's function gave then: who wants to
    know more asks before the next call, of any connection. `scratch` is an `openssl.Scratch`.
    """

    __slots__ = (
        "_connection",
        "_from_ssl",
        "_into_ssl",
        "_scratch",
        "_ssl",
        "answers",
        "count",
        "ended",
        "left",
        "taken",
    )

    def __init__(self, connection: Any, scratch: Any) -> None:
        self._connection, self._scratch = connection, scratch
        self._ssl: Any = connection._ssl
        self._into_ssl: Any = connection._into_ssl
        self._from_ssl: Any = connection._from_ssl
        if self._into_ssl is None or self._from_ssl is None:
            raise TypeError("the connection has a socket")
        self.ended = NONE
        self.count = 0
        self.left = False
        """Whether there is something behind the record that `opened` gave."""
        self.answers = False
        """Whether there is something for `written` to give. What was there before a record may wait on:
        session tickets, which go with the answer to the first request."""
        self.taken = 0
        """Of what `sealed` was given, the bytes that are encrypted."""

    def feed(self, data: bytes) -> None:
        """Add bytes from the other side to those that `shake` and `opened` look at."""
        if data and _lib.BIO_write(self._into_ssl, data, len(data)) != len(data):
            raise MemoryError

    def shake(self) -> int:
        """Go on with the handshake: NONE if it is done, WANT_READ if more has to come; gives `ended`."""
        _forget_errors()
        self._note(_lib.SSL_do_handshake(self._ssl))
        return self.ended

    def opened(self, data: bytes) -> bytes:
        """The next record in what the other side has sent, to which `data` is added, decrypted; or nothing.

        It is nothing if `ended` is not NONE.
        """
        _forget_errors()
        self.feed(data)
        unsent = self._waiting(self._from_ssl)
        self._note(_lib.SSL_read(self._ssl, self._scratch.read, RECORD))
        if self.ended != NONE:
            self.left, self.answers = False, self._waiting(self._from_ssl) > 0
            return b""
        self.left, self.answers = self._waiting(self._into_ssl) > 0, self._waiting(self._from_ssl) > unsent
        plain: bytes = _view(self._scratch.read, self.count)[:]
        return plain

    def sealed(self, data: bytes, at: int) -> bytes:
        """At most MOST bytes of `data`, from this offset on, encrypted, behind what `written` would give."""
        if not 0 <= at <= len(data):
            raise ValueError("outside of the bytes")
        _forget_errors()
        self.ended, self.taken, pieces = NONE, 0, list[bytes]()
        rest = memoryview(data)[at : at + MOST]
        while self.taken < len(rest) and self.ended == NONE:
            part = _from_buffer(rest[self.taken : self.taken + RECORD])
            self._note(_lib.SSL_write(self._ssl, part, len(part)))
            self.taken += max(self.count, 0)
            pieces.append(self.written())
        return b"".join(pieces) if pieces else self.written()

    def written(self) -> bytes:
        """What OpenSSL has written of itself: a part of the handshake, an answer, an alert."""
        buffer, pieces = self._scratch.written, list[bytes]()
        while True:
            count: int = _lib.BIO_read(self._from_ssl, buffer, len(buffer))
            if count > 0:
                pieces.append(_view(buffer, count)[:])
            if count < len(buffer):
                return b"".join(pieces)

    def version(self) -> str:
        """As in "TLSv1.3"."""
        name: bytes = Binding.ffi.string(_lib.SSL_get_version(self._ssl))
        return name.decode("ascii")

    def goodbye(self) -> bool:
        """Have the close alert written, if it has not been; whether the other side has sent its own, too."""
        _forget_errors()
        said: int = _lib.SSL_shutdown(self._ssl)
        return said > 0

    def _waiting(self, memory: Any) -> int:
        size: int = _lib.BIO_get_mem_data(memory, self._scratch.at)
        return size

    def _note(self, count: int) -> None:
        self.count = count
        self.ended = NONE if count > 0 else _lib.SSL_get_error(self._ssl, count)


def offer(context: SSL.Context, protocols: Sequence[bytes]) -> None:
    """Have a server agree on the first of these ALPN protocols that the client lists.

    A client that lists others only gets the alert no_application_protocol (RFC 7301 §3.2). Raises
    `ValueError` for a protocol that has no byte or more than 255.
    """
    if not all(0 < len(protocol) < 256 for protocol in protocols):
        raise ValueError("a protocol has 1 to 255 bytes")

    def select(connection: SSL.Connection, listed: list[bytes]) -> bytes:
        for protocol in protocols:
            if protocol in listed:
                return protocol
        raise SSL.Error([("", "", "no application protocol")])  # OpenSSL sends the alert

    context.set_alpn_select_callback(select)


def _forget_errors() -> None:
    """One that nobody has asked for would be taken for the next call's (SSL_get_error(3))."""
    if _lib.ERR_peek_error():
        _lib.ERR_clear_error()
