"""The TLS layer of one connection, whichever side we are. Made by `downstream.terminate` and `upstream.tls`.

Twisted's `TLSMemoryBIOProtocol` does the work. Added are what a proxy cannot do without: a time
limit for the handshake and one for the goodbye, a failure told in words, and a transport that
inner protocols can treat like our TCP ones. Taken out is what costs a connection or a write
more than its TLS: copying the transport's interfaces, registering with a factory, one `send` per
record. Measured by `tls_h1`, `tls_handshake` and `tls_bulk` in bench/; the slow twin in the tests
is Twisted's own. Imports OpenSSL.
"""

from __future__ import annotations

import os
from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import IProtocol
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from rproxy.deadlines import Deadline, Deadlines
from rproxy.keypair import KeyPair

HANDSHAKE = 10.0
"""Seconds for a handshake: some round trips and a signature."""
GOODBYE = 5.0
"""Seconds without progress after which a connection that we have closed is cut off."""
RECORD = 16384
"""Bytes in one record, RFC 8446 §5.1."""
FLUSH = 32768
"""Bytes taken from OpenSSL at once: the library keeps that much for good, for each connection."""


class TLSTransport(TLSMemoryBIOProtocol):
    """Wraps `protocol`, whose transport it is; `connection` is new, with accept or connect state set.

    `protocol` is connected at once, before the handshake; what it writes waits. `loseConnection`
    sends what was written and the close alert, and means it: a producer is unregistered.
    """

    transport: Any
    wrappedProtocol: Any
    _tlsConnection: Any
    _deadline: Deadline | None = None
    _unsent = -1
    _failed = _ended = False
    _speaks_first = False

    def __init__(
        self, protocol: IProtocol, connection: SSL.Connection, deadlines: Deadlines | None, handshake: float
    ) -> None:
        super().__init__(_NO_FACTORY, protocol)
        self._tlsConnection = connection
        self._appSendBuffer: list[bytes] = []
        self._deadlines, self._handshake = deadlines, handshake

    def handshake_failed(self, words: str, error: BaseException | None) -> BaseException | None:
        """Called once if the handshake does not succeed; what it returns, if anything, `protocol` is told."""

    @property
    def version(self) -> str:
        """As in "TLSv1.3"; empty before the handshake and after the connection."""
        known = self._handshakeDone and self._tlsConnection is not None
        return str(self._tlsConnection.get_protocol_version_name()) if known else ""

    def getHandle(self) -> Any:
        """The socket, as of the transport below, so that `local_of` works."""
        return self.transport.getHandle()

    def makeConnection(self, transport: Any) -> None:
        """Peek's or Twisted's call. A client says hello now, a server waits to be spoken to."""
        self.transport, self.connected = transport, True
        self._wait(self._handshake, self._too_slow)
        self.wrappedProtocol.makeConnection(self)
        if self._speaks_first:
            self._checkHandshakeStatus()

    def loseConnection(self) -> None:
        """Close after what was written; in this turn of the loop if the other side has closed already."""
        if self.disconnecting or not self.connected:
            return
        self.unregisterProducer()
        if not self._lostTLSConnection:
            self.transport.resumeProducing()  # or the answer to our alert is never read
        super().loseConnection()
        self._wait(GOODBYE, self._check_goodbye)

    close = loseConnection

    def loseWriteConnection(self) -> None:
        """Send the close alert after what was written, and go on receiving (RFC 8446 §6.1)."""
        self.unregisterProducer()
        self._ended = True
        self._end_output()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """The transport's call, once; an unfinished handshake has failed."""
        super().connectionLost(reason)
        self._stop_clock()

    def _checkHandshakeStatus(self) -> None:
        super()._checkHandshakeStatus()
        if self._handshakeDone:
            self._stop_clock()
            self._end_output()

    def _unbufferPendingWrites(self) -> None:
        super()._unbufferPendingWrites()
        self._end_output()

    def _end_output(self) -> None:
        if self._ended and self._handshakeDone and not self._appSendBuffer:
            self._shutdownTLS()

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        error = None if reason is None else reason.value
        if error is not None and not self._handshakeDone:
            self._fail(words_of(error), error)
        super()._tlsShutdownFinished(reason)

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

    def _write(self, octets: bytes) -> None:
        """As Twisted's, but with one write below for several records."""
        if self._lostTLSConnection:
            return
        connection = self._tlsConnection
        left: bytes | memoryview[int] = octets
        try:
            while left:  # OpenSSL takes one record at a time
                sent = connection.send(left)
                if sent == len(left):
                    break
                if left is octets:
                    left = memoryview(octets)
                left = left[sent:]
                if (len(octets) - len(left)) % FLUSH == 0:
                    self._flushSendBIO()
        except SSL.WantReadError:
            self._bufferedWrite(bytes(left))
        except SSL.Error:
            if not self._ended:  # else our half is closed, and what comes late is dropped
                self._tlsShutdownFinished(Failure())
            return
        self._flushSendBIO()

    def _flushSendBIO(self) -> None:
        """As Twisted's, but all of it."""
        read = self._tlsConnection.bio_read
        try:
            while True:
                octets = read(2 * FLUSH)
                self.transport.write(octets)
                if len(octets) < FLUSH:
                    return
        except SSL.WantReadError:  # nothing left
            return

    def _check_goodbye(self) -> None:
        """Cut off whoever neither takes what is left nor closes."""
        self._deadline = None
        unsent = _unsent(self.transport)
        if unsent in (0, self._unsent):
            self.transport.abortConnection()
            return
        self._unsent = unsent
        self._wait(GOODBYE, self._check_goodbye)

    def _wait(self, seconds: float, late: Any) -> None:
        self._stop_clock()
        if self._deadlines is not None and self.connected:
            self._deadline = self._deadlines.after(seconds, late)

    def _stop_clock(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            deadline()


def use_pair(context: SSL.Context, pair: KeyPair) -> None:
    """Show this certificate. Raises `SSL.Error` when OpenSSL does not take it.

    From a file in memory, because only this call keeps the chains of several certificates apart.
    """
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pair.chain)
        context.use_certificate_chain_file(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    context.use_privatekey(pair.key)


def words_of(error: BaseException) -> str:
    """What an OpenSSL error says, in its own words; they hold nothing that the other side chose."""
    if isinstance(error, SSL.SysCallError):
        return "the other side left"
    if isinstance(error, SSL.Error):
        queue = error.args[0] if error.args else ()
        return str(queue[-1][-1]) if queue else "the other side left"
    return str(error)


class _NoFactory:
    """Stands where Twisted's protocol has the factory that counts its connections."""

    def registerProtocol(self, protocol: object) -> None:
        """Not counted."""

    def unregisterProtocol(self, protocol: object) -> None:
        """Not counted."""


_NO_FACTORY: Any = _NoFactory()


def _unsent(transport: Any) -> int:
    """Bytes in a Twisted transport's queue; 0 for a transport that does not say."""
    queued = len(getattr(transport, "dataBuffer", b"")) - getattr(transport, "offset", 0)
    return queued + int(getattr(transport, "_tempDataLen", 0))
