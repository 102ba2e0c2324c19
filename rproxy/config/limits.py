"""The models of who may come, and how often: rate limits, allow and deny lists, jails. Part of `schema`.

What is said for the file as a whole is about connections, on every listener; what is said in an app
also about its requests.
"""

from __future__ import annotations

import re
from pathlib import Path as FilePath
from typing import Annotated, Final, NamedTuple

from pydantic import BeforeValidator, PlainValidator, ValidationInfo, field_validator, model_validator

from rproxy.config.table import Table
from rproxy.config.values import (
    MAX_SECONDS,
    Count,
    NetworksOrClouds,
    Some,
    SomeSeconds,
    Text,
    Wrong,
    base_of,
    describe,
    did_you_mean,
    one_or_many,
    plain,
    quoted,
    seconds,
)
from rproxy.policy.bucket import TICKS, Allowance
from rproxy.policy.networks import LOOPBACK

LONGEST_SOCKET: Final = 107
"""Bytes in the path of a unix socket (unix(7))."""


def _fill_rate(value: object) -> float:
    found = seconds(value)
    if found * TICKS < 1:
        raise Wrong(
            f"expected a microsecond or more, got {describe(value)}", 'it is the time per token: "1s"'
        )
    return found


FillRate = Annotated[float, PlainValidator(_fill_rate)]


def _refills(capacity: int, fill_rate: float) -> None:
    if capacity * fill_rate > MAX_SECONDS:
        raise Wrong("an empty bucket would take more than a year to fill", "fill_rate is the time per token")


class RateLimit(Table):
    """What one client may do with connections: a token bucket on new ones, a cap on open ones."""

    capacity: Some | None = None
    """Connections at once after a pause; None: there is no bucket."""
    fill_rate: FillRate | None = None
    """Seconds until one more."""
    max_connections: Count = 0
    """0: no cap."""

    @model_validator(mode="after")
    def _whole(self) -> RateLimit:
        if (self.capacity is None) != (self.fill_rate is None):
            raise Wrong(
                "capacity and fill_rate only work together", 'write { capacity = 20, fill_rate = "1s" }'
            )
        if self.capacity is None and not self.max_connections:
            raise Wrong(
                "this limits nothing", "give capacity and fill_rate, or max_connections, or all three"
            )
        _refills(self.capacity or 0, self.fill_rate or 0.0)
        return self

    @property
    def allowance(self) -> Allowance:
        """The same as `services.ratelimits` takes it."""
        return Allowance(self.capacity or 0, self.fill_rate or 1.0, self.max_connections)


class RequestLimit(Table):
    """What one client may do with requests: a token bucket."""

    capacity: Some
    fill_rate: FillRate

    @model_validator(mode="after")
    def _refilled(self) -> RequestLimit:
        _refills(self.capacity, self.fill_rate)
        return self

    @property
    def allowance(self) -> Allowance:
        """The same as `services.ratelimits` takes it."""
        return Allowance(self.capacity, self.fill_rate)


Clients = Annotated[NetworksOrClouds, BeforeValidator(one_or_many)]
"""Addresses and networks; not an empty list, of which nobody knows whether it means all or none."""


class Rate(NamedTuple):
    """So many in so many seconds."""

    most: int
    seconds: float


def _jail_rate(value: object) -> Rate:
    text = plain(value, _RATE)
    count, slash, time = text.partition("/")
    if not slash or not re.fullmatch(r"\s*[1-9]\d{0,5}\s*", count, re.ASCII):
        raise Wrong(f"expected {_RATE}, got {quoted(text)}")
    span = seconds(time if re.search(r"\d", time) else "1" + time.strip())
    if span == 0:
        raise Wrong(f"expected {_RATE}, got {quoted(text)}", "the time is above 0")
    return Rate(int(count), span)


class Match(NamedTuple):
    """What counts for a jail: statuses of responses, and reasons in the log."""

    statuses: frozenset[int]
    reasons: frozenset[str]


def _match(value: object) -> Match:
    statuses: set[int] = set()
    reasons: set[str] = set()
    for item in one_or_many(value):
        text = plain(item, _MATCH)
        kind, _, rest = text.strip().partition(" ")
        words = [word.strip() for word in rest.split(",")]
        if kind == "status" and all(re.fullmatch(r"[1-5]\d\d", word, re.ASCII) for word in words):
            statuses |= {int(word) for word in words}
        elif kind == "reason" and all(words):
            reasons |= {_reason(word) for word in words}
        else:
            raise Wrong(f"expected {_MATCH}, got {quoted(text)}")
    return Match(frozenset(statuses), frozenset(reasons))


def _reason(word: str) -> str:
    if word not in REASONS:
        raise Wrong(f"{quoted(word)} is no reason that the log has", did_you_mean(word, REASONS))
    return word


class Jail(Table):
    """Bans whoever does something too often."""

    match: Annotated[Match, PlainValidator(_match)]
    rate: Annotated[Rate, PlainValidator(_jail_rate)]
    """Who goes beyond it is banned; as a token bucket, so that it may be gone on with, evenly, for ever."""
    ban: SomeSeconds
    """Seconds that a ban lasts."""
    app: Annotated[tuple[Text, ...], BeforeValidator(one_or_many)] = ()
    """Keys of `apps` and `l4`; empty: everything that happens."""
    ignore: NetworksOrClouds = LOOPBACK
    """Who is never banned, besides the proxies in front of us."""

    @field_validator("rate")
    @classmethod
    def _fillable(cls, rate: Rate) -> Rate:
        if rate.seconds / rate.most * TICKS < 1:
            raise Wrong("more than a million a second is no limit")
        return rate

    @property
    def allowance(self) -> Allowance:
        """The same as `services.ratelimits` takes it."""
        return Allowance(self.rate.most, self.rate.seconds / self.rate.most)


def _socket_path(value: object, info: ValidationInfo) -> FilePath:
    text = plain(value, "the path of a socket")
    path = base_of(info) / text
    if len(str(path).encode()) > LONGEST_SOCKET:
        raise Wrong(f"the path of a socket has at most {LONGEST_SOCKET} bytes, {quoted(str(path))} has more")
    return path


SocketPath = Annotated[FilePath, PlainValidator(_socket_path)]


_RATE: Final = 'a number and a time such as "10/1m"'
_MATCH: Final = '"status 401,403" or "reason not_tls,unknown_name"'

REASONS: Final = (
    *("bad_hello", "hello_too_large", "not_tls", "unknown_name", "no_common_alpn", "no_certificate"),
    *("certificate_required", "certificate_expired", "certificate_revoked", "unknown_ca", "bad_certificate"),
    *("revocation_unknown", "protocol_version", "handshake_failed"),
    *("not_authorised", "denied", "too_many", "rate_limited", "too_slow", "bad_proxy_header"),
    *(
        "peer_unreachable",
        "peer_timeout",
        "peer_refused",
        "no_peer",
        "no_tunnel",
        "unknown_host",
        "no_route",
        "method_not_allowed",
    ),
    *("max_forwards", "body_too_large", "misdirected", "redirect", "bad_request", "target_too_long"),
    *("expectation_failed", "head_too_large", "not_implemented", "unknown_version", "bad_response"),
    *("ok", "client_left", "client_reset", "peer_reset", "closed", "idle"),
)
"""The codes in the logs, but for `banned`: who is banned already needs no other ban."""
