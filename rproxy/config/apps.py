"""The models of `[apps.<name>]`: names, and what serves them. Part of `schema`, some of it also of `l4`."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import (
    BeforeValidator,
    PlainValidator,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from rproxy.config.acme import provable
from rproxy.config.forms import PEER_KEYS, arranged
from rproxy.config.http import AccessLog, ErrorPages, HeaderRules, StickyCookie, Tuning
from rproxy.config.limits import Clients as Clients
from rproxy.config.limits import RateLimit as RateLimit
from rproxy.config.limits import RequestLimit
from rproxy.config.location import Location, location
from rproxy.config.table import Table
from rproxy.config.values import (
    Balance,
    Count,
    FilePath,
    Flag,
    Names,
    ProxyVersion,
    Seconds,
    Size,
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
)


def _location(value: object, info: ValidationInfo) -> Location:
    return location(value, base_of(info))


_Part = TypeVar("_Part", bound=Table)
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


ClientAuth = Literal["required", "optional"]


class Tls(Table):
    """Where an app's certificate comes from: two files, ACME, or made at start."""

    tls_cert_path: FilePath | None = None
    tls_cert_key_path: FilePath | None = None
    client_ca_cert_path: FilePath | None = None
    """When given, clients need a certificate signed by one of these authorities, or of one below them."""
    client_auth: Annotated[ClientAuth, PlainValidator(one_of(ClientAuth))] = "required"
    """With "optional" a client may also show none; a bad one is refused all the same."""
    client_crl_path: FilePath | None = None
    """Lists of revoked certificates, of every authority that signs clients'; out of date, nobody gets in."""
    client_cert_header: Flag = False
    """Whether peers get the client's whole certificate in `Client-Cert` (RFC 9440)."""
    https_redirection: Flag | None = None
    """Another place for `App.https_redirection`; None once settled."""
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
    """What is asked for with GET; only where `type` is "http", like `expected_status`."""
    expected_status: Status = 200


def _health_check(value: object) -> object:
    """`true` is a table with nothing in it, `false` is none."""
    if isinstance(value, bool):
        return {} if value else None
    return value


class ReverseProxy(Tuning):
    """One entry of `reverse_proxy`: a path prefix and the group that serves it."""

    sugar = PEER_KEYS

    path: UrlPath = "/"
    """Without a trailing slash, except for the root: `/foo/` and `/foo` are the same prefix."""
    replace_path: UrlPath | None = None
    upstream: Annotated[tuple[Upstream, ...], BeforeValidator(filled)]
    load_balance: Annotated[Balance, PlainValidator(one_of(Balance))] = "none"
    upstream_options: Annotated[
        tuple[Annotated[UpstreamOption, PlainValidator(one_of(UpstreamOption))], ...],
        BeforeValidator(any_number),
    ] = ()
    request_limit: RequestLimit | None = None
    """How often a client may ask for what is below this path; counted besides that of the app."""
    health_check: Annotated[HealthCheck | None, BeforeValidator(_health_check)] = None
    max_fails: Count = 1
    """Failures within `fail_timeout` until a peer is left out for so long; 0: never."""
    fail_timeout: SomeSeconds = 10.0
    sticky_cookie: StickyCookie = StickyCookie()
    request_headers: HeaderRules = HeaderRules()
    """Applied after those of the app, which stay."""
    response_headers: HeaderRules = HeaderRules()

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


_INHERITED: Final = ("load_balance", *Tuning.model_fields)
"""What an app says for all of its entries."""


class App(Tuning):
    """Names, and what is done with connections and requests for them."""

    server_name: Names
    """Canonical names and wildcards."""
    load_balance: Annotated[Balance | None, PlainValidator(one_of(Balance))] = None
    """Already passed on to `reverse_proxy` entries and `passthrough` that have none of their own."""
    request_max_body_size: Size | None = None
    """None: as in the file as a whole; 0: unlimited."""
    sticky_cookie: StickyCookie | None = None
    """Already passed on to the sticky entries that have none of their own."""
    request_headers: HeaderRules = HeaderRules()
    response_headers: HeaderRules = HeaderRules()
    error_pages: ErrorPages = {}
    access_log: AccessLog = AccessLog()
    """Once settled: with what only the file as a whole says."""
    allow: Clients = ()
    """Who may use this app; empty: everybody. Networks, as `NetworkSet` takes them, or names of clouds."""
    deny: Clients = ()
    """Who may not, whatever `allow` says."""
    rate_limit: RateLimit | None = None
    """On TLS connections to the app."""
    request_limit: RequestLimit | None = None
    allow_connect: Flag = False
    """Whether CONNECT requests are passed on to peers, which decide where they lead."""
    https_redirection: Flag | None = None
    """See `redirects`."""
    tls: Tls | None = None
    authorized_groups: Annotated[tuple[Text, ...], BeforeValidator(one_or_many)] = ()
    """Groups (`user@group` in the client's certificate) whose requests are served."""
    authorized_names: Annotated[tuple[Text, ...], BeforeValidator(one_or_many)] = ()
    """Names in the certificate that are served, too. Both empty: every client that `tls` lets in."""
    reverse_proxy: Annotated[tuple[ReverseProxy, ...], BeforeValidator(one_or_many)] = ()
    passthrough: Passthrough | None = None

    @property
    def redirects(self) -> bool:
        """Whether clear-text requests are redirected to https; for a settled app.

        Unless it says otherwise: where TLS ends here, and where passing it on is all that the app does.
        """
        if self.https_redirection is not None:
            return self.https_redirection
        return self.tls is not None or (self.passthrough is not None and not self.reverse_proxy)

    def settled(self, general_log: AccessLog) -> App:
        """The same with each thing in one place only."""
        here = self.https_redirection
        update: dict[str, object] = {"access_log": self.access_log.over(general_log)}
        if self.tls is not None:
            update["https_redirection"] = self.tls.https_redirection if here is None else here
            update["tls"] = self.tls.model_copy(update={"https_redirection": None})
        return self.model_copy(update=update)

    @field_validator("reverse_proxy", mode="wrap")
    @classmethod
    def _tell_entries(
        cls, written: object, read: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> tuple[ReverseProxy, ...]:
        said = _said(info, _INHERITED)
        cookie = _said(info, ("sticky_cookie",))
        entries = tuple(_told(entry, said) for entry in _grouped(read(written), written))
        return tuple(_told(e, cookie) if e.load_balance == "sticky" else e for e in entries)

    @field_validator("tls")
    @classmethod
    def _provable(cls, tls: Tls | None, info: ValidationInfo) -> Tls | None:
        if tls is not None and tls.acme:
            provable(info.data.get("server_name", ()))
        return tls

    @field_validator("passthrough")
    @classmethod
    def _tell_stream(cls, stream: Passthrough | None, info: ValidationInfo) -> Passthrough | None:
        said = _said(info, ("load_balance", "connect_timeout"))
        if said.get("load_balance") == "sticky":
            del said["load_balance"]  # refused by `checks`, at the place where it stands
        return stream and _told(stream, said)


def _grouped(entries: tuple[ReverseProxy, ...], written: object) -> tuple[ReverseProxy, ...]:
    """The entries, each with every location that the file has for it."""
    return tuple(_joined([entries[index] for index in indices]) for indices in arranged(written))


def _joined(parts: list[ReverseProxy]) -> ReverseProxy:
    if len(parts) == 1:
        return parts[0]
    return parts[0].model_copy(update={"upstream": tuple(peer for part in parts for peer in part.upstream)})


def _said(info: ValidationInfo, keys: tuple[str, ...]) -> dict[str, Any]:
    """What the app has said so far: fields that come before the one that `info` is about."""
    return {key: info.data[key] for key in keys if info.data.get(key) is not None}


def _told(part: _Part, said: dict[str, Any]) -> _Part:
    """The part with what it has not said itself."""
    new = {key: value for key, value in said.items() if key not in part.model_fields_set}
    return part.model_copy(update=new) if new else part


def app_key(name: object) -> str:
    """The name of an app or service: printable, since it stands in logs. Raises `Wrong`."""
    if not isinstance(name, str) or not name or not name.isprintable() or len(name) > 253:
        raise Wrong(f"expected a name of 1 to 253 printable characters, got {describe(name)}")
    return name


AppKey = Annotated[str, PlainValidator(app_key)]
"""A name below `apps` or `l4`; as long as a host name, which many use for it."""
