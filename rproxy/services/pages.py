"""Answers of our own as HTML, JSON or text: tiny, and with nothing in them that a client has sent.

`Pages` is made by `assemble`, one for each app; asked by whoever answers a refusal. `request_ids`
makes the number by which a page and its line in the log find each other.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Mapping
from html import escape
from itertools import count
from pathlib import Path
from random import Random
from typing import Final

from rproxy.errors import StartError

MAX_PAGE: Final = 64 * 1024
"""Bytes of an app's own page: room for a logo in it; every refused request costs us that much."""
MAX_ACCEPT: Final = 1024
"""Bytes of an Accept field that are read: browsers send 150. Longer ones get text."""
MAX_RANGES: Final = 32
"""Media ranges of it that are read: browsers send 8, and each costs a microsecond."""

HTML: Final = b"text/html; charset=utf-8"
JSON: Final = b"application/json"
TEXT: Final = b"text/plain; charset=utf-8"


class Pages:
    """The error pages of one app. `own` are HTML templates by `"404"` or `"4xx"`, see `read_page`."""

    def __init__(self, own: Mapping[str, bytes] | None = None) -> None:
        self._own = {key: _PLACEHOLDER.split(page) for key, page in (own or {}).items()}

    def render(
        self, status: int, reason: str, request_id: str, accept: bytes | None = None
    ) -> tuple[bytes, bytes]:
        """The Content-Type and the body for a status; `reason` is a code of ours, `no_route`.

        `accept` is the client's Accept, all of its fields joined with commas.
        """
        kind = preferred(accept)
        if kind is HTML:
            own = self._own.get(str(status)) or self._own.get(f"{status // 100}xx")
            return kind, _filled(own or _PAGE, status, reason, request_id)
        title, sentence = _words(status)
        if kind is JSON:
            answer = {"status": status, "error": title, "reason": reason, "message": sentence}
            return kind, json.dumps(answer | {"request_id": request_id}).encode("ascii") + b"\n"
        text = f"{status} {title}\n{sentence}\nreason: {_line(reason)}\nrequest: {_line(request_id)}\n"
        return kind, text.encode("utf-8")


def read_page(path: Path) -> bytes:
    """An app's own page: UTF-8 with `{status}`, `{reason}`, `{request_id}` in it. Raises `StartError`."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise StartError(f"error_pages: {path} is not a file")
            page = file.read(MAX_PAGE + 1)
        page.decode("utf-8")
    except OSError as problem:
        raise StartError(f"error_pages: {path} cannot be read: {problem.strerror}")
    except UnicodeDecodeError:
        raise StartError(f"error_pages: {path} is not UTF-8, which is what browsers will be told")
    if len(page) > MAX_PAGE:
        raise StartError(f"error_pages: {path} has more than {MAX_PAGE >> 10} KiB")
    return page


def preferred(accept: bytes | None) -> bytes:
    """HTML, JSON or TEXT for an Accept field (RFC 9110 §12.5.1); TEXT where none of them is wanted.

    HTML and JSON only for those who name them: `*/*` alone comes from programs, which show text.
    """
    weights: dict[bytes, float] = {}
    field = b"" if accept is None or len(accept) > MAX_ACCEPT else accept.lower()
    for element in field.split(b",", MAX_RANGES)[:MAX_RANGES]:
        media, *parameters = element.split(b";")
        weights[media.strip(b" \t")] = _weight(parameters)
    plain = (weights[media] for media in (b"text/plain", b"text/*", b"*/*") if media in weights)
    offers = ((HTML, weights.get(b"text/html", 0.0)), (JSON, weights.get(b"application/json", 0.0)))
    best, weight = max((*offers, (TEXT, next(plain, 0.0))), key=lambda offer: offer[1])
    return best if weight > 0 else TEXT


def request_ids(rng: Random) -> Callable[[], str]:
    """A function that gives 16 hex digits, others each time: half of them say which process, half count.

    They begin again after 2^32 requests. No secret: whoever sees one can tell the next.
    """
    prefix, numbers = f"{rng.getrandbits(32):08x}", count(rng.getrandbits(32))
    return lambda: f"{prefix}{next(numbers) & 0xFFFFFFFF:08x}"


def _open_at_once(path: str, flags: int) -> int:
    """A pipe must not hold up the start."""
    return os.open(path, flags | os.O_NONBLOCK)


def _weight(parameters: list[bytes]) -> float:
    """The q of an element, 1 without any; what is malformed counts as refused."""
    for parameter in parameters:
        name, _, value = parameter.strip(b" \t").partition(b"=")
        if name == b"q":
            return float(value) if _QUALITY(value) else 0.0
    return 1.0


def _filled(page: list[bytes], status: int, reason: str, request_id: str) -> bytes:
    """A page split at its placeholders: text, name, text, name, … text."""
    title, sentence = _words(status)
    values = {
        b"status": str(status),
        b"title": title,
        b"sentence": sentence,
        b"reason": escape(reason),
        b"request_id": escape(request_id),
    }
    return b"".join(values[part].encode("utf-8") if n % 2 else part for n, part in enumerate(page))


def _words(status: int) -> tuple[str, str]:
    return _STATUSES.get(status) or (_OTHER_CLIENT if 400 <= status < 500 else _OTHER_SERVER)


def _line(text: str) -> str:
    return "".join(c if " " < c <= "~" else "?" for c in text)


_QUALITY = re.compile(rb"0(\.\d{0,3})?|1(\.0{0,3})?").fullmatch
_PLACEHOLDER: Final = re.compile(rb"\{(status|reason|request_id)\}")
_PAGE: Final = re.split(
    rb"\{(\w+)\}",
    b'<!doctype html><html lang="en"><meta charset="utf-8">'
    b'<meta name="viewport" content="width=device-width">'
    b"<title>{status} {title}</title><h1>{status} {title}</h1><p>{sentence}"
    b"<p><small>{reason} &middot; {request_id}</small></html>\n",
)
_OTHER_CLIENT: Final = "Refused", "The request was refused."
_OTHER_SERVER: Final = "Error", "The request could not be answered."
_STATUSES: Final[Mapping[int, tuple[str, str]]] = {
    200: ("OK", "This proxy answers itself, as it was asked to."),
    301: ("Moved Permanently", "This page is served over https."),
    308: ("Permanent Redirect", "This page is served over https."),
    400: ("Bad Request", "The request is malformed or can be read in two ways."),
    403: ("Forbidden", "You may not use this service."),
    404: ("Not Found", "There is nothing here for this name and path."),
    405: ("Method Not Allowed", "This method is not served here."),
    408: ("Request Timeout", "The request took too long to arrive."),
    411: ("Length Required", "The length of the request's body is missing."),
    413: ("Content Too Large", "The request's body is larger than this service takes."),
    414: ("URI Too Long", "The address of the request is too long."),
    417: ("Expectation Failed", "The request expects something that is not known here."),
    421: ("Misdirected Request", "This connection was made for another name; try again."),
    429: ("Too Many Requests", "There are too many requests from you; try again later."),
    431: ("Request Header Fields Too Large", "The request has too many or too long header fields."),
    500: ("Internal Server Error", "Something went wrong in this proxy."),
    501: ("Not Implemented", "The request uses something that is not supported here."),
    502: ("Bad Gateway", "The server behind this address cannot be reached, or gave no proper answer."),
    503: ("Service Unavailable", "No server behind this address is ready; try again later."),
    504: ("Gateway Timeout", "The server behind this address did not answer in time."),
    505: ("HTTP Version Not Supported", "This version of HTTP is not spoken here."),
}
"""For each status its name (RFC 9110 §15, RFC 6585) and one sentence for people; none needs escaping."""
