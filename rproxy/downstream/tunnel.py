"""What a connection or a stream becomes after an upgrade or a CONNECT.

Called by `http_server` and `http2_stream`.
"""

from __future__ import annotations

from typing import Any

from rproxy.relay import End, join_ends
from rproxy.splice import Pipes
from rproxy.upstream.http_client import HttpClient


def open_tunnel(transport: Any, upstream: HttpClient, pipes: Pipes, from_client: bytes = b"") -> End:
    """Join a client and the connection to a peer that has agreed to it; gives the client's end.

    `transport` has no producer any more; `from_client` has come behind the request already.
    """
    near, far = End(), End()
    near.transport, far.transport = transport, upstream.transport
    from_peer = upstream.detach()
    upstream.tunnel = far
    if from_peer:
        transport.write(from_peer)
    if from_client:
        upstream.transport.write(from_client)
    join_ends(near, far, pipes)
    return near
