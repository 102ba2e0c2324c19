"""rproxy as a library: a TCP proxy with client certificates, in a few objects. Exported by `rproxy` itself.

The objects say what `[l4.<name>]` of a config file says, with fewer words; nothing is checked or
decided here. `Configuration.table` is what the file would hold, and from there on both go the same
way: see docs/adr/0015-one-configuration.md. A proxy that can do more is made of a whole
`rproxy.config.schema.Configuration`, as `rproxy.config.load` gives it.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.errors import ConfigError, Problem, StartError

if TYPE_CHECKING:  # what a proxy is made of; who only imports this need not load it
    from rproxy.assemble import ProxyService
    from rproxy.config.mistakes import Mistake
    from rproxy.config.mistakes import Path as Keys
    from rproxy.config.schema import Configuration as Whole

AnyPath = str | os.PathLike[str]
Duration = float | str | timedelta
"""Seconds, or a text such as "10s", or Python's own."""


@dataclass(frozen=True, slots=True)
class ListenerConfig:
    """Where the proxy listens, and what TLS is made of there: PEM files, whose paths may be relative."""

    listener_addr: str
    """":5000", "10.0.0.1:5000", "[::1]:5000", or a Twisted server endpoint string."""
    ca: AnyPath
    """The authorities that sign clients' certificates."""
    certificate: AnyPath
    private_key: AnyPath


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    """A group of peers that serve the same, and who may come to them."""

    name: str
    """As it is called in the log."""
    targets: Sequence[str]
    """"host:port", "unix:/path", or Twisted client endpoint strings."""
    authorized_groups: Sequence[str] | None
    """A client needs one of them (`user@group` in its certificate); None: every client with a certificate."""


@dataclass(frozen=True, slots=True)
class RateLimitConfig:
    """What each client may do, who is known by the whole common name of its certificate."""

    capacity: int | None = None
    """Connections that it may open at once after a pause; None, without `fill_rate` too: any number."""
    fill_rate: Duration | None = None
    """How long until it may open one more."""
    max_connections: int = 0
    """How many it may have open; 0: any number."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything about one proxy."""

    listener_config: ListenerConfig
    upstream_config: UpstreamConfig
    rate_limit_config: RateLimitConfig | None = None
    timeout: Duration = 600.0
    """How long a connection may be idle in both directions; 0: for ever."""
    logger: Logger | None = None
    """Gets an event for each connection that has ended, with its facts as fields; None: rproxy's own."""

    def table(self) -> dict[str, Any]:
        """The same as a config file says it."""
        listener, upstream = self.listener_config, self.upstream_config
        service: dict[str, Any] = {
            "listen": listener.listener_addr,
            "tls": {
                "tls_cert_path": _text(listener.certificate),
                "tls_cert_key_path": _text(listener.private_key),
                "client_ca_cert_path": _text(listener.ca),
            },
            "upstream": [{"location": target} for target in _many(upstream.targets)],
            "timeout": _seconds(self.timeout),
        }
        if upstream.authorized_groups is not None:
            service["authorized_groups"] = _many(upstream.authorized_groups)
        if self.rate_limit_config is not None:
            service["rate_limit"] = _rate_limit(self.rate_limit_config)
        return {"l4": {upstream.name: service}, "max_clients": _most_clients()}


class Proxy:
    """One proxy; any number of them may live in a process. It takes no signals and installs nothing."""

    def __init__(self, config: Configuration | Whole, *, reactor: Any) -> None:
        """`reactor` is the one that runs, or will. Nothing is opened or read before `listen`."""
        self._config, self._reactor = config, reactor
        self._service: ProxyService | None = None
        self._closing: Deferred[bool] | None = None
        self._clean = True

    @property
    def addresses(self) -> tuple[Any, ...]:
        """Where it listens now, as Twisted addresses."""
        ports = self._service.listeners.ports.values() if self._service is not None else ()
        return tuple(port.getHost() for port in ports)

    def listen(self) -> Deferred[tuple[Any, ...]]:
        """Serve. Fires with `addresses` once connections are accepted.

        Fails with `ConfigError`, which names everything that is wrong with the configuration, or with
        `StartError` if a port is taken or a certificate cannot be used. Their text is for people.
        """
        return maybeDeferred(self._listen)

    def close(self) -> Deferred[bool]:
        """Accept no more and wait for the connections there are, `drain_timeout` seconds at the most.

        Fires with whether all have ended by themselves; they have when none is cut off.
        """
        if self._service is None:
            return succeed(True)
        if self._closing is None:
            self._closing = maybeDeferred(self._service.stopService).addBoth(self._closed)
        waiting: Deferred[bool] = Deferred()

        def tell(result: Any) -> Any:
            waiting.callback(result)
            return result

        self._closing.addBoth(tell)  # each caller has a Deferred of his own
        return waiting

    def abort(self) -> None:
        """Cut off every connection; whoever waits for `close` waits no longer."""
        if self._service is not None:
            self._service.connections.abort_all()

    def _listen(self) -> Any:
        if self._service is not None:
            raise StartError("this proxy listens already; close it first, or make another one")
        from rproxy.assemble import ProxyService

        if isinstance(self._config, Configuration):
            config, logger = whole(self._config), self._config.logger
        else:
            config, logger = self._config, None
        sink = _events(logger or Logger("rproxy"))
        service = ProxyService(self._reactor, config, sink, signals=False, drained=self._drained)
        self._service, self._clean = service, True
        try:
            service.privilegedStartService()
            service.startService()
        except Exception:
            why = Failure()
            return self.close().addBoth(lambda _: why)  # what is open already is closed before that is said
        return self.addresses

    def _drained(self, clean: bool) -> None:
        self._clean = clean

    def _closed(self, result: object) -> Any:
        self._service = self._closing = None
        return result if isinstance(result, Failure) else self._clean


def whole(config: Configuration) -> Whole:
    """The same as `rproxy.config.load` would give it. Raises `ConfigError` with everything that is wrong."""
    from pydantic import ValidationError

    from rproxy.config.checks import check
    from rproxy.config.mistakes import mistakes_of
    from rproxy.config.schema import Configuration as Model

    table = config.table()
    try:
        made = Model.model_validate(table, context={"base": Path.cwd()})
    except ValidationError as error:
        raise ConfigError([_problem(mistake) for mistake in mistakes_of(error, table)]) from None
    found = [_problem(each.mistake) for each in check(made)]
    if found:
        raise ConfigError(found)
    return made.settled()


def _text(path: AnyPath) -> Any:
    """What is no path at all is for the schema to refuse; the same below."""
    return os.fspath(path) if isinstance(path, os.PathLike) else path


def _many(values: Sequence[str]) -> list[Any]:
    """A list; one text alone is one value, not its characters."""
    return list(values) if isinstance(values, Iterable) and not isinstance(values, str) else [values]


def _seconds(duration: Duration) -> float | str:
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


def _rate_limit(limit: RateLimitConfig) -> dict[str, Any]:
    return {
        "capacity": limit.capacity,
        "fill_rate": None if limit.fill_rate is None else _seconds(limit.fill_rate),
        "max_connections": limit.max_connections,
    }


def _most_clients() -> int:
    """No limit but that of descriptors, of which a connection needs two, and the program some, too."""
    return max(64, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 64) // 2)


_PLACES = (
    (("listen",), "listener_config.listener_addr"),
    (("tls", "client_ca_cert_path"), "listener_config.ca"),
    (("tls", "tls_cert_path"), "listener_config.certificate"),
    (("tls", "tls_cert_key_path"), "listener_config.private_key"),
    (("upstream",), "upstream_config.targets"),
    (("authorized_groups",), "upstream_config.authorized_groups"),
    (("rate_limit",), "rate_limit_config"),
    (("timeout",), "timeout"),
)
"""Where in `[l4.<name>]` something stands that is called otherwise here."""


def _problem(mistake: Mistake) -> Problem:
    """A mistake at its place in the objects."""
    return Problem("Configuration", 0, 0, _place(mistake.path), mistake.message, mistake.hint)


def _place(keys: Keys) -> str:
    below = keys[2:]
    for start, called in _PLACES:
        if below[: len(start)] == start:
            rest = [part for part in below[len(start) :] if part != "location"]
            return called + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest)
    return "upstream_config.name"


def _events(logger: Logger) -> Any:
    """A sink for the connection log that makes each line an event, its facts as fields."""

    def write(lines: bytes) -> None:
        for line in lines.decode("ascii").splitlines():
            facts = dict(word.split("=", 1) for word in line.split()[1:])
            logger.info("{line}", line=line, **facts)

    return write
