"""The hosts folder for requests: `<directory>/<name>/http-socket`. Asked by `sites` for names without an app.

As with `hosts`, nothing is read ahead and nothing is kept: each request looks at the folder as it
is then and has a connection of its own to the socket. What goes wrong is answered after httpdir
(D-2, D-4): 404 where there is no socket, 503 where it is not open to us, 502 for the rest. A Host
that cannot be a name does not come here: `sites` answers it with 400.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Final

from rproxy.errors import NoPeer, PeerUnreachable, Refusal, UnknownHost
from rproxy.policy.balance import InOrder
from rproxy.policy.forwarding import RequestRewriter, ResponseRewriter
from rproxy.policy.rules import HeaderRules, Side
from rproxy.services.hosts import folder_of
from rproxy.sites import Route, Site
from rproxy.upstream.http_client import HttpPeer
from rproxy.upstream.peer import Group

NO_SUCH_HOST: Final = {errno.ENOENT, errno.ENOTDIR}
NOT_READY: Final = {errno.EACCES, errno.ECONNREFUSED}
"""A socket that is closed to us, or that nobody listens on: perhaps in a moment."""


class HttpHosts:
    """Routes by directory: `find` gives what serves a name. Times are seconds, see `sites.Route`."""

    def __init__(
        self,
        directory: Path,
        site: Site,
        *,
        hash_names: bool = False,
        connect_timeout: float = 5.0,
        response_timeout: float = 60.0,
        body_timeout: float = 60.0,
        tunnel_idle: float = 3600.0,
    ) -> None:
        self._directory, self._site, self._hash_names = directory, site, hash_names
        self._connect_timeout, self._response_timeout = connect_timeout, response_timeout
        self._body_timeout, self._tunnel_idle = body_timeout, tunnel_idle
        self._requests = RequestRewriter(frozenset(), HeaderRules(Side.REQUEST))
        self._responses = ResponseRewriter(HeaderRules(Side.RESPONSE))

    def find(self, name: str) -> tuple[Site, Route] | None:
        """The site of all hosts and the route of this one; None when there is no directory for it."""
        folder = folder_of(self._directory, name, self._hash_names)
        return None if folder is None else (self._site, self._route(folder, name))

    def _route(self, folder: Path, name: str) -> Route:
        path = os.fspath(folder / "http-socket")
        # Nothing outlives the request, so no failure counts: whoever asks for a dead host is no news.
        peer = HttpPeer(
            f"unix:{path}",
            authority=name.encode("ascii"),
            keep=0,
            max_fails=0,
            fixed=[(socket.AF_UNIX, path)],
        )
        return Route(
            b"/",
            None,
            Group([peer], InOrder()),
            self._requests,
            self._responses,
            connect_timeout=self._connect_timeout,
            response_timeout=self._response_timeout,
            body_timeout=self._body_timeout,
            tunnel_idle=self._tunnel_idle,
            retries=0,
            refusal=refusal_of,
        )


def refusal_of(refusal: Refusal) -> Refusal:
    """What the client is told instead of what happened at the socket."""
    if isinstance(refusal, PeerUnreachable) and refusal.code in NO_SUCH_HOST:
        return UnknownHost(str(refusal))
    if isinstance(refusal, PeerUnreachable) and refusal.code in NOT_READY:
        return NoPeer(str(refusal))
    return refusal
