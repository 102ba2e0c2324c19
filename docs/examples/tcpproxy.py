"""A TCP proxy of one's own, on the library:  python tcpproxy.py :5000 [TARGET...]

Clients need a certificate of the authority in certs/ and the group admin; they share three upstreams,
which `python echo.py 7001 7002 7003` provides, unless others are named. Ctrl-C closes it.
"""

import sys
from pathlib import Path

from twisted.internet import reactor
from twisted.logger import Logger, globalLogBeginner, textFileLogObserver

from rproxy import Configuration, ListenerConfig, Proxy, RateLimitConfig, UpstreamConfig

CERTS = Path(__file__).parent / "certs"
TARGETS = ["127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.1:7003"]


def main(listener_addr, *targets):
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)])
    logger, status = Logger("tcpproxy"), [0]
    config = Configuration(
        ListenerConfig(listener_addr, CERTS / "ca.crt", CERTS / "server.crt", CERTS / "server.key"),
        UpstreamConfig("echo", targets or TARGETS, authorized_groups=["admin"]),
        RateLimitConfig(capacity=10, fill_rate="1s"),
        timeout="60s",
        logger=logger,
    )
    proxy = Proxy(config, reactor=reactor)

    def failed(failure):
        logger.error("{why}", why=failure.getErrorMessage())
        status[0] = 1
        reactor.stop()

    reactor.callWhenRunning(lambda: proxy.listen().addErrback(failed))
    # Twisted stops at SIGINT and SIGTERM; it waits here until the connections there are have ended.
    reactor.addSystemEventTrigger("before", "shutdown", proxy.close)
    reactor.run()
    return status[0]


sys.exit(main(*sys.argv[1:]))
