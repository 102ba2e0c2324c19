"""What Twisted finds of rproxy: `twistd rproxy`, the reactor of `-r rproxy`, `acceptproxy:` and `sendproxy:`.

Read by every Twisted program that looks for plugins, so it imports little.
"""

from twisted.application.reactors import Reactor
from twisted.application.service import ServiceMaker

from rproxy.endpoints import AcceptProxyParser, SendProxyParser

service = ServiceMaker(  # type: ignore[no-untyped-call]
    "rproxy", "rproxy.tap", "Reverse proxy and protocol router", "rproxy"
)
acceptproxy = AcceptProxyParser()
sendproxy = SendProxyParser()
reactor = Reactor(  # type: ignore[no-untyped-call]
    "rproxy", "rproxy.reactor", "epoll(7) with rproxy's event loop and transports."
)
