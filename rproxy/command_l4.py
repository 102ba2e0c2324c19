"""`rproxy l4`: a TCP proxy with client certificates, without a config file. A thin front of `proxy`."""

from __future__ import annotations

import argparse
import resource
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from rproxy.errors import ConfigError, UserError

if TYPE_CHECKING:  # Twisted, which the other commands of this program do without
    from rproxy.proxy import Configuration, Proxy

DESCRIPTION = """\
Forwards TCP connections, whatever is spoken in them, to the upstream that has the fewest. Clients connect in
TLS 1.3 and show a certificate that the authority in --ca has signed; upstreams get plain TCP.
"""
EPILOG = """\
Who a client is stands in the common name of its certificate, user@group. With --group only members of the
groups that are named may connect. A limit counts each client for itself, and refuses what is too much.

examples:
  rproxy l4 :5000 --ca ca.crt --cert server.crt --key server.key --upstream 10.0.0.7:5432 10.0.0.8:5432
  rproxy l4 127.0.0.1:5000 --ca ca.crt --cert server.crt --key server.key --upstream unix:/run/db.sock \\
    --group admin --group backup --capacity 20 --fill-rate 1s --max-connections 5

Ctrl-C lets connections finish, twice stops at once. A file says more: [l4.<name>], docs/l4.md
"""


def add_options(l4: argparse.ArgumentParser) -> None:
    """The options of the command."""
    l4.description, l4.epilog = DESCRIPTION, EPILOG
    l4.formatter_class = argparse.RawDescriptionHelpFormatter
    l4.add_argument("listen", metavar="LISTEN", help='where: ":5000", "10.0.0.1:5000", "[::1]:5000"')
    l4.add_argument("--ca", required=True, metavar="FILE", help="authorities that sign clients' certificates")
    l4.add_argument("--cert", required=True, metavar="FILE", help="our certificate, with its chain")
    l4.add_argument("--key", required=True, metavar="FILE", help="its key")
    l4.add_argument(
        "--upstream",
        required=True,
        nargs="+",
        action="extend",
        metavar="TARGET",
        help="host:port, unix:/path",
    )
    l4.add_argument(
        "--group", action="append", metavar="NAME", help="whose clients may connect (default: all)"
    )
    l4.add_argument("--name", default="l4", help="what it is called in the log (default: %(default)s)")
    l4.add_argument("--capacity", type=int, metavar="N", help="connections of a client at once after a pause")
    l4.add_argument("--fill-rate", metavar="TIME", help="until it may open one more, such as 1s")
    l4.add_argument("--max-connections", type=int, default=0, metavar="N", help="open ones of a client")
    l4.add_argument("--timeout", default="10m", metavar="TIME", help="without a byte (default: %(default)s)")
    l4.set_defaults(verb=run)


def run(options: argparse.Namespace) -> int:
    """Serve until a signal comes; returns the exit status."""
    from rproxy.proxy import Proxy
    from rproxy.tap import choose_reactor

    choose_reactor()
    from twisted.internet import reactor  # noqa: TID251  # this is a program

    running: Any = reactor
    _raise_file_limit()
    _log_to_output()
    return Running(Proxy(configuration(options), reactor=running), running).run()


def configuration(options: argparse.Namespace) -> Configuration:
    """What the options ask for."""
    from rproxy.proxy import Configuration, ListenerConfig, RateLimitConfig, UpstreamConfig

    limit = None
    if options.capacity is not None or options.fill_rate is not None or options.max_connections:
        limit = RateLimitConfig(options.capacity, options.fill_rate, options.max_connections)
    return Configuration(
        ListenerConfig(options.listen, options.ca, options.cert, options.key),
        UpstreamConfig(options.name, options.upstream, options.group),
        limit,
        _number_or_text(options.timeout),
    )


class Running:
    """The life of the program: listen, serve, close at the first signal, cut off at the second."""

    def __init__(self, proxy: Proxy, reactor: Any) -> None:
        self._proxy, self._reactor = proxy, reactor
        self._status = 0
        self._signals: Any = None

    def run(self) -> int:
        """Until it is over; the exit status."""
        self._reactor.callWhenRunning(self._begin)
        self._reactor.addSystemEventTrigger("before", "shutdown", self._close)
        self._reactor.run()
        return self._status

    def _begin(self) -> None:
        from rproxy.services.signals import Signals

        self._signals = Signals(self._reactor, self._reactor.stop)  # SIGHUP ends it: there is no file to read
        self._signals.startService()
        self._proxy.listen().addErrback(self._failed)

    def _failed(self, failure: Any) -> None:
        failure.trap(UserError)
        sys.stderr.write(f"{in_options(failure.value)}\n")
        self._status = 1
        self._reactor.stop()

    def _close(self) -> Any:
        if self._signals is not None:
            self._signals.hurry_on_second_stop(self._proxy.abort)
        return self._proxy.close()


def in_options(mistake: UserError) -> UserError:
    """The same, with what is wrong called as the command calls it."""
    if not isinstance(mistake, ConfigError):
        return mistake
    problems = []
    for problem in mistake.problems:
        called, _, rest = problem.key.partition("[")
        key = OPTIONS.get(called, called)
        problems.append(replace(problem, file="rproxy l4", key=key + ("[" + rest if rest else "")))
    return ConfigError(problems)


OPTIONS: Final = {
    "listener_config.listener_addr": "LISTEN",
    "listener_config.ca": "--ca",
    "listener_config.certificate": "--cert",
    "listener_config.private_key": "--key",
    "upstream_config.name": "--name",
    "upstream_config.targets": "--upstream",
    "upstream_config.authorized_groups": "--group",
    "rate_limit_config": "--capacity, --fill-rate",
    "rate_limit_config.capacity": "--capacity",
    "rate_limit_config.fill_rate": "--fill-rate",
    "rate_limit_config.max_connections": "--max-connections",
    "timeout": "--timeout",
}
"""What the library calls otherwise."""


def _number_or_text(duration: str) -> float | str:
    """As in a file, where a number needs no unit: a shell has no quotes to tell it from a text."""
    is_number = duration.isascii() and duration.replace(".", "", 1).isdigit()
    return float(duration) if is_number else duration


def _log_to_output() -> None:
    from twisted.logger import globalLogBeginner, textFileLogObserver

    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)], redirectStandardIO=False)


def _raise_file_limit() -> None:
    """As many descriptors as the program may have: a connection needs two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
