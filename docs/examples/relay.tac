"""One route alone, without a config file:  twistd -ny relay.tac

Every connection to LISTEN is joined to PEER; both are endpoint strings.
"""

import os
from random import Random

from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import Application
from twisted.internet import reactor
from twisted.internet.endpoints import clientFromString, serverFromString

from rproxy.deadlines import Deadlines
from rproxy.policy.balance import BALANCERS
from rproxy.relay import RelayFactory
from rproxy.services.access import ConnectionLog, to_descriptor
from rproxy.splice import Pipes
from rproxy.upstream.peer import Group, Peer

LISTEN = os.environ.get("LISTEN", "tcp:8443:interface=127.0.0.1")
PEER = os.environ.get("PEER", "tcp:127.0.0.1:443")

route = RelayFactory(
    reactor,
    "relay",
    Group([Peer(PEER, endpoint=clientFromString(reactor, PEER))], BALANCERS["round_robin"](Random())),
    ConnectionLog(reactor, to_descriptor(1)),
    Pipes(),
    Deadlines(reactor),
)
application = Application("relay")
StreamServerEndpointService(serverFromString(reactor, LISTEN), route).setServiceParent(application)
