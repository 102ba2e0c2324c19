"""Where a connection goes or arrives, as written in a config: `location` of an upstream, `listen` strings.

`location` takes what people write for a backend and `listener` what they write for a socket to
listen on; both are used by `schema`, and a `Location` is turned into a peer by `assemble`.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Final

from rproxy.config.values import Wrong, plain, quoted
from rproxy.wire.hostname import canonical

MAX_UNIX_PATH: Final = 107
"""Bytes of a unix socket's path: sun_path has 108, one is for the NUL (unix(7))."""

CLIENT_ENDPOINTS: Final = ("tcp", "tcp6", "tls", "ssl", "unix", "sendproxy", "haproxy")
"""Twisted client endpoints that stay endpoints when digits follow, as `tcp:80:…` does not name a host."""
SERVER_ENDPOINTS: Final = (
    "tcp",
    "tcp6",
    "tls",
    "ssl",
    "unix",
    "systemd",
    "fd",
    "acceptproxy",
    "stdio",
)


class Kind(Enum):
    """What a location is, and with it which fields of `Location` are filled."""

    INET = "inet"
    """`host` (canonical name or IP address) and `port`."""
    UNIX = "unix"
    """`path`, absolute."""
    DEMO = "demo"
    """The built-in backend that answers what it received."""
    ENDPOINT = "endpoint"
    """`endpoint`, a Twisted client endpoint string."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where an upstream is. `text` is what was written, which is also its name in logs."""

    text: str
    kind: Kind
    host: str = ""
    port: int = 0
    """1 to 65535; 0 where none was written, until `with_port` fills it."""
    path: str = ""
    endpoint: str = ""

    def __str__(self) -> str:
        return self.text

    def with_port(self, default: int) -> Location:
        """The same place, on the default port where none was written."""
        return replace(self, port=default) if self.kind is Kind.INET and not self.port else self

    @property
    def place(self) -> Location:
        """The same without what was written: equal for locations that lead to one peer."""
        return replace(self, text="")


def location(value: object, base: Path) -> Location:
    """The place that a text names; a relative `unix:` path starts at `base`. Raises `Wrong`."""
    text = plain(value, 'a location such as "10.0.0.5:443" or "unix:/run/app.sock"')
    if text == "demo:":
        return Location(text, Kind.DEMO)
    if text.startswith("unix:") and _is_bare_path(text[5:]):
        return Location(text, Kind.UNIX, path=unix_path(text[5:], base))
    _refuse_url(text)
    inet = _HOST_PORT(text)
    if inet and not (inet[2] is None and text.endswith(":")):
        return _inet(text, inet[1], inet[2])
    if _ENDPOINT(text):
        return _endpoint(text)
    raise Wrong(f"{quoted(text)} is no location", _location_hint(text))


def listener(value: object, base: Path) -> str:
    """A Twisted server endpoint string to listen on, its path absolute if it has one. Raises `Wrong`."""
    text = plain(value, 'an endpoint such as "tcp:443"')
    kind, colon, rest = text.partition(":")
    first = rest.partition(":")[0]
    hint = _listener_hint(text)
    if not colon or not rest or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", kind) or "://" in text:
        raise Wrong(f"{quoted(text)} is no endpoint to listen on", hint)
    if kind not in SERVER_ENDPOINTS and first.isdigit():
        raise Wrong(f"{quoted(text)} looks like a host and a port, not like an endpoint", hint)
    if kind in ("tcp", "tcp6"):
        _check_port(text, rest.split(":"))
    if kind == "haproxy":
        raise Wrong(f"{quoted(text)}: Twisted's haproxy: hides the client", "use accept_proxy_protocol")
    if kind == "fd" and not re.fullmatch(r"\d{1,6}", rest, re.ASCII):
        raise Wrong(f"{quoted(text)}: expected the number of an open socket", 'write "fd:0"')
    if kind == "unix" and "=" not in first and "\\" not in rest:
        return "unix:" + _escaped(unix_path(first, base)) + rest[len(first) :]
    return text


def stream_listener(value: object, base: Path) -> str:
    """An endpoint string as `listener` takes it, or `":5000"`, `"10.0.0.1:5000"`, `"[::1]:5000"`."""
    text = plain(value, 'a place to listen on such as ":5000"')
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|\d+\.\d+\.\d+\.\d+|):(\d+)", text, re.ASCII)
    if match is None:
        return listener(text, base)
    host, port = match[1].strip("[]"), _port(text, match[2])
    if not host:
        return f"tcp:{port}"
    kind = "tcp6" if ":" in _address(text, host) else "tcp"
    return f"{kind}:{port}:interface={_escaped(host)}"


def address_v4(value: object) -> str:
    """An IPv4 address to listen on, in canonical form."""
    text = plain(value, "an IPv4 address")
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        hint = (
            "IPv6 addresses belong in listen_address_v6" if ":" in text else 'write "127.0.0.1" or "0.0.0.0"'
        )
        raise Wrong(f"{quoted(text)} is no IPv4 address", hint) from None


def address_v6(value: object) -> str:
    """An IPv6 address to listen on, in canonical form and without brackets."""
    text = plain(value, "an IPv6 address")
    try:
        return str(ipaddress.IPv6Address(text[1:-1] if text[0] + text[-1] == "[]" else text))
    except ValueError:
        hint = "IPv4 addresses belong in listen_address_v4" if "." in text else 'write "::1" or "::"'
        raise Wrong(f"{quoted(text)} is no IPv6 address", hint) from None


def unix_path(text: str, base: Path) -> str:
    """The absolute path of a unix socket."""
    if text.startswith("@"):
        raise Wrong(f"{quoted(text)}: abstract unix sockets are not supported", "give the socket a path")
    path = str(base / text)
    if not text:
        raise Wrong("no path after the colon", 'write "unix:/run/app.sock"')
    if len(path.encode("utf-8", "surrogateescape")) > MAX_UNIX_PATH:
        raise Wrong(f"a unix socket's path has at most {MAX_UNIX_PATH} bytes, not {quoted(path)}")
    return path


def _is_bare_path(rest: str) -> bool:
    """Whether a path alone follows `unix:`, rather than a path with Twisted's options."""
    return ":" not in rest and not rest.startswith("path=")


def _refuse_url(text: str) -> None:
    scheme, found, rest = text.partition("://")
    if not found:
        return
    host = rest.partition("/")[0]
    hint = f'write location = "{host}", tls = true' if scheme in ("https", "wss") else f'write "{host}"'
    raise Wrong(f"{quoted(text)} is a URL, but a location is a host and a port", hint)


def _inet(text: str, host: str, port: str | None) -> Location:
    number = 0 if port is None else _port(text, port)
    return Location(text, Kind.INET, host=_host(text, host), port=number)


def _host(text: str, host: str) -> str:
    """A host in the form that is resolved or connected to: an address, or a name (underscores allowed)."""
    if host.startswith("["):
        return _address(text, host[1:-1])
    if re.fullmatch(r"[\d.]+", host, re.ASCII):
        return _address(text, host)
    if not host.isascii():
        return canonical(host)
    labels = host.removesuffix(".").split(".")
    if len(host) > 254 or not all(re.fullmatch(r"[A-Za-z0-9_-]{1,63}", label) for label in labels):
        raise Wrong(f"{quoted(text)}: {quoted(host)} is no host name", 'write "host:port" or "unix:/path"')
    return host.lower()


def _address(text: str, host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        raise Wrong(f"{quoted(text)}: {quoted(host)} is no IP address") from None


def _port(text: str, port: str) -> int:
    if len(port) > 5 or not 1 <= int(port) <= 65535:
        raise Wrong(f"{quoted(text)}: expected a port from 1 to 65535, got {port[:20]}")
    return int(port)


def _endpoint(text: str) -> Location:
    kind, _, rest = text.partition(":")
    if not rest:
        raise Wrong(f"{quoted(text)} has nothing after the colon", _location_hint(text))
    if kind not in CLIENT_ENDPOINTS and re.match(r"\d", rest):
        raise Wrong(f"{quoted(text)}: expected a port from 1 to 65535 after the colon", _location_hint(text))
    return Location(text, Kind.ENDPOINT, endpoint=text)


def _location_hint(text: str) -> str:
    try:
        return f'put brackets around an IPv6 address: "[{ipaddress.IPv6Address(text)}]:443"'
    except ValueError:
        pass
    if "/" in text and not text.startswith("/"):
        return "a location has no path; replace_path of the reverse_proxy entry changes paths"
    if text.startswith("/"):
        return f'write "unix:{text[:60]}" for a unix socket'
    return 'write "host:port", "unix:/path", or a Twisted client endpoint'


def _listener_hint(text: str) -> str:
    match = re.fullmatch(r"(?:\w+://)?(.*?):?(\d{1,5})/?", text, re.ASCII)
    if match is None:
        return 'write "tcp:443", "tcp:443:interface=127.0.0.1", "unix:/path" or "fd:0"'
    host = match[1].strip("[]")
    return (
        f'write "tcp:{match[2]}:interface={host}"' if host and ":" not in host else f'write "tcp:{match[2]}"'
    )


def _check_port(text: str, arguments: list[str]) -> None:
    named = [a.removeprefix("port=") for a in arguments if a.startswith("port=")]
    port = named[0] if named else arguments[0]
    if not re.fullmatch(r"\d{1,5}", port, re.ASCII) or int(port) > 65535:
        raise Wrong(f"{quoted(text)}: expected a port from 0 to 65535 after the colon")


def _escaped(argument: str) -> str:
    """An argument of an endpoint string, with what would end it escaped."""
    return re.sub(r"([\\:=])", r"\\\1", argument)


_HOST_PORT = re.compile(r"(\[[^\[\]/]*\]|[^\[\]:/\s]+)(?::(\d+))?", re.ASCII).fullmatch
_ENDPOINT = re.compile(r"[A-Za-z]\w*:\S*", re.ASCII).fullmatch
