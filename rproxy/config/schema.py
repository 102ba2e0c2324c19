"""What a config file may say, as frozen models: `Configuration` is a file in its normal form.

Made by `load`, read by `assemble`. The attribute names are the keys; `from_` is `from`. What has a
shorter form in the file (one name instead of a list, `location` without `upstream`) has only the
long form here. Durations are seconds as float, sizes are bytes, paths are absolute.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import BeforeValidator, Field, PlainValidator, ValidationInfo, field_validator

from rproxy.config.acme import Acme
from rproxy.config.apps import App, AppKey, ReverseProxy
from rproxy.config.http import AccessLog, Rate, Retries, Tuned
from rproxy.config.l4 import L4
from rproxy.config.limits import Clients, Jail, RateLimit, SocketPath
from rproxy.config.location import address_v4, address_v6, listener
from rproxy.config.table import Table
from rproxy.config.values import (
    Count,
    FilePath,
    Flag,
    Milliseconds,
    Networks,
    NetworksOrClouds,
    Port,
    Seconds,
    Secret,
    Size,
    Some,
    SomeSeconds,
    Text,
    WholeSeconds,
    Wrong,
    any_number,
    base_of,
    one_or_many,
    whole,
)

MAX_WORKERS: Final = 1024
"""More processes than any machine has cores is a mistake."""
DEFAULT_BODY: Final = 256 * 1024 * 1024
"""Bytes of a request body unless configured, as in rpxy: uploads work, and nobody fills a disk."""


def _listener(value: object, info: ValidationInfo) -> str:
    return listener(value, base_of(info))


Endpoints = Annotated[tuple[Annotated[str, PlainValidator(_listener)], ...], BeforeValidator(one_or_many)]


class AcceptProxyProtocol(Table):
    """From whom a PROXY header is believed; anybody else who sends one is closed."""

    from_: Networks = Field(alias="from")
    """What `rproxy.policy.networks.NetworkSet` takes."""
    required: Flag = False
    """Whether those peers have to send one."""
    timeout: SomeSeconds = 3.0
    """Seconds for the whole header."""


class TcpRecvProxyProtocol(Table):
    """rpxy's form of `AcceptProxyProtocol` with `required`; `Configuration.settled` makes it that."""

    trusted_proxies: Networks
    timeout: Milliseconds = 0.05


class Hosts(Table):
    """A folder per name, looked up per connection."""

    directory: FilePath
    hashed: Flag = False
    """Whether the folders are called by the hash of the name."""


class H3(Table):
    """HTTP/3, on when the table is there."""

    alt_svc_max_age: WholeSeconds = 3600
    request_max_body_size: Size | None = None
    """None: as for every request."""
    max_concurrent_connections: Some = 4096
    max_concurrent_bidistream: Some = 64
    max_concurrent_unistream: Some = 64
    max_idle_timeout: WholeSeconds = 10
    """0: none."""


class Cache(Table):
    """The response cache, on when the table is there."""

    cache_dir: FilePath = Field(default="cache", validate_default=True)
    max_cache_entry: Count = 1000
    max_cache_each_size: Size = 65535
    max_cache_each_size_on_memory: Size = 65535


class Experimental(Table):
    """rpxy's `[experimental]`; what `_MOVED` names is settled into its new place."""

    ignore_sni_consistency: Flag = False
    connection_handling_timeout: WholeSeconds = 0
    """0: none."""
    h3: H3 | None = None
    cache: Cache | None = None
    acme: Acme | None = None
    tcp_recv_proxy_protocol: TcpRecvProxyProtocol | None = None


_MOVED: Final = {"acme": None, "tcp_recv_proxy_protocol": None, "ignore_sni_consistency": False}


def _workers(value: object) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if isinstance(value, str):
        raise Wrong(f'expected a whole number from 1 to {MAX_WORKERS} or "auto", got the text "{value[:20]}"')
    return whole(1, MAX_WORKERS)(value)


class Configuration(Table):
    """A whole file."""

    renamed: ClassVar[dict[str, str]] = {"https_redirection_port": "public_https_port"}

    listen_port: Port | None = None
    listen_port_tls: Port | None = None
    listen_address_v4: Annotated[
        tuple[Annotated[str, PlainValidator(address_v4)], ...], BeforeValidator(one_or_many)
    ] = ("0.0.0.0",)
    listen_address_v6: Annotated[
        tuple[Annotated[str, PlainValidator(address_v6)], ...], BeforeValidator(one_or_many)
    ] = ()
    listen_ipv6: Flag = False
    listen: Endpoints = ()
    """Twisted server endpoint strings for clear text, besides or instead of the port."""
    listen_tls: Endpoints = ()
    """The same for TLS."""
    public_https_port: Port | None = None
    tcp_listen_backlog: Some = 1024
    max_clients: Some = 512
    max_clients_per_ip: Count = 0
    """0: no cap."""
    allow: Clients = ()
    """Who may connect; empty: everybody."""
    deny: Clients = ()
    """Who may not, whatever `allow` says."""
    rate_limit: RateLimit | None = None
    """On connections to each listener."""
    ban_list: FilePath | None = None
    """Who is banned, see `services.bans`; None: bans are forgotten at a stop."""
    jail: Annotated[tuple[Jail, ...], BeforeValidator(any_number)] = ()
    admin_socket: SocketPath | None = None
    """Where `rproxy ban` and the like ask; None: nowhere."""
    trusted_forwarded_proxies: NetworksOrClouds = ()
    request_max_body_size: Size = DEFAULT_BODY
    """0: unlimited."""
    redact_query_in_access_log: Flag = False
    sticky_cookie_secret: Secret | None = None
    max_concurrent_streams: Some = 64
    accept_proxy_protocol: AcceptProxyProtocol | None = None
    workers: Annotated[int | Literal["auto"], PlainValidator(_workers)] = 1
    default_app: Text | None = None
    """A key of `apps`."""
    default_application: Text | None = None
    """Another name of `default_app`; None once settled."""
    default_passthrough: Text | None = None
    """A key of `apps`, of an app with `passthrough`."""
    apps: dict[AppKey, App] = Field(default_factory=dict)
    l4: dict[AppKey, L4] = Field(default_factory=dict)
    hosts: Hosts | None = None
    acme: Acme | None = None
    experimental: Experimental = Experimental()
    drain_timeout: Seconds = 10.0
    hello_timeout: SomeSeconds = 10.0
    connect_timeout: SomeSeconds = 5.0
    idle_timeout: Seconds = 600.0
    """0: none."""
    header_timeout: SomeSeconds = 20.0
    """For the whole head of a request, from its first byte; for the first request from the connection's."""
    keepalive_timeout: SomeSeconds = 75.0
    """Between two requests of a connection."""
    response_timeout: SomeSeconds = 60.0
    body_timeout: SomeSeconds = 60.0
    min_body_rate: Rate = 100
    """Bytes per second of a request's body, on average after the first ten seconds; 0: any."""
    upgrade_idle_timeout: Seconds = 3600.0
    """0: none."""
    retries: Retries = 2
    keepalive: Count = 256
    """As many as a few browsers ask for at a time in HTTP/2: a burst need not open them anew."""
    upstream_keepalive_timeout: SomeSeconds = 20.0
    """Less than what servers grant, so that it is seldom they who close; as in rpxy."""
    ignore_sni_consistency: Flag = False
    """Whether a request may be for another name than its connection's TLS."""
    state_directory: FilePath = Field(default="rproxy-state", validate_default=True)
    """What is made at run time and kept, such as the authority of `self_signed`."""
    access_log: AccessLog = AccessLog()

    @property
    def listen_addresses(self) -> tuple[str, ...]:
        """Every address that the ports are opened on."""
        v6 = self.listen_address_v6 or (("::",) if self.listen_ipv6 else ())
        return self.listen_address_v4 + v6

    def tuned(self, entry: ReverseProxy) -> Tuned:
        """What counts for an entry: its own values (its app's are in it already), else those of the file."""
        own = [getattr(entry, key) for key in Tuned._fields]
        return Tuned(*(getattr(self, k) if v is None else v for k, v in zip(Tuned._fields, own, strict=True)))

    def settled(self) -> Configuration:
        """The same with each thing in one place only, and the keys of `apps` spelled as they are there."""
        return self.model_copy(
            update={
                "default_app": self.app_named(self.default_app or self.default_application),
                "default_application": None,
                "default_passthrough": self.app_named(self.default_passthrough),
                "apps": {key: app.settled(self.access_log) for key, app in self.apps.items()},
                "acme": self.acme or self.experimental.acme,
                "accept_proxy_protocol": self.accept_proxy_protocol or self._received(),
                "ignore_sni_consistency": self.ignore_sni_consistency
                or self.experimental.ignore_sni_consistency,
                "experimental": self.experimental.model_copy(update=_MOVED),
            }
        )

    def app_named(self, name: str | None) -> str | None:
        """The key of `apps` that is meant, or (as in rpxy) one that differs in case only; or None."""
        if name is None or name in self.apps:
            return name
        return next((key for key in self.apps if key.lower() == name.lower()), None)

    def _received(self) -> AcceptProxyProtocol | None:
        old = self.experimental.tcp_recv_proxy_protocol
        if old is None:
            return None
        return AcceptProxyProtocol.model_validate(
            {"from": old.trusted_proxies, "required": True, "timeout": old.timeout}
        )

    @field_validator("listen_address_v4", "listen_address_v6")
    @classmethod
    def _no_wildcard_with_others(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        for wildcard in {"0.0.0.0", "::"} & set(addresses):
            if len(set(addresses)) > 1:
                raise Wrong(
                    f'"{wildcard}" already stands for every address', "remove it, or remove the others"
                )
        return tuple(dict.fromkeys(addresses))
