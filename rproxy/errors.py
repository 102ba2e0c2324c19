"""What can end a connection early, and what can be wrong with a configuration: one class per kind.

A `Refusal` knows the answer that goes on the wire (TLS alert, HTTP status), whether another
peer may be tried, and the short reason that stands in the log. It ends where the client is
answered: in `downstream.peek`, in `relay` when no peer accepts, for HTTP in `exchange`. A
`UserError` is a mistake of the person who runs the proxy; it prints as text, never as a traceback.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


class Refusal(Exception):
    """A connection or request that is answered with a refusal instead of being served."""

    reason: ClassVar[str] = "refused"
    """Short code for the log; never contains anything a client chose."""
    alert: ClassVar[int | None] = None
    """TLS AlertDescription (RFC 8446 §6), or None: close without one."""
    status: ClassVar[int | None] = None
    """HTTP status, or None where HTTP was never spoken."""
    other_peer: ClassVar[bool] = False
    """Whether nothing was sent, so that another peer may be tried."""
    site: Any = None
    """The `sites.Site` that refuses, whose pages and log are used; None where no site was found."""


class BadHello(Refusal):
    """A TLS record or ClientHello whose lengths do not nest (RFC 8446 §4.1.2): decode_error."""

    reason, alert = "bad_hello", 50


class HelloTooLarge(Refusal):
    """A TLS record above 2^14 bytes or a ClientHello above our limit: record_overflow."""

    reason, alert = "hello_too_large", 22


class NotTLS(Refusal):
    """The first bytes on a TLS port are no TLS handshake: unexpected_message."""

    reason, alert, status = "not_tls", 10, 400


class UnknownName(Refusal):
    """No name, an impossible name, or a name nobody serves: unrecognized_name."""

    reason, alert, status = "unknown_name", 112, 404


class NoCommonProtocol(Refusal):
    """Client and site share no ALPN protocol: no_application_protocol."""

    reason, alert = "no_common_alpn", 120


class NotAuthorised(Refusal):
    """The client is known and may not: access_denied."""

    reason, alert, status = "not_authorised", 49, 403


class TooMany(Refusal):
    """A limit on connections or requests is reached; closed without an answer, to stay cheap."""

    reason, alert, status = "too_many", None, 429


class RateLimited(TooMany):
    """A client has used up its tokens (RFC 6585 §4); in `wait` seconds it has one again."""

    reason = "rate_limited"

    def __init__(self, limit: str, wait: float) -> None:
        super().__init__(limit)
        self.wait = wait


class Banned(Refusal):
    """The client's address is on the ban list; closed without an answer, to stay cheap."""

    reason, alert, status = "banned", None, 403


class Denied(Refusal):
    """The client's address is one that `allow` and `deny` leave out: access_denied."""

    reason, alert, status = "denied", 49, 403


class TooSlow(Refusal):
    """The client did not finish its ClientHello, PROXY header or head in time: user_canceled."""

    reason, alert, status = "too_slow", 90, 408


class BadProxyHeader(Refusal):
    """A PROXY header that is malformed, missing where required, or from somebody not trusted."""

    reason = "bad_proxy_header"


class PeerUnreachable(Refusal):
    """No connection to a peer could be made; nothing was sent: internal_error. `code` is the errno, or 0."""

    reason, alert, status, other_peer = "peer_unreachable", 80, 502, True

    def __init__(self, why: str, code: int = 0) -> None:
        super().__init__(why)
        self.code = code


class PeerTimeout(PeerUnreachable):
    """A peer did not accept the connection in time: internal_error."""

    reason, status = "peer_timeout", 504


class NoPeer(PeerUnreachable):
    """Nobody is left to ask: each of several peers was asked in vain, or is known to be down or unhealthy."""

    reason, status = "no_peer", 503


class UnknownHost(Refusal):
    """A request for a host that no app has."""

    reason, status = "unknown_host", 404


class NoRoute(Refusal):
    """The app has no route for the path."""

    reason, status = "no_route", 404


class MethodNotAllowed(Refusal):
    """TRACE, which would show a client what we added to its request, or CONNECT (RFC 9110 §9.3)."""

    reason, status = "method_not_allowed", 405


class LastHop(Refusal):
    """OPTIONS with `Max-Forwards: 0`: we are asked, and nobody behind us (RFC 9110 §7.6.2)."""

    reason, status = "max_forwards", 200


class BodyTooLarge(Refusal):
    """A request body above the app's limit (RFC 9110 §15.5.14)."""

    reason, status = "body_too_large", 413


class Misdirected(Refusal):
    """A request for a host that this TLS connection is not for (RFC 9110 §15.5.20)."""

    reason, status = "misdirected", 421


class Redirect(Refusal):
    """Not a failure: the same resource has another address."""

    reason, status = "redirect", 301

    def __init__(self, moved: int, location: bytes) -> None:
        super().__init__(location.decode("ascii"))
        self.moved, self.location = moved, location


class UserError(SystemExit, Exception):
    """A mistake of the person who runs the proxy, as text that says what, where and what to do.

    It is a `SystemExit`, so that Python prints the text and exits with status 1 wherever it
    surfaces, and an `Exception`, so that `twistd` removes its pid file and tells its parent.
    """


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a config file: `line` and `column` count from 1; 0 where no place is known."""

    file: str
    line: int
    column: int
    key: str
    """The path of keys, `apps.site.server_name`; empty for a mistake of the file as a whole."""
    message: str
    hint: str = ""
    source: str = ""
    """The line of the file, for the caret; empty where there is none."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        text = f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"
        if self.source:
            margin = "".join(c if c == "\t" else " " for c in self.source[: self.column - 1])
            text += f"\n    {self.source}\n    {margin}^"
        return f"{text}\n    {self.hint}" if self.hint else text


class ConfigError(UserError):
    """A configuration that cannot be used, with all its problems."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


class StartError(UserError):
    """The configuration is fine but the machine is not: a port is taken, a directory is missing."""
