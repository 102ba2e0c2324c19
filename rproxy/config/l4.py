"""The model of `[l4.<name>]`: a TCP service, what it asks of its clients, who serves it. Part of `schema`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, PlainValidator, ValidationInfo, field_validator

from rproxy.config.apps import Tls, Upstream
from rproxy.config.limits import Clients, RateLimit
from rproxy.config.location import Kind, Location, stream_listener
from rproxy.config.table import Table
from rproxy.config.values import (
    Names,
    ProxyVersion,
    Seconds,
    SomeSeconds,
    StreamBalance,
    Text,
    Wrong,
    base_of,
    filled,
    one_of,
    one_or_many,
    plain,
    quoted,
)


def _listener(value: object, info: ValidationInfo) -> str:
    return stream_listener(value, base_of(info))


def _balance(value: object) -> StreamBalance:
    if value == "sticky":
        hint = 'use "source_ip" to keep a client at one peer'
        raise Wrong("sticky needs a cookie, and only HTTP has cookies", hint)
    chosen: StreamBalance = one_of(StreamBalance)(value)
    return chosen


def _protocol(value: object) -> str:
    text = plain(value, 'the name of a protocol such as "postgresql"')
    if not re.fullmatch(r"[!-~]{1,255}", text, re.ASCII):  # RFC 7301 §3.1: 1 to 255 bytes
        raise Wrong(f"{quoted(text)} is no ALPN name", "write one of IANA's list, such as xmpp-client")
    return text


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


class L4(Table):
    """A TCP service, whatever is spoken in it; with `tls` that ends here, and may ask for certificates."""

    listen: Annotated[tuple[Annotated[str, PlainValidator(_listener)], ...], BeforeValidator(one_or_many)]
    """Twisted server endpoint strings."""
    server_name: Names = ()
    """Canonical names and wildcards: which connections of a shared listener are meant; empty: the rest."""
    tls: Tls | None = None
    """None: the bytes are passed on as they come."""
    alpn: Annotated[tuple[Annotated[str, PlainValidator(_protocol)], ...], BeforeValidator(one_or_many)] = ()
    """What is spoken inside TLS; empty: clients are not told, whatever they ask for."""
    upstream: Annotated[tuple[ServiceUpstream, ...], BeforeValidator(filled)]
    load_balance: Annotated[StreamBalance, PlainValidator(_balance)] = "least_connections"
    authorized_groups: Annotated[tuple[Text, ...], BeforeValidator(one_or_many)] = ()
    """Groups (`user@group` in the certificate) that may connect."""
    authorized_names: Annotated[tuple[Text, ...], BeforeValidator(one_or_many)] = ()
    """Names in the certificate that may. Both empty: every verified certificate."""
    allow: Clients = ()
    """Who may connect; empty: everybody. Networks, as `NetworkSet` takes them, or names of clouds."""
    deny: Clients = ()
    """Who may not, whatever `allow` says."""
    rate_limit: RateLimit | None = None
    """For each client, who is known by the common name of its certificate, or by its address."""
    timeout: Seconds = 600.0
    """Seconds without a byte in either direction until a connection is closed; 0: never."""
    connect_timeout: SomeSeconds | None = None
    """None: as in the file as a whole."""
    proxy_protocol: Annotated[ProxyVersion, PlainValidator(one_of(ProxyVersion))] = "none"
    """The header that peers get in front of everything else, also of their TLS."""
