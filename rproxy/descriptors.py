"""Connections over unix sockets, which can carry open files. Made by `ports` and `dialling`.

What is written waits for the next turn of the loop, as with Twisted: an open file travels with a byte, and a
program may write first and give the file afterwards.
"""

from __future__ import annotations

import os
import socket
from array import array
from typing import Any

from twisted.internet.error import FileDescriptorOverrun
from twisted.internet.interfaces import IFileDescriptorReceiver, IUNIXTransport
from twisted.logger import Logger
from zope.interface import implementer

from rproxy.native.sockets import CHUNK, LATER
from rproxy.starttls import OverStream, Secured
from rproxy.streams import Server, prefix_of
from rproxy.transports import END, LOST

log = Logger()

MOST_TAKEN = 253
"""Open files that come with one message at most, on any kernel (unix(7), SCM_RIGHTS)."""
ROOM = socket.CMSG_SPACE(MOST_TAKEN * array("i").itemsize)
MOST_WAITING = 64
"""Open files that wait to be sent, above which a producer is paused; Twisted's, too."""


@implementer(IUNIXTransport)
class CarriesFiles(OverStream):
    """Stands before the class of a stream over a unix socket."""

    _files: tuple[int, ...] = ()

    def sendFileDescriptor(self, descriptor: int) -> None:
        """As `IUNIXTransport.sendFileDescriptor`; each needs a byte that is written before or after."""
        self._files += (descriptor,)
        if self.producer is not None and self.streamingProducer and len(self._files) > MOST_WAITING:
            self.producerPaused = True
            self.producer.pauseProducing()
        self.startWriting()

    def write(self, data: bytes) -> None:
        """As `ITransport.write`; sent in the next turn."""
        if not isinstance(data, bytes):
            raise TypeError("a transport writes bytes")
        if self.connected and not self._half_closed and data:
            self._queue(data)

    def doWrite(self) -> Any:
        """The reactor's call: open files first, each with a byte of the queue."""
        if self._files and not self._aborting:
            self.dataBuffer = b"".join([self.dataBuffer[self.offset :], *self._tempDataBuffer])
            self.offset, self._tempDataBuffer, self._tempDataLen = 0, [], 0
            if len(self._files) > len(self.dataBuffer):
                return FileDescriptorOverrun()
            lost = self._send_files()
            if lost is not None or self._files:
                return lost
        return super().doWrite()

    def _send_files(self) -> Any:
        """As many as the socket takes; gives the reason if the connection is lost."""
        files, self._files = self._files, ()
        for at, number in enumerate(files):
            try:
                octet = self.dataBuffer[self.offset : self.offset + 1]
                self.offset += socket.send_fds(self.socket, [octet], [number])
            except OSError as problem:
                self._files = files[at:]
                return None if problem.errno in LATER else LOST
        return None

    def doRead(self) -> Any:
        """The reactor's call: read once, with the open files that came along."""
        if self.reads is not None or self._aborting:
            return super().doRead()
        try:
            data, extra, _, _ = self.socket.recvmsg(CHUNK, ROOM, socket.MSG_CMSG_CLOEXEC)
        except OSError as problem:
            return None if problem.errno in LATER else LOST
        for level, kind, content in extra:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._take(content)
        if not data:
            return END
        self.protocol.dataReceived(data)
        return None

    def _take(self, content: bytes) -> None:
        numbers = array("i")
        numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
        if IFileDescriptorReceiver.providedBy(self.protocol):
            for number in numbers:
                self.protocol.fileDescriptorReceived(number)
            return
        log.warn("{protocol} takes no open files; closing those received", protocol=prefix_of(self.protocol))
        for number in numbers:
            os.close(number)

    def getTcpNoDelay(self) -> bool:
        """A unix socket knows no such thing; programs written for TCP ask all the same."""
        return False

    def setTcpNoDelay(self, enabled: int) -> None:
        """Nothing to set."""


class UnixServer(CarriesFiles, Server):
    """The transport of a connection that a unix port of the reactor has accepted, or that it has adopted."""


class SecureUnixServer(Secured, UnixServer):
    """The same after `startTLS`."""


UnixServer.secured = SecureUnixServer
