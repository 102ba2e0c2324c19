"""Upstreams to try a proxy with:  python echo.py 7001 7002 7003

Each port says who it is to every connection, and then sends everything back, until the other side has
said all.
"""

import sys

from twisted.internet import protocol, task
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from zope.interface import implementer


@implementer(IHalfCloseableProtocol)
class Echo(protocol.Protocol):
    """Whatever comes goes back."""

    def connectionMade(self):
        self.transport.registerProducer(self.transport, True)  # who does not read is not read
        self.transport.write(b"echo at %d\n" % self.transport.getHost().port)

    def dataReceived(self, data):
        self.transport.write(data)

    def readConnectionLost(self):
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def writeConnectionLost(self):
        pass


def main(reactor, *ports):
    for port in ports:
        reactor.listenTCP(int(port), protocol.Factory.forProtocol(Echo), interface="127.0.0.1")
    return Deferred()  # until a signal comes


task.react(main, sys.argv[1:])
