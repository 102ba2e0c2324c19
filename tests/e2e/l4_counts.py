"""The library's proxy in a process of its own, which says what it counts. Run by test_l4_churn.py.

Arguments: the folder with the certificates, a port, the ports of the targets. Each line of its input
is answered with one line of JSON; at the end of its input it closes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from twisted.internet import protocol, stdio
from twisted.protocols.basic import LineReceiver

from rproxy import Configuration, ListenerConfig, Proxy, RateLimitConfig, UpstreamConfig
from rproxy.tap import choose_reactor


class Asked(LineReceiver):
    """Answers questions about one proxy."""

    delimiter = b"\n"

    def __init__(self, proxy: Any, reactor: Any) -> None:
        self.proxy, self.reactor = proxy, reactor

    def lineReceived(self, line: bytes) -> None:
        service = self.proxy._service
        (shared,) = service.l4._used.listeners.values()
        route = shared.rest.service
        counts = {
            "peers": {peer.name: peer.open for peer in route.group.peers},
            "limited": route.limiter.open,
            "admitted": service.limits.open,
            "alive": len(service.connections),
        }
        self.sendLine(json.dumps(counts).encode())

    def connectionLost(self, reason: Any = protocol.connectionDone) -> None:
        self.proxy.close().addBoth(lambda _: self.reactor.stop())


def main() -> None:
    choose_reactor()
    from twisted.internet import reactor

    folder, port, *targets = sys.argv[1:]
    certs = Path(folder)
    listener = ListenerConfig(
        f"127.0.0.1:{port}", certs / "ca.pem", certs / "server.pem", certs / "server.key"
    )
    upstream = UpstreamConfig("echo", [f"127.0.0.1:{target}" for target in targets], ["admin"])
    limit = RateLimitConfig(max_connections=8)
    running: Any = reactor
    proxy = Proxy(Configuration(listener, upstream, limit, timeout="20s"), reactor=running)
    running.callWhenRunning(
        lambda: proxy.listen().addCallback(lambda _: stdio.StandardIO(Asked(proxy, running)))
    )
    running.run()


main()
