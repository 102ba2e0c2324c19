"""How the far side of a relay is told that this one has ended, or was cut off. Called by `relay`.

Whose other side was cut off is reset, behind what waits for it: closing would say that this is all there
is, and nobody could tell half a stream from a whole one.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.interfaces import INegotiated, IPullProducer
from twisted.protocols.policies import ProtocolWrapper
from zope.interface import classImplements

from rproxy.transports import Stream, unsent_of

PATIENCE: Final = 5.0
"""Seconds in which what waits has to be taken: it is half of something, and nobody is left to wait for it."""


def is_twisteds_tls(transport: Any) -> bool:
    """Whether Twisted's `tls:` or `ssl:` endpoints have made it, or `startTLS`; bytes must not go past it."""
    if isinstance(transport, Stream):
        return transport.under_tls
    wrapped = isinstance(transport, ProtocolWrapper) and INegotiated.providedBy(transport)
    return wrapped or bool(getattr(transport, "TLS", False))


def end_half(transport: Any, begun: bool) -> None:
    """Say that nothing more will be written, behind what was; `begun` is whether anything was.

    Where that cannot be said, the other side is not told before it has ended, too. Twisted's TLS would shut
    TCP's half below it, ahead of what it holds; but its `loseConnection` says goodbye and goes on reading.
    Before the handshake it breaks off instead, unless there is something to be sent.
    """
    if isinstance(transport, Stream) and not transport.under_tls:
        transport.loseWriteConnection()
    elif not is_twisteds_tls(transport):
        getattr(transport, "loseWriteConnection", _nothing)()
    elif begun:
        transport.loseConnection()


def _nothing() -> None:
    """Stands for what a transport does not have."""


class Parting:
    """Resets `transport`, which has no producer, once its buffer is empty or `PATIENCE` is over.

    It becomes the producer of the transport below any TLS: that tells when its buffer is empty, and does
    not close then, as it would if it was told to before.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = below = transport
        while not isinstance(below, Stream) and getattr(below, "transport", None) is not None:
            below = below.transport
        transport.pauseProducing()
        self._timer: Any = below.reactor.callLater(PATIENCE, transport.abortConnection)
        below.registerProducer(self, False)

    def resumeProducing(self) -> None:
        """The transport's call, at once and when its buffer is empty."""
        if not unsent_of(self._transport):
            self._transport.abortConnection()

    def stopProducing(self) -> None:
        """The transport's call when it is lost, in whatever way."""
        if self._timer.active():
            self._timer.cancel()


classImplements(Parting, IPullProducer)
