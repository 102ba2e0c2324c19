"""The models of `[apps.<name>]` and `[l4.<name>]`: names, and what serves them. Part of `schema`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainValidator,
    ValidationInfo,
    field_validator,
    model_validator,
)

from rproxy.config.location import Kind, Location, location, stream_listener
from rproxy.config.values import (
    Balance,
    Count,
    FilePath,
    Flag,
    Names,
    ProxyVersion,
    Seconds,
    Some,
    SomeSeconds,
    Status,
    StreamBalance,
    Text,
    UpstreamOption,
    UrlPath,
    Weight,
    Wrong,
    any_number,
    base_of,
    describe,
    filled,
    one_of,
    one_or_many,
    quoted,
)


class Table(BaseModel):
    """A table of the file: frozen, compared by value, and with no other keys than its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    sugar: ClassVar[frozenset[str]] = frozenset()
    """Keys that may be written here although they are no fields: a shorter form of something below."""
    renamed: ClassVar[dict[str, str]] = {}
    """Names that keys had in rpxy once, with what they are called now."""


def _location(value: object, info: ValidationInfo) -> Location:
    return location(value, base_of(info))


def _stream_listener(value: object, info: ValidationInfo) -> str:
    return stream_listener(value, base_of(info))


Where = Annotated[Location, PlainValidator(_location)]


class StreamUpstream(Table):
    """One peer of a passthrough group; its port is 443 unless written."""

    location: Where
    weight: Weight = 1

    @field_validator("location")
    @classmethod
    def _with_port(cls, where: Location) -> Location:
        return where.with_port(443)


class Upstream(Table):
    """One peer of a group that is spoken to in clear text or, with `tls`, in TLS of our own."""

    tls: Flag = False
    location: Where
    """On port 80 unless written, on 443 with `tls`."""
    weight: Weight = 1
    tls_ca_path: FilePath | None = None
    """PEM file of the authorities that may sign the peer's certificate; None: those of the system."""
    tls_server_name: Text | None = None
    """The name asked for and verified instead of the location's host."""
    tls_insecure: Flag = False
    """Whether any certificate will do."""
    tls_client_cert_path: FilePath | None = None
    tls_client_key_path: FilePath | None = None

    @field_validator("location")
    @classmethod
    def _with_port(cls, where: Location, info: ValidationInfo) -> Location:
        return where.with_port(443 if info.data.get("tls") else 80)


class ServiceUpstream(Upstream):
    """One peer of an L4 service, whose port has to be written: no protocol, no default."""

    @field_validator("location")
    @classmethod
    def _with_port(cls, where: Location, info: ValidationInfo) -> Location:
        if where.kind is Kind.INET and not where.port:
            raise Wrong(
                f"{quoted(where.text)} has no port", f'write "{where.text}:5432", with the port it listens on'
            )
        return where


class Tls(Table):
    """Where an app's certificate comes from: two files, ACME, or made at start."""

    tls_cert_path: FilePath | None = None
    tls_cert_key_path: FilePath | None = None
    client_ca_cert_path: FilePath | None = None
    """When given, clients need a certificate signed by one of these authorities."""
    https_redirection: Flag | None = None
    """Whether clear-text requests are redirected to https; None is yes wherever there is a TLS port."""
    acme: Flag = False
    self_signed: Flag = False


ProbeType = Literal["tcp", "http"]


class HealthCheck(Table):
    """How the peers of an entry are probed: by connecting, or by a GET request."""

    type: Annotated[ProbeType, PlainValidator(one_of(ProbeType))] = "tcp"
    interval: SomeSeconds = 10.0
    timeout: SomeSeconds = 5.0
    unhealthy_threshold: Some = 3
    """Failed probes in a row until a peer is left out."""
    healthy_threshold: Some = 2
    """Good probes in a row until it is used again."""
    path: UrlPath | None = None
    expected_status: Status = 200


def _health_check(value: object) -> object:
    """`true` is a table with nothing in it, `false` is none."""
    if isinstance(value, bool):
        return {} if value else None
    return value


class ReverseProxy(Table):
    """One entry of `reverse_proxy`: a path prefix and the group that serves it."""

    sugar = frozenset(Upstream.model_fields)

    path: UrlPath = "/"
    """Without a trailing slash, except for the root: `/foo/` and `/foo` are the same prefix."""
    replace_path: UrlPath | None = None
    upstream: Annotated[tuple[Upstream, ...], BeforeValidator(filled)]
    load_balance: Annotated[Balance, PlainValidator(one_of(Balance))] = "none"
    upstream_options: Annotated[
        tuple[Annotated[UpstreamOption, PlainValidator(one_of(UpstreamOption))], ...],
        BeforeValidator(any_number),
    ] = ()
    health_check: Annotated[HealthCheck | None, BeforeValidator(_health_check)] = None

    @model_validator(mode="before")
    @classmethod
    def _upstream_of_location(cls, table: object) -> object:
        """`location` directly in the entry, with the keys that go with it, is a group of one."""
        if not isinstance(table, dict) or "location" not in table:
            return table
        if "upstream" in table:
            raise Wrong('"location" and "upstream" are both given', "put all locations into upstream")
        rest = {key: value for key, value in table.items() if key not in cls.sugar}
        return rest | {"upstream": [{key: table[key] for key in table if key in cls.sugar}]}

    @field_validator("path")
    @classmethod
    def _prefix(cls, path: str) -> str:
        return path.rstrip("/") or "/"

    @field_validator("upstream_options")
    @classmethod
    def _one_version(cls, options: tuple[str, ...]) -> tuple[str, ...]:
        if "force_http11_upstream" in options and "force_http2_upstream" in options:
            raise Wrong(
                "force_http11_upstream and force_http2_upstream exclude each other", "keep one of them"
            )
        return options


def _stream_balance(value: object) -> StreamBalance:
    if value == "sticky":
        raise Wrong(
            "sticky needs a cookie, and there is none in a stream that stays encrypted",
            'use "source_ip" to keep a client at one peer',
        )
    chosen: StreamBalance = one_of(StreamBalance)(value)
    return chosen


class Passthrough(Table):
    """The group that an app's TLS connections are forwarded to, undecrypted."""

    upstream: Annotated[tuple[StreamUpstream, ...], BeforeValidator(filled)]
    load_balance: Annotated[StreamBalance, PlainValidator(_stream_balance)] = "none"
    proxy_protocol: Annotated[ProxyVersion, PlainValidator(one_of(ProxyVersion))] = "none"
    """The header that peers get in front of the stream."""
    connect_timeout: SomeSeconds | None = None
    """None: as in the file as a whole."""
    idle_timeout: Seconds | None = None
    """None: as in the file as a whole; 0: none."""


class App(Table):
    """Names, and what is done with connections and requests for them."""

    server_name: Names
    """Canonical names and wildcards."""
    load_balance: Annotated[Balance | None, PlainValidator(one_of(Balance))] = None
    """Already passed on to `reverse_proxy` entries and `passthrough` that have none of their own."""
    tls: Tls | None = None
    reverse_proxy: Annotated[tuple[ReverseProxy, ...], BeforeValidator(one_or_many)] = ()
    passthrough: Passthrough | None = None

    @field_validator("reverse_proxy")
    @classmethod
    def _balance_entries(
        cls, entries: tuple[ReverseProxy, ...], info: ValidationInfo
    ) -> tuple[ReverseProxy, ...]:
        chosen = {"load_balance": info.data.get("load_balance")}
        if chosen["load_balance"] is None:
            return entries
        return tuple(
            e if "load_balance" in e.model_fields_set else e.model_copy(update=chosen) for e in entries
        )

    @field_validator("passthrough")
    @classmethod
    def _balance_stream(cls, stream: Passthrough | None, info: ValidationInfo) -> Passthrough | None:
        chosen = info.data.get("load_balance")
        if stream is None or chosen in (None, "sticky") or "load_balance" in stream.model_fields_set:
            return stream  # sticky is refused by `checks`, at the place where it stands
        return stream.model_copy(update={"load_balance": chosen})


class RateLimit(Table):
    """What one client of an L4 service may do: a token bucket on new connections, a cap on open ones."""

    capacity: Some
    fill_rate: SomeSeconds
    """Seconds until one token is added."""
    max_connections: Count = 0
    """0: no cap."""


class L4(Table):
    """A TCP service behind TLS with client certificates, whatever is spoken inside."""

    listen: Annotated[
        tuple[Annotated[str, PlainValidator(_stream_listener)], ...], BeforeValidator(one_or_many)
    ]
    """Twisted server endpoint strings."""
    tls: Tls
    upstream: Annotated[tuple[ServiceUpstream, ...], BeforeValidator(filled)]
    load_balance: Annotated[StreamBalance, PlainValidator(_stream_balance)] = "least_connections"
    authorized_groups: Annotated[tuple[Text, ...], BeforeValidator(one_or_many)] = ()
    """Groups (`user@group` in the certificate) that may connect; empty: every signed certificate."""
    rate_limit: RateLimit | None = None
    timeout: Seconds = 600.0
    """Seconds without a byte in either direction until a connection is closed; 0: never."""
    proxy_protocol: Annotated[ProxyVersion, PlainValidator(one_of(ProxyVersion))] = "none"


def app_key(name: object) -> str:
    """The name of an app or service: printable, since it stands in logs. Raises `Wrong`."""
    if not isinstance(name, str) or not name or not name.isprintable() or len(name) > 253:
        raise Wrong(f"expected a name of 1 to 253 printable characters, got {describe(name)}")
    return name


AppKey = Annotated[str, PlainValidator(app_key)]
"""A name below `apps` or `l4`; as long as a host name, which many use for it."""
