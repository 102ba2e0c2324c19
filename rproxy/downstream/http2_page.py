"""The answer to a refusal on an HTTP/2 stream. Called by `http2_stream`."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any, NamedTuple

from rproxy.errors import Redirect, Refusal
from rproxy.sites import Site
from rproxy.wire.message import Fields, Pair, Request

METHODS = b"GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS"


class Page(NamedTuple):
    """A response of our own."""

    status: int
    fields: Fields
    body: bytes


def page_of(stream: Any, answers: Any, refusal: Refusal, request: Request | None, site: Site | None) -> Page:
    """What `stream` is answered, as `answers` has it (see `http_server.Answers`); empty for HEAD."""
    kind, body = answers.page(stream, refusal, request, site)
    date = formatdate(stream.reactor.seconds(), usegmt=True).encode("ascii")
    pairs: list[Pair] = [(b"content-type", kind), (b"server", b"rproxy"), (b"date", date)]
    status = refusal.status or 500
    if isinstance(refusal, Redirect):
        status = refusal.moved
        pairs.append((b"location", refusal.location))
    if status == 405:
        pairs.append((b"allow", METHODS))
    pairs.append((b"content-length", b"%d" % len(body)))
    is_head = request is not None and request.method == b"HEAD"
    return Page(status, Fields(pairs), b"" if is_head else body)
