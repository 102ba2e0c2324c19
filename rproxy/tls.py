"""The TLS layer of one connection, whichever side we are. Made by `downstream.terminate` and `upstream.tls`.

As Twisted's `TLSMemoryBIOProtocol`, a protocol to the transport below and a transport to the
protocol inside, with what a proxy cannot do without: a time limit for the handshake and one for the
goodbye, and a failure told in words. It does not inherit from it, so that it can be compiled, and
asks OpenSSL's functions for bytes directly: pyOpenSSL's methods raise an exception for each read
that finds nothing and copy everything twice, which cost a small request as much as its
encryption. Measured by `tls_h1`, `tls_handshake` and `tls_bulk` in bench/; the slow twin in the
tests is Twisted's own. Imports OpenSSL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from cryptography.hazmat.bindings.openssl.binding import Binding
from mypy_extensions import mypyc_attr
from OpenSSL import SSL
from twisted.internet import main
from twisted.internet.interfaces import IHandshakeListener, INegotiated, IPushProducer
from twisted.python.failure import Failure
from zope.interface import classImplements

from rproxy.deadlines import Deadline, Deadlines
from rproxy.openssl import FLUSH, OUT, RECORD, Scratch, words_of
from rproxy.transports import unacknowledged, unsent_of
from rproxy.wrapping import Wrapping

HANDSHAKE: Final = 10.0
"""Seconds for a handshake: some round trips and a signature."""
GOODBYE: Final = 5.0
"""Seconds without progress after which a connection that we have closed is cut off."""
MOST_ANSWERS: Final = 1 << 20
"""Bytes that may wait for a client that only sends: OpenSSL answers each KeyUpdate (RFC 8446 §4.6.3).
What we send ourselves stops at a sixteenth of this."""

_lib: Any = Binding.lib
_WANT_READ: Any = _lib.SSL_ERROR_WANT_READ
_ZERO_RETURN: Any = _lib.SSL_ERROR_ZERO_RETURN
_view: Any = Binding.ffi.buffer
_from_buffer: Any = Binding.ffi.from_buffer


@mypyc_attr(allow_interpreted_subclasses=True)
class TLSTransport(Wrapping):
    """Wraps `protocol`, whose transport it is; `connection` is new, with accept or connect state set.

    `protocol` is connected at once, before the handshake; what it writes waits. `loseConnection`
    sends what was written and the close alert, and means it: a producer is unregistered.
    """

    def __init__(
        self,
        protocol: Any,
        connection: SSL.Connection,
        deadlines: Deadlines | None,
        handshake: float,
        scratch: Scratch | None = None,
        speaks_first: bool = False,
    ) -> None:
        super().__init__()
        self.wrappedProtocol: Any = protocol
        self.connected = self.disconnecting = False
        self._tlsConnection: Any = connection
        self._deadlines, self._handshake = deadlines, handshake
        self._deadline: Deadline | None = None
        self._reason: Failure | None = None
        self._waiting: list[bytes] = []
        self._scratch = scratch if scratch is not None else Scratch()
        self._speaks_first = speaks_first
        self._unsent = -1
        self._done = self._aborted = self._failed = self._ended = False

    def handshake_failed(self, words: str, error: BaseException | None) -> BaseException | None:
        """Called once if the handshake does not succeed; what it returns, if anything, `protocol` is told."""
        return None

    @property
    def version(self) -> str:
        """As in "TLSv1.3"; empty before the handshake and after the connection."""
        known = self._done and self._tlsConnection is not None
        return str(self._tlsConnection.get_protocol_version_name()) if known else ""

    @property
    def negotiatedProtocol(self) -> bytes | None:
        """As `INegotiated` has it: the ALPN protocol, None if there is none."""
        connection = self._tlsConnection
        return (connection.get_alpn_proto_negotiated() or None) if connection is not None else None

    def getPeerCertificate(self) -> Any:
        """As Twisted's: what the other side has shown, None if nothing."""
        return self._tlsConnection.get_peer_certificate()

    def logPrefix(self) -> str:
        """Twisted's tag for what is logged on this connection's behalf."""
        return "TLS"

    def makeConnection(self, transport: Any) -> None:
        """Peek's or Twisted's call. A client says hello now, a server waits to be spoken to."""
        self.transport, self.connected = transport, True
        self._wait(self._handshake, self._too_slow)
        self.wrappedProtocol.makeConnection(self)
        if self._speaks_first:
            self._shake()

    def dataReceived(self, data: bytes) -> None:
        """The transport's call: records, cut anywhere."""
        if self._lost:
            return
        _lib.BIO_write(self._tlsConnection._into_ssl, data, len(data))
        if not self._done:
            if self._shake():
                self._read()
            return
        if self._waiting:
            self._write_waiting()
        self._read()

    def _shake(self) -> bool:
        """Go on with the handshake; whether it is done."""
        if self._aborted:
            return False
        try:
            self._tlsConnection.do_handshake()
        except SSL.WantReadError:
            self._flush()
            return False
        except SSL.Error:
            self._finish(Failure())
            return False
        self._done = True
        self._stop_clock()
        if IHandshakeListener.providedBy(self.wrappedProtocol):
            self.wrappedProtocol.handshakeCompleted()
        self._write_waiting()
        return True

    def _read(self) -> None:
        """Give on what can be decrypted."""
        buffer, at = self._scratch.read, self._scratch.at
        while not self._lost:
            connection = self._tlsConnection
            count: int = _lib.SSL_read(connection._ssl, buffer, RECORD)
            if count <= 0:
                self._end_of_bytes(connection, count)
                break
            if not self._aborted:
                self.wrappedProtocol.dataReceived(_view(buffer, count)[:])
            if not _lib.BIO_get_mem_data(connection._into_ssl, at):
                return  # another read would find nothing; most requests are one record
        self._flush()  # OpenSSL may have answered something itself
        if unsent_of(self.transport) > MOST_ANSWERS:
            self.abortConnection()

    def _end_of_bytes(self, connection: Any, count: int) -> None:
        """Why a read gave nothing: more has to come, the other side has closed, or it is over."""
        error = _lib.SSL_get_error(connection._ssl, count)
        if error == _WANT_READ:
            return
        if error == _ZERO_RETURN:
            self._shut_down()
            self._finish(None)
            return
        try:
            connection._raise_ssl_error(connection._ssl, count)
        except SSL.Error:
            self._finish(Failure())

    def write(self, data: bytes) -> None:
        """As `ITransport.write`; waits for the handshake."""
        if self._lost or (self.disconnecting and self._producer is None):
            return
        if self._done and not self._waiting:
            self._write(data)
        else:
            self._hold(data)

    def _hold(self, data: bytes) -> None:
        self._waiting.append(data)
        if self._producer is not None:
            self._producer.pauseProducing()

    def _write(self, data: bytes) -> None:
        """Encrypt: a record at a time is what OpenSSL takes."""
        ssl, size, at = self._tlsConnection._ssl, len(data), 0
        while at < size and not self._lost:
            part = data if size <= RECORD else _from_buffer(memoryview(data)[at : at + RECORD])
            count: int = _lib.SSL_write(ssl, part, len(part))
            if count <= 0:
                self._not_written(count, data[at:])
                return
            at += count
            if at % FLUSH == 0:
                self._flush()
        self._flush()

    def _not_written(self, count: int, rest: bytes) -> None:
        connection = self._tlsConnection
        if _lib.SSL_get_error(connection._ssl, count) == _WANT_READ:
            self._hold(rest)
            return
        try:
            connection._raise_ssl_error(connection._ssl, count)
        except SSL.Error:
            if not self._ended:  # else our half is closed, and what comes late is dropped
                self._finish(Failure())

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """As `ITransport.writeSequence`."""
        self.write(b"".join(iovec))

    def _write_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for data in waiting:
            self._write(data)
        if self._waiting:
            return
        if self._producer is not None:
            self._producer.resumeProducing()
        elif self.disconnecting:
            self._shut_down()
        self._end_output()

    def _flush(self) -> None:
        """Send what OpenSSL has written."""
        buffer, source = self._scratch.written, self._tlsConnection._from_ssl
        while True:
            count: int = _lib.BIO_read(source, buffer, OUT)
            if count > 0:
                self.transport.write(_view(buffer, count)[:])
            if count < OUT:
                return

    def loseConnection(self) -> None:
        """Close after what was written."""
        if self.disconnecting or not self.connected:
            return
        self.unregisterProducer()
        if not self._lost:
            self.transport.resumeProducing()  # or the answer to our alert is never read
        if not self._done and not self._waiting:
            self.abortConnection()  # OpenSSL says no goodbye in the middle of a handshake
            return
        self.disconnecting = True
        if not self._waiting:
            self._shut_down()
        self._wait(GOODBYE, self._check_goodbye)

    def _producer_gone(self) -> None:
        if self.disconnecting and not self._waiting:
            self._shut_down()

    def close(self) -> None:
        """The same: TLS has no shorter way."""
        self.loseConnection()

    def loseWriteConnection(self) -> None:
        """Send the close alert after what was written, and go on receiving (RFC 8446 §6.1)."""
        self.unregisterProducer()
        self._ended = True
        self._end_output()

    def _end_output(self) -> None:
        if self._ended and self._done and not self._waiting:
            self._shut_down()

    def abortConnection(self) -> None:
        """As `ITCPTransport.abortConnection`; no goodbye, or what was cut off would look whole."""
        self._aborted = self.disconnecting = True
        self.transport.abortConnection()

    def _shut_down(self) -> None:
        """Say goodbye, or answer one; closes below when both sides have."""
        if self._tlsConnection is None:
            return
        try:
            both = self._tlsConnection.shutdown()
        except SSL.Error:  # in the middle of a handshake
            both = False
        self._flush()
        if both:
            self._close_below()

    def _close_below(self) -> None:
        """Nothing more is said in either direction: who produced for us has nobody to produce for."""
        self._drop_producer()
        self.transport.loseConnection()
        self._wait(GOODBYE, self._check_goodbye)

    def _finish(self, reason: Failure | None) -> None:
        """TLS is over; without a reason `protocol` is told what the transport below says."""
        error = None if reason is None else reason.value
        if error is not None and not self._done:
            self._fail(words_of(error), error)
        if isinstance(error, SSL.SysCallError) and error.args == (-1, "Unexpected EOF"):
            reason = Failure(main.CONNECTION_LOST)
        if self._reason is None:
            self._reason = reason
        self._lost = True
        self._flush()  # an alert that says why
        self._close_below()

    def connectionLost(self, reason: Failure) -> None:
        """The transport's call, once; an unfinished handshake has failed."""
        if not self._lost:
            self._tlsConnection.bio_shutdown()
            self._read()
            self._lost = True
        told, self._reason = self._reason or reason, None
        self.connected = False
        self._stop_clock()
        protocol, self.wrappedProtocol = self.wrappedProtocol, None  # no cycle is left to the collector
        protocol.connectionLost(told)
        self._tlsConnection = None

    def _fail(self, words: str, error: BaseException | None) -> None:
        if not self._failed:
            self._failed = True
            self._stop_clock()
            told = self.handshake_failed(words, error)
            self._reason = None if told is None else Failure(told)

    def _too_slow(self) -> None:
        self._deadline = None
        self._fail(f"it took more than {self._handshake:g} s", None)
        self.abortConnection()

    def _check_goodbye(self) -> None:
        """Cut off whoever has everything and does not close, or takes nothing of what is left."""
        self._deadline = None
        unsent = unacknowledged(self.transport)
        if unsent == 0 or 0 <= self._unsent <= unsent:
            self.transport.abortConnection()
            return
        self._unsent = unsent
        self._wait(GOODBYE, self._check_goodbye)

    def _wait(self, seconds: float, late: Callable[[], object]) -> None:
        self._stop_clock()
        if self._deadlines is not None and self.connected:
            self._deadline = self._deadlines.after(seconds, late)

    def _stop_clock(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            deadline()


classImplements(TLSTransport, INegotiated, IPushProducer)
