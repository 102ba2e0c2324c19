"""The hosts folder: a directory per name, and owning it is the right to serve the name.

Asked by `services.routing` for names that no app has. Nothing is read ahead and nothing is
kept: each connection looks at `<directory>/<name>/tls-socket` as it is then, so a host is
added, switched (by renaming a symlink) or removed with no reload and no word to the proxy.
The name has passed the hostname rules, so it cannot leave the directory. Behaviour after
sniproxy-rs (S-12 to S-15); the operating system's permissions are the only access control.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IProtocolFactory

from rproxy.deadlines import Deadlines
from rproxy.errors import PeerUnreachable, Refusal, UnknownName
from rproxy.interfaces import Arrival, Journal, local_of
from rproxy.policy.balance import InOrder
from rproxy.relay import RelayFactory
from rproxy.splice import Pipes
from rproxy.upstream.peer import Group, Peer
from rproxy.wire.hostname import hashed
from rproxy.wire.proxyheader import encode_v1

NOBODY_SERVES = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ECONNREFUSED}
"""Connect errors that mean "no such host here", answered like an unknown name."""


class HostsFolder:
    """Routes by directory: `find` gives the route of a name that has one."""

    def __init__(
        self,
        reactor: Any,
        directory: Path,
        journal: Journal,
        pipes: Pipes,
        deadlines: Deadlines,
        *,
        hash_names: bool = False,
        connect_timeout: float = 5.0,
        idle_timeout: float = 600.0,
    ) -> None:
        self._reactor, self._directory, self._hash_names = reactor, directory, hash_names
        self._journal, self._pipes, self._deadlines = journal, pipes, deadlines
        self._connect_timeout, self._idle_timeout = connect_timeout, idle_timeout

    def find(self, name: str) -> IProtocolFactory | None:
        """The route for this canonical name, or None when there is no directory for it."""
        folder = folder_of(self._directory, name, self._hash_names)
        if folder is None:
            return None
        return HostRoute(
            folder,
            self._reactor,
            self._journal,
            self._pipes,
            self._deadlines,
            connect_timeout=self._connect_timeout,
            idle_timeout=self._idle_timeout,
        )


def folder_of(directory: Path, name: str, hash_names: bool) -> Path | None:
    """The directory of this canonical name; None if there is none."""
    folder = directory / (hashed(name) if hash_names else name)
    try:
        os.stat(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:  # not ours to read, or a name too long for the filesystem: connecting will tell
        pass
    return folder


class HostRoute(RelayFactory):
    """The relay to one host's `tls-socket`, for one connection."""

    def __init__(
        self,
        folder: Path,
        reactor: Any,
        journal: Journal,
        pipes: Pipes,
        deadlines: Deadlines,
        **timeouts: Any,
    ) -> None:
        self._folder = folder
        path = os.fspath(folder / "tls-socket")
        # It lives for one connection: that it fails says nothing about the next, and is no news.
        peer = Peer(f"unix:{path}", fixed=[(socket.AF_UNIX, path)], max_fails=0)
        super().__init__(reactor, "hosts", Group([peer], InOrder()), journal, pipes, deadlines, **timeouts)

    def preamble(self, arrival: Arrival, transport: Any) -> bytes:
        """A PROXY v1 header when the host has a `send-proxy-v1`, whatever it is; asked after connecting."""
        try:
            os.stat(self._folder / "send-proxy-v1")
        except OSError:
            return b""
        return encode_v1(arrival.client, arrival.local or local_of(transport))

    def refusal(self, refusal: Refusal) -> Refusal:
        """A socket that is missing, not ours or dead is an unknown name; the rest is our trouble."""
        if isinstance(refusal, PeerUnreachable) and refusal.code in NOBODY_SERVES:
            return UnknownName(str(refusal))
        return refusal
