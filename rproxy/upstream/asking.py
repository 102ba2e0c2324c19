"""What is between an exchange and a peer, whatever version of HTTP the peer speaks; classes to inherit from.

`exchange.Exchange` is an `Asking`. What it asks is an `HttpClient`: in HTTP/1.1 the whole of a connection
(see `http_client`), in HTTP/2 one stream of a connection that is shared (see `http2_stream`). These are
classes that are compiled, so that calls through them cost what calls cost anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mypy_extensions import mypyc_attr

from rproxy.errors import Refusal
from rproxy.policy.forwarding import Memory
from rproxy.wire.message import Fields, Headers, Piece, Request, Response

if TYPE_CHECKING:
    from twisted.internet.interfaces import IProtocol

    from rproxy.upstream.http_client import HttpPeer


@mypyc_attr(allow_interpreted_subclasses=True)
class Asking:
    """What a client tells while it is asked; to inherit from, as `exchange.Exchange` does."""

    __slots__ = ()

    def interim(self, response: Response) -> None:
        """A 1xx response other than 101."""

    def response(self, response: Response) -> None:
        """The final response's head; a 101 makes a tunnel, and `tunnel` follows."""

    def piece(self, piece: Piece) -> None:
        """A piece of the response's body."""

    def response_end(self, trailers: Headers | None) -> None:
        """The response is complete; the connection is back in the pool or closed."""

    def flush(self) -> None:
        """All that one read brought has been told."""

    def broken(self, refusal: Refusal, silent: bool) -> None:
        """The connection ended before the response did; `silent` if not a byte of it had come."""

    def upstream_full(self) -> None:
        """The peer does not take more of the request's body for now."""

    def upstream_ready(self) -> None:
        """The peer takes more again."""


class HttpClient:
    """One request's way to a peer. `ask` comes first; `close` may come at any time, and nothing after it."""

    __slots__ = ("memory", "peer", "since", "transport", "tunnel", "used")

    def __init__(self, peer: HttpPeer, memory: Memory) -> None:
        self.peer, self.memory = peer, memory
        self.transport: Any = None
        self.used = False
        """Whether it has answered before: then that it ends may only mean that it was idle for too long."""
        self.since = 0.0
        """When it became idle the last time."""
        self.tunnel: Any = None
        """What gets everything from `detach` on."""

    def can_tunnel(self, request: Request) -> bool:
        """Whether an upgrade, or a CONNECT, can be asked for with this request."""
        raise NotImplementedError

    def ask(
        self, asking: Asking, request: Request, target: bytes, fields: Fields, upgrade: bool, more: bool
    ) -> None:
        """Send a request's head and expect the response; with `more`, `send_piece` and `send_end` follow."""
        raise NotImplementedError

    def send_piece(self, piece: Piece) -> None:
        """Send more of the request's body."""
        raise NotImplementedError

    def send_end(self, trailers: Headers | None) -> None:
        """The request is complete."""
        raise NotImplementedError

    @property
    def body_left(self) -> int:
        """Bytes of a response body of known length that are still to come from `transport`, as they are."""
        raise NotImplementedError

    def skip(self, count: int) -> None:
        """These bytes of the body went by in the kernel (see `splice`); ends the response when all have."""
        raise NotImplementedError

    def pause(self) -> None:
        """Tell no more of the response for now: the client does not take it."""
        raise NotImplementedError

    def resume(self) -> None:
        """Go on after `pause`; nothing otherwise."""
        raise NotImplementedError

    def detach(self) -> bytes:
        """After an upgrade: what has come behind the head; from now on `tunnel` gets everything."""
        raise NotImplementedError

    def close(self) -> None:
        """Give up, asked or not; nothing more is told."""
        raise NotImplementedError


class Waiting:
    """Somebody who waits for a connection; see `Pool.wait`."""

    __slots__ = ("_over", "failed", "ready", "timer")

    def __init__(self, ready: Callable[[HttpClient], object], failed: Callable[[Refusal], object]) -> None:
        self.ready, self.failed = ready, failed
        self.timer: Any = None
        self._over = False

    @property
    def over(self) -> bool:
        """Whether nobody waits any more."""
        return self._over

    def cancel(self) -> None:
        """Wait no more; the pool is not told, it looks."""
        self._over = True
        timer, self.timer = self.timer, None
        if timer is not None and timer.active():
            timer.cancel()


class Pool:
    """The shared connections to one peer; see `http2_pool`."""

    __slots__ = ()

    def take(self) -> HttpClient | None:
        """A free place on a connection that is there."""
        raise NotImplementedError

    def wait(
        self,
        clock: Any,
        timeout: float,
        ready: Callable[[HttpClient], object],
        failed: Callable[[Refusal], object],
    ) -> Waiting:
        """Have a connection made if need be; one of both is called later, unless `Waiting.cancel` is.

        `timeout` is in seconds and for each address.
        """
        raise NotImplementedError

    def protocol(self, clock: Any, ready: Callable[[HttpClient], object]) -> IProtocol:
        """What a transport is given to that is not to be shared; `ready` is called as soon as it is there."""
        raise NotImplementedError

    def close_idle(self, unused_since: float) -> None:
        """Close what nobody has asked since then."""
        raise NotImplementedError

    def forget(self) -> None:
        """Keep nothing from now on."""
        raise NotImplementedError
