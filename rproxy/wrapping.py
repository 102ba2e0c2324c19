"""A transport around a transport: what it passes on, and who produces for it. For `tls` to inherit from.

Addresses and options are those of the transport below. A producer is paused by two, the one below and
whatever the wrapping itself waits for, so that a `Gate` stands between. Compiled, as `tls` is.
"""

from __future__ import annotations

from typing import Any

from mypy_extensions import mypyc_attr
from twisted.internet._producer_helpers import _PullToPush
from twisted.internet.interfaces import IPushProducer
from zope.interface import classImplements


@mypyc_attr(allow_interpreted_subclasses=True)
class Wrapping:
    """The part of a transport that needs no word from the protocol between it and `transport`.

    `_lost` is set by the subclass once nothing can be sent any more.
    """

    def __init__(self) -> None:
        self.transport: Any = None
        self._producer: Any = None
        self._pulled: Any = None
        self._lost = False

    def loseConnection(self) -> None:
        """As `ITransport.loseConnection`; the subclass knows how."""
        raise NotImplementedError

    def _producer_gone(self) -> None:
        """A producer is unregistered: what waited for that may happen."""

    def getHandle(self) -> Any:
        """The socket, as of the transport below, so that `local_of` works."""
        return self.transport.getHandle()

    def getHost(self) -> Any:
        """As of the transport below."""
        return self.transport.getHost()

    def getPeer(self) -> Any:
        """As of the transport below."""
        return self.transport.getPeer()

    def getTcpNoDelay(self) -> bool:
        """As of the transport below; so are the next three."""
        return bool(self.transport.getTcpNoDelay())

    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: D102
        self.transport.setTcpNoDelay(enabled)

    def getTcpKeepAlive(self) -> bool:  # noqa: D102
        return bool(self.transport.getTcpKeepAlive())

    def setTcpKeepAlive(self, enabled: bool) -> None:  # noqa: D102
        self.transport.setTcpKeepAlive(enabled)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """As `IConsumer.registerProducer`."""
        if self._lost:
            producer.stopProducing()
            return
        pulled = None if streaming else _PullToPush(producer, self)
        gate = Gate(producer if pulled is None else pulled)
        self.transport.registerProducer(gate, True)
        self._producer, self._pulled = gate, pulled
        if pulled is not None:
            pulled.startStreaming()

    def unregisterProducer(self) -> None:
        """As `IConsumer.unregisterProducer`."""
        if self._producer is None:
            return
        if self._pulled is not None:
            self._pulled.stopStreaming()
        self._producer = self._pulled = None
        self.transport.unregisterProducer()
        self._producer_gone()

    def _drop_producer(self) -> None:
        """Nobody is left to produce for, and it is not to go on."""
        producer, pulled = self._producer, self._pulled
        self._producer = self._pulled = None
        if producer is None:
            return
        if pulled is not None:
            pulled.stopStreaming()  # there is nothing left that could be paused
        else:
            producer.pauseProducing()
        self.transport.unregisterProducer()

    def stopConsuming(self) -> None:
        """As `IConsumer` producers expect it."""
        self.unregisterProducer()
        self.loseConnection()

    def pauseProducing(self) -> None:
        """As `IPushProducer`: the transport below is not read for now."""
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """As `IPushProducer`."""
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """As `IPushProducer`."""
        self.loseConnection()


class Gate:
    """Between a producer and the two that may want it to wait, the handshake and the transport below."""

    __slots__ = ("_paused", "_producer")

    def __init__(self, producer: Any) -> None:
        self._producer, self._paused = producer, False

    def pauseProducing(self) -> None:
        """Once is enough."""
        if not self._paused:
            self._paused = True
            self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        """The same."""
        if self._paused:
            self._paused = False
            self._producer.resumeProducing()

    def stopProducing(self) -> None:
        """The transport's call when it is lost."""
        self._producer.stopProducing()


classImplements(Gate, IPushProducer)
