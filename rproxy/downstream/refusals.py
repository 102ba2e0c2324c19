"""The answer to a refusal, the same in every version of HTTP. Called by `http_server` and `http2_stream`."""

from __future__ import annotations

from email.utils import formatdate
from math import ceil
from typing import Any, Final, NamedTuple

from rproxy.errors import LastHop, RateLimited, Redirect, Refusal
from rproxy.sites import Site
from rproxy.wire.message import Fields, Pair, Request

METHODS: Final = b"GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS"
"""What `Allow` lists: all that go through everywhere."""


class Page(NamedTuple):
    """A response of our own."""

    status: int
    fields: Fields
    """All but those that frame the body; names in any case."""
    length: int
    """Bytes of the page, which are the body's, too, unless HEAD was asked for."""
    body: bytes


def page_of(server: Any, answers: Any, refusal: Refusal, request: Request | None, site: Site | None) -> Page:
    """What `server`, a connection or a stream, answers; `answers` is the factory's, see `http_factory`.

    `request` is None for what never became one.
    """
    kind, body = answers.page(server, refusal, request, site)
    date = formatdate(server.reactor.seconds(), usegmt=True).encode("ascii")
    pairs: list[Pair] = [(b"Content-Type", kind), (b"Server", b"rproxy"), (b"Date", date)]
    status = refusal.status or 500
    if isinstance(refusal, Redirect):
        status = refusal.moved
        pairs.append((b"Location", refusal.location))
    else:  # what one client has earned is not for a cache to give to others
        pairs.append((b"Cache-Control", b"no-store"))
    if status == 405 or isinstance(refusal, LastHop):
        pairs.append((b"Allow", METHODS))
    if isinstance(refusal, RateLimited):  # RFC 6585 §4
        pairs.append((b"Retry-After", b"%d" % max(1, ceil(refusal.wait))))
    is_head = request is not None and request.method == b"HEAD"
    return Page(status, Fields(pairs), len(body), b"" if is_head else body)
