"""The TLS layer of one connection, whichever side we are. Made by `downstream.terminate` and `upstream.tls`.

As Twisted's `TLSMemoryBIOProtocol`, a protocol to the transport below and a transport to the
protocol inside, with what a proxy cannot do without: a time limit for the handshake and one for the
goodbye, and a failure told in words. It does not inherit from it, so that it can be compiled, and
bytes go straight through OpenSSL's functions, see `native.tlsbytes`. Measured by `tls_h1`,
`tls_handshake` and `tls_bulk` in bench/; the slow twin in the tests is Twisted's own. Imports OpenSSL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from mypy_extensions import mypyc_attr
from OpenSSL import SSL
from twisted.internet import main
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IHandshakeListener,
    INegotiated,
    IPushProducer,
)
from twisted.python.failure import Failure
from zope.interface import classImplements

from rproxy.deadlines import Deadline, Deadlines
from rproxy.interfaces import Receiver, pass_on
from rproxy.native.tlsbytes import MOST, NONE, WANT_READ, ZERO_RETURN, Records
from rproxy.openssl import Scratch, words_of
from rproxy.transports import close, unacknowledged, unsent_of
from rproxy.wrapping import Wrapping

HANDSHAKE: Final = 10.0
"""Seconds for a handshake: some round trips and a signature."""
GOODBYE: Final = 5.0
"""Seconds without progress after which a connection that we have closed is cut off."""
MOST_ANSWERS: Final = 1 << 20
"""Bytes that may wait for a client that only sends: OpenSSL answers each KeyUpdate (RFC 8446 §4.6.3).
What we send ourselves stops at a sixteenth of this."""
MOST_DROPPED: Final = 1 << 20
"""Bytes dropped behind a goodbye: they mean nothing (RFC 8446 §6.1), and who sends on and on is cut off."""


@mypyc_attr(allow_interpreted_subclasses=True)
class TLSTransport(Wrapping, Receiver):
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
        self._records: Any = Records(connection, scratch if scratch is not None else Scratch())
        self._speaks_first = speaks_first
        self._unsent = -1
        self._stopped: int = NONE
        self._done = self._aborted = self._failed = self._ended = self._alone = False

    def handshake_failed(self, words: str, error: BaseException | None) -> BaseException | None:
        """Called once if the handshake does not succeed; what it returns, if anything, `protocol` is told."""
        return None

    @property
    def version(self) -> str:
        """As in "TLSv1.3"; empty before the handshake and after the connection."""
        known = self._done and self._records is not None
        return str(self._records.version()) if known else ""

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

    def half_closes(self) -> bool:
        """See `interfaces.Receiver`: not by itself, see `ByHalves`."""
        return False

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
        if self._done and not self._waiting:
            self._read(data)
            return
        self._records.feed(data)
        if not self._done:
            if not self._shake():
                return
        else:
            self._write_waiting()
        self._read(b"")

    def _shake(self) -> bool:
        """Go on with the handshake; whether it is done."""
        if self._aborted:
            return False
        ended: int = self._records.shake()
        if ended == WANT_READ:
            self._flush()
            return False
        if ended != NONE:
            self._finish(self._why())
            return False
        self._done = True
        self._stop_clock()
        if IHandshakeListener.providedBy(self.wrappedProtocol):
            self.wrappedProtocol.handshakeCompleted()
        self._write_waiting()
        return True

    def _read(self, data: bytes) -> None:
        """Give on what can be decrypted."""
        records, connection, answers = self._records, self._tlsConnection, False
        while not self._lost:
            plain: bytes = records.opened(data)
            self._stopped = records.ended
            answers = answers or bool(records.answers)  # to any of these records
            if self._stopped != NONE:
                self._end_of_bytes(connection, records.count)
                break
            if not self._aborted:
                pass_on(self.wrappedProtocol, plain)
            if not records.left:  # another read would find nothing; most requests are one record
                break
            data = b""
        if answers and not self._lost:
            self._flush()
            if unsent_of(self.transport) > MOST_ANSWERS:
                self.abortConnection()

    def _why(self) -> Failure | None:
        """What OpenSSL's last call has against it; to be asked before the next one."""
        connection = self._tlsConnection
        try:
            connection._raise_ssl_error(connection._ssl, self._records.count)
        except SSL.Error:
            return Failure()
        return None

    def _end_of_bytes(self, connection: Any, count: int) -> None:
        """Why a read gave nothing: more has to come, the other side has closed, or it is over."""
        if self._stopped == ZERO_RETURN:
            self._records.goodbye()
            self._alone = True
            self._finish(None)
        elif self._stopped != WANT_READ:
            self._finish(self._why())

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
        """Encrypt and send; what OpenSSL has to say itself goes along."""
        records, at = self._records, 0
        while not self._lost:
            sealed: bytes = records.sealed(data, at)
            if records.ended != NONE:
                self._not_written(sealed, data[at + records.taken :])
                return
            if sealed:
                self.transport.write(sealed)
            at += MOST
            if at >= len(data):
                return

    def _not_written(self, sealed: bytes, rest: bytes) -> None:
        later = self._records.ended == WANT_READ
        why = None if later else self._why()
        if sealed:
            self.transport.write(sealed)
        if later:
            self._hold(rest)
        elif why is not None and not self._ended:  # else our half is closed, and what comes late is dropped
            self._finish(why)

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
        written: bytes = self._records.written()
        if written:
            self.transport.write(written)

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
        both: bool = self._records.goodbye()  # in the middle of a handshake it says nothing
        self._flush()
        if both:
            self._close_below()

    def _close_below(self) -> None:
        """Nothing more is said in either direction: who produced for us has nobody to produce for."""
        self._drop_producer()
        if self._alone:
            close(self.transport)  # a turn of the loop less
        else:
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
            self._read(b"")
            self._lost = True
        told, self._reason = self._reason or reason, None
        self.connected = False
        self._stop_clock()
        protocol, self.wrappedProtocol = self.wrappedProtocol, None  # no cycle is left to the collector
        protocol.connectionLost(told)
        self._tlsConnection = self._records = None

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
            deadline.drop()


@mypyc_attr(allow_interpreted_subclasses=True)
class ByHalves(TLSTransport):
    """The same for a protocol that may be closed by halves, as the ends of a relay.

    TLS's goodbye ends one direction only (RFC 8446 §6.1); the base class takes it for the end of both. What
    is behind it is dropped. An end of TCP without it is the end of both, of which `protocol.left()` tells.
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
        super().__init__(protocol, connection, deadlines, handshake, scratch, speaks_first)
        self._goodbye = False
        self._dropped = 0

    def half_closes(self) -> bool:
        """See `interfaces.Receiver`."""
        return True

    def dataReceived(self, data: bytes) -> None:
        """The transport's call: records, cut anywhere."""
        if not self._goodbye:  # behind it OpenSSL reads nothing
            super().dataReceived(data)
        else:
            self._drop(data)

    def _drop(self, data: bytes) -> None:
        self._dropped += len(data)
        if self._dropped > MOST_DROPPED:
            self.transport.abortConnection()

    def readConnectionLost(self) -> None:
        """The call of who is below: TCP's half is shut, with TLS's goodbye ahead of it, or without."""
        if self._goodbye and not self._lost and not self.disconnecting:
            return
        if self._done and not self._lost and not self._goodbye:
            self.wrappedProtocol.left()
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """The same once our half is shut; there is nothing to add."""

    def _end_of_bytes(self, connection: Any, count: int) -> None:
        """A goodbye is the other half's end; a fatal alert, which OpenSSL notes as one, too, is none."""
        if self._stopped != ZERO_RETURN or self._ended or self.disconnecting:
            super()._end_of_bytes(connection, count)
        elif not self._goodbye:
            self._goodbye = True
            self.wrappedProtocol.readConnectionLost()


classImplements(ByHalves, IHalfCloseableProtocol)
classImplements(TLSTransport, INegotiated, IPushProducer)
