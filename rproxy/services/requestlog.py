"""The request log: one line per request, written when its response has ended.

Made by `assemble`, one for each app that has a log of its own and one for the rest; fed by the
HTTP servers. Everything that a client or a backend can choose is escaped, so that a request is
one line and a terminal shows it as it is: `\\xNN` for bytes, in JSON the escapes of JSON.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from http import HTTPStatus
from json.encoder import encode_basestring_ascii
from typing import Final, Literal

from mypy_extensions import mypyc_attr

from rproxy.native import lines as native_lines
from rproxy.services.lines import LineBatch
from rproxy.wire.address import Address, Inet

MOST_SHOWN: Final = 2048
"""Bytes of a field that are written: the longest that people read, while a head may have 64 KiB."""
REDACTED: Final = b"<redacted>"
MOST_REPEATED: Final = 256
"""Texts kept as they are written: clients repeat their User-Agent."""
LONGEST_REPEATED: Final = 512
"""Bytes of those; browsers send 150."""
_plain_line: Final = native_lines.plain_line

LogFormat = Literal["rpxy", "common", "combined", "json"]


class Served:
    """A request and what became of it. bytes are as on the wire, empty where there is nothing.

    `client` is what `Client` makes of an address.
    """

    __slots__ = (
        "app",
        "client",
        "forwarded",
        "forwarded_for",
        "host",
        "id",
        "method",
        "path",
        "reason",
        "referer",
        "scheme",
        "seconds",
        "size",
        "status",
        "subject",
        "tls",
        "upstream",
        "upstream_path",
        "upstream_seconds",
        "user_agent",
        "version",
    )

    def __init__(
        self,
        id: str,
        client: Client,
        host: bytes,
        scheme: bytes,
        method: bytes,
        path: bytes,
        version: int,
        status: int,
        size: int,
        seconds: float,
        app: str,
        reason: str,
        upstream: str = "",
        upstream_path: bytes = b"",
        upstream_seconds: float | None = None,
        tls: str = "",
        user_agent: bytes = b"",
        referer: bytes = b"",
        forwarded_for: bytes = b"",
        forwarded: bytes = b"",
        subject: str | None = None,
    ) -> None:
        self.id, self.client = id, client
        self.host = host
        """Host and port as the client sent them."""
        self.scheme = scheme
        """Of an absolute target (HTTP/2 and 3: always), else empty."""
        self.method = method
        self.path = path
        """Path and query as the client sent them."""
        self.version = version
        """10, 11, 20 or 30; 0 where it is not known."""
        self.status = status
        """As sent; 499 where the client left before any."""
        self.size = size
        """Bytes of the response's body that were sent."""
        self.seconds = seconds
        """From the first byte of the request to the last of the response."""
        self.app = app
        self.reason = reason
        """Why it ended as it did: a code of ours, never a client's text."""
        self.upstream = upstream
        """Scheme and location of the peer that answered, `http://10.0.0.5:8080`; empty if none was asked."""
        self.upstream_path = upstream_path
        """Path and query as the peer was asked for them."""
        self.upstream_seconds = upstream_seconds
        """Until the head of the peer's response."""
        self.tls = tls
        """`TLSv1.3`; empty in clear text."""
        self.user_agent, self.referer = user_agent, referer
        self.forwarded_for = forwarded_for
        """X-Forwarded-For as the peer got it."""
        self.forwarded = forwarded
        """Forwarded as the peer got it."""
        self.subject = subject
        """Of the client's verified certificate, in printable ASCII; None without one."""


class Client:
    """Who a connection's requests come from, as it is written; made once for each connection."""

    __slots__ = ("host", "name", "text")

    def __init__(self, address: Address) -> None:
        # What `str` gives, at a tenth of the cost.
        if isinstance(address, Inet) and ":" not in address.host:
            self.text = f"{address.host}:{address.port}"
        else:
            self.text = str(address)
        """As it is; not for a line whose fields end with a space."""
        self.name = self.text if isinstance(address, Inet) else _word(b"unix:" + address.path)
        """With the port, `192.0.2.7:1234`; `unix:` and the path of a unix socket."""
        self.host = address.host if isinstance(address, Inet) else self.name


@mypyc_attr(allow_interpreted_subclasses=True)
class RequestLog:
    """Writes requests down in one format. `lines` may be shared with other logs.

    `redact` takes the values out of all query strings.
    """

    def __init__(self, lines: LineBatch, style: LogFormat = "rpxy", *, redact: bool = False) -> None:
        self._lines, self._redact = lines, redact
        self._line, self._pattern = FORMATS[style]
        self._is_rpxy = style == "rpxy"
        self.shows_id = style == "json"
        """Whether a line has the request's number, which is not made before it is needed."""
        self._second, self._stamp = -1, ""

    def served(self, request: Served, now: float) -> None:
        """Write down a request that ended `now`; the line leaves with others, soon.

        What is redacted, is so in `request`.
        """
        stamp = self._stamp_of(now)
        if self._redact:
            _redact(request)
        self._lines.add(self._line(request, stamp, now - self._second))

    def plain(
        self,
        now: float,
        client: Client,
        host: bytes,
        scheme: bytes,
        method: bytes,
        path: bytes,
        version: int,
        status: int,
        agent: bytes,
        forwarded_for: bytes,
        upstream: str,
        upstream_path: bytes,
    ) -> bool:
        """What `served` does, for the request that most are; False if it is none, or the format another one.

        That is one in rpxy's format in which nothing has to be escaped, redacted or left out.
        """
        if not self._is_rpxy or not host or not path or scheme:
            return False
        if self._redact and (b"?" in path or b"?" in upstream_path):
            return False
        stamp = self._stamp_of(now)
        line = _plain_line(
            stamp,
            int((now - self._second) * 1e6),
            host,
            client.name,
            method,
            path,
            VERSIONS.get(version, "-"),
            PHRASES.get(status) or str(status),
            agent,
            forwarded_for,
            upstream,
            upstream_path,
        )
        if line is None:
            return False
        self._lines.add(line)
        return True

    def _stamp_of(self, now: float) -> str:
        """The second, as a line begins with it."""
        second = int(now)
        if second != self._second:
            self._second, self._stamp = second, datetime.fromtimestamp(second, UTC).strftime(self._pattern)
        return self._stamp

    def flush(self) -> None:
        """Hand the waiting lines to the sink."""
        self._lines.flush()


def redacted(target: bytes) -> bytes:
    """A path and query, or a URL, without the values of its query; names stay (R-LOG-4)."""
    path, mark, query = target.partition(b"?")
    if not query:
        return target
    return path + mark + b"&".join(map(_redacted_pair, query.split(b"&")))


def rpxy(request: Served, stamp: str, fraction: float) -> str:
    """A line as rpxy writes it (R-LOG-2), behind the time in microseconds."""
    status = PHRASES.get(request.status) or str(request.status)
    return _rpxy(request, f"{stamp}.{int(fraction * 1e6):06d}", status)


def _rpxy(r: Served, stamp: str, status: str) -> str:
    host, path = _host(r.host), _word(r.path)
    asked = path if r.upstream_path == r.path else _word(r.upstream_path)
    place = path.partition("?")[0]
    if r.scheme:
        place = f"{_word(r.scheme)}://{host}{place}"
    forwarded = f' "{_text(r.forwarded)}"' if r.forwarded else ""
    return (
        f"{stamp}Z {host or '-'} <- {r.client.name} -- {_word(r.method) or '-'} {path or '-'}"
        f" {VERSIONS.get(r.version, '-')} -- {status} -- {place}"
        f' "{_text(r.user_agent)}", "{_text(r.forwarded_for)}"{forwarded} "{r.upstream}{asked}"\n'
    )


def common(request: Served, stamp: str, fraction: float) -> str:
    """A line in the Common Log Format, as Apache and nginx write it."""
    return _common(request, stamp) + "\n"


def combined(request: Served, stamp: str, fraction: float) -> str:
    """The same with Referer and User-Agent."""
    referer, agent = _text(request.referer) or "-", _text(request.user_agent) or "-"
    return f'{_common(request, stamp)} "{referer}" "{agent}"\n'


def json(request: Served, stamp: str, fraction: float) -> str:
    """One JSON object; bytes that are not ASCII stand in it as the characters of Latin-1."""
    r = request
    subject = f',"client_subject":{_json(r.subject)}' if r.subject is not None else ""
    waited = "null" if r.upstream_seconds is None else f"{r.upstream_seconds:.6f}"
    return (
        f'{{"time":"{stamp}.{int(fraction * 1e3):03d}Z","id":"{r.id}","client":{_json(r.client.text)}'
        f',"host":"{_inner(r.host)}","method":"{_inner(r.method)}","path":"{_inner(r.path)}"'
        f',"protocol":"{VERSIONS.get(r.version, "")}","status":{r.status},"bytes":{r.size}'
        f',"duration":{r.seconds:.6f},"upstream":{_json(r.upstream)},"upstream_time":{waited}'
        f',"tls":"{r.tls}","user_agent":"{_inner(r.user_agent)}","referer":"{_inner(r.referer)}"'
        f',"forwarded_for":"{_inner(r.forwarded_for)}","forwarded":"{_inner(r.forwarded)}"'
        f',"app":{_json(r.app)},"reason":"{r.reason}"{subject}}}\n'
    )


FORMATS: Final[Mapping[LogFormat, tuple[Callable[[Served, str, float], str], str]]] = {
    "rpxy": (rpxy, "%Y-%m-%dT%H:%M:%S"),
    "common": (common, "%d/%b/%Y:%H:%M:%S +0000"),
    "combined": (combined, "%d/%b/%Y:%H:%M:%S +0000"),
    "json": (json, "%Y-%m-%dT%H:%M:%S"),
}
"""What makes a line, and the form of the second it is given."""
VERSIONS: Final = {10: "HTTP/1.0", 11: "HTTP/1.1", 20: "HTTP/2.0", 30: "HTTP/3.0"}
PHRASES: Final = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


def _redact(request: Served) -> None:
    path, upstream_path, referer = request.path, request.upstream_path, request.referer
    if b"?" not in path and b"?" not in upstream_path and b"?" not in referer:
        return
    request.path = redacted(path)
    request.upstream_path = request.path if upstream_path == path else redacted(upstream_path)
    request.referer = redacted(referer)


def _redacted_pair(pair: bytes) -> bytes:
    name, equals, _ = pair.partition(b"=")
    return name + equals + REDACTED if equals else pair and REDACTED


def _common(r: Served, stamp: str) -> str:
    line = f"{_word(r.method)} {_word(r.path)} {VERSIONS.get(r.version, '-')}" if r.method else "-"
    return f'{r.client.host} - - [{stamp}] "{line}" {r.status} {r.size or "-"}'


def _host(value: bytes) -> str:
    return _kept_word(value) if len(value) <= LONGEST_REPEATED else _word(value)


def _word(value: bytes) -> str:
    """Printable ASCII without spaces, quotes and backslashes."""
    if value.translate(_WORDS) == value and len(value) <= MOST_SHOWN:
        return value.decode()
    return _escaped(value).replace(" ", "\\x20")


def _text(value: bytes) -> str:
    """The same with spaces, to be put in quotes. Clients repeat themselves, so these are kept."""
    return _kept_text(value) if len(value) <= LONGEST_REPEATED else _spaced(value)


def _spaced(value: bytes) -> str:
    if value.translate(_TEXTS) == value and len(value) <= MOST_SHOWN:
        return value.decode()
    return _escaped(value)


def _inner(value: bytes) -> str:
    """What stands between the quotes of a JSON string."""
    if value.translate(_TEXTS) == value and len(value) <= MOST_SHOWN:
        return value.decode()
    cut = value[:MOST_SHOWN] + (b"..." if len(value) > MOST_SHOWN else b"")
    # DEL is the one control character that JSON leaves as it is.
    return _json(cut.decode("latin-1"))[1:-1].replace("\x7f", "\\u007f")


def _escaped(value: bytes) -> str:
    shown = _UNSAFE.sub(lambda found: b"\\x%02x" % ord(found.group()), value[:MOST_SHOWN])
    return shown.decode("ascii") + ("..." if len(value) > MOST_SHOWN else "")


_json: Final = encode_basestring_ascii
_kept_word: Final = lru_cache(MOST_REPEATED)(_word)
_kept_text: Final = lru_cache(MOST_REPEATED)(_spaced)
_UNSAFE: Final = re.compile(rb"[^ !#-\[\]-~]")
# Tables that change what has to be escaped and nothing else: the fastest look at all bytes that there is.
_TEXTS: Final = _UNSAFE.sub(b"?", bytes(range(256)))
_WORDS: Final = _TEXTS.replace(b" ", b"?")
