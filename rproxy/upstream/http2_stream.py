"""One request on an HTTP/2 connection to a peer, as its exchange sees it. Made by `http2_pool`.

Both directions are held back by whoever is slower. What the client sends waits as `http2_upload` has it; what
the peer sends is given back to the window of its stream when the client has taken it, and waits here, at most
that window, while the client does not.

A request that the peer has not looked at (RFC 9113 §8.7) moves to another connection, also when it is not
idempotent; for that the beginning of its body is kept until a response begins.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from rproxy.errors import NoPeer, PeerUnreachable, Refusal
from rproxy.policy.forwarding import upgrade_of
from rproxy.upstream.asking import Asking, HttpClient
from rproxy.upstream.connect import OUR_SHORTAGE
from rproxy.upstream.http2_again import Unserved
from rproxy.upstream.http2_tunnel import StreamTransport, switched
from rproxy.upstream.http2_upload import Upload
from rproxy.upstream.peer import NEVER
from rproxy.wire.http2_answers import PeerReset
from rproxy.wire.http2_events import ErrorCode
from rproxy.wire.message import Fields, Framing, Headers, Piece, Request, Response

if TYPE_CHECKING:
    from rproxy.upstream.http2_requests import Requests

_LENGTH: Final = Framing.LENGTH
_NONE: Final = Framing.NONE


class Http2Stream(Upload):
    """A stream: at first a place for one, then what is asked. What is public is for its connection."""

    def __init__(self, client: Requests) -> None:
        super().__init__(client)
        self.used, self.since = client.used, NEVER  # that it broke says nothing about other connections
        self.method = self.target = self.protocol = b""
        self.fields = Fields([])
        self.touched = False
        """Whether it was told something that its asker has not flushed."""
        self._silent, self._paused, self._complete, self._told_end = True, False, False, False
        self._inbox: deque[Piece] = deque()
        self._inbox_trailers: Headers | None = None

    def can_tunnel(self, request: Request) -> bool:
        """See `asking.HttpClient`: CONNECT, and WebSockets where the peer has said so (RFC 8441)."""
        return not request.upgrade or (
            upgrade_of(request).lower() == b"websocket" and self._client.takes_tunnels
        )

    def ask(
        self, asking: Asking, request: Request, target: bytes, fields: Fields, upgrade: bool, more: bool
    ) -> None:
        """See `asking.HttpClient`."""
        self._asking, self._request = asking, request
        self.method, self.target, self.fields = request.method, target, fields
        framing, tunnel = request.framing, upgrade or not request.path
        if upgrade:
            self.protocol = b"websocket"
        if framing is _LENGTH:
            fields.own.append((b"content-length", b"%d" % request.length))
        self._ended = self._sent_end = not more and not tunnel
        self._expect_length()
        self._client.begin(self)

    @property
    def body_left(self) -> int:
        """See `asking.HttpClient`: nothing comes as it is, all of it is in frames."""
        return 0

    def skip(self, count: int) -> None:
        """See `asking.HttpClient`; never called, for nothing is left that could be skipped."""

    def pause(self) -> None:
        """See `asking.HttpClient`."""
        self._paused = True

    def resume(self) -> None:
        """See `asking.HttpClient`. What waits is told in a turn of its own, see `wake`."""
        if self._paused:
            self._paused = False
            if self._outlives:
                self._client.clock.callLater(0, self._tell_rest)
            elif self._inbox or self._complete:
                self._client.wake_later(self)

    def wake(self) -> None:
        """The connection's call: tell what has waited for the client."""
        while self._inbox and not self._paused and self._hears:
            self._tell_piece(self._inbox.popleft())
        if self._complete and not self._inbox:
            self._tell_end()

    @property
    def _hears(self) -> bool:
        """Whether anybody wants to know what comes."""
        return self._asking is not None or self.tunnel is not None

    def head(self, response: Response, ended: bool) -> None:
        """The connection's call: a response, or an interim one."""
        asking = self._asking
        self._silent = False
        self._kept.drop()
        if asking is None:
            return
        if response.interim:
            asking.interim(response)
            return
        request = self._request
        assert request is not None
        self._client.answered()
        self._client.touch(self, asking)
        if ended and request.version >= 20 and b"content-length" not in response.headers.names:
            response.framing = _NONE  # what shows there by itself need not be told in a field
        if (self.protocol or request.method == b"CONNECT") and 200 <= response.status < 300:
            self.transport = StreamTransport(self)
            response = switched(response, request) if self.protocol else response
        asking.response(response)
        if ended:
            self._complete = True
            self._tell_end()

    def body(self, piece: Piece) -> None:
        """The connection's call: a piece of the response's body."""
        if self._paused or self._inbox:
            self._inbox.append(piece)
        elif self._hears:
            self._tell_piece(piece)

    def _tell_piece(self, piece: Piece) -> None:
        tunnel, asking = self.tunnel, self._asking
        if tunnel is not None:
            tunnel.dataReceived(bytes(piece))
        elif asking is not None:
            self._client.touch(self, asking)
            asking.piece(piece)
        self._client.codec.taken(self.number, len(piece))

    def end(self, trailers: Headers | None) -> None:
        """The connection's call: the response is complete."""
        self._complete, self._inbox_trailers = True, trailers
        if not self._inbox:
            self._tell_end()

    def _tell_end(self) -> None:
        pipe, asking = self._pipe, self._asking
        if pipe is not None and not self._told_end:
            self._told_end = True
            pipe.heard_end()
        elif asking is not None:
            self._asking = None
            self._stop_sending()  # the peer has answered without it
            self._client.touch(self, asking)
            self._client.finished(self, ErrorCode.NO_ERROR)
            asking.response_end(self._inbox_trailers)

    def asked_by(self, asking: Asking) -> bool:
        """Whether this asker still waits for something."""
        return self._asking is asking

    @property
    def heard_all(self) -> bool:
        """Whether the peer has said all it will say, and it has been told."""
        return self._complete and not self._inbox

    def detach(self) -> bytes:
        """See `asking.HttpClient`: nothing, for bodies come after heads."""
        self._asking = None
        self._pipe = self.transport
        return b""

    def was_reset(self, code: int) -> None:
        """The connection's call: the peer has reset the stream, and it is gone."""
        if code == ErrorCode.REFUSED_STREAM and self._silent:
            self.unserved()
        else:
            self.lost(PeerReset(code))

    def unserved(self) -> None:
        """The connection's call: the peer will not look at this stream, which is gone."""
        client = self._client
        if self._asking is None:
            if self._pipe is not None:
                self.lost(Unserved("it ends what it has agreed to"))
            return
        kept = None if client.alone else self._kept.take()
        if kept is None:
            self.lost(Unserved("it does not look at what it is asked"))
            return
        self._rewind(kept)
        self._moving = client.pool.wait_again(self._moved, self._not_moved)

    def leave_others(self) -> None:
        """The connection's call: it is not to be begun on a connection that others use."""
        self._moving = self._client.pool.search(self._moved, self._not_moved)

    def _moved(self, place: HttpClient) -> None:
        assert isinstance(place, Http2Stream)
        self._moving, self._client = None, place._client
        self.memory, self.used = place.memory, place.used
        self._client.begin(self)
        if self.wants_turn:
            self._client.give_turn(self)

    def _not_moved(self, refusal: Refusal) -> None:
        self._moving = None
        # What we have no room for says nothing about the peer, and nothing is held against one that was used.
        self.used = self.used or _is_our_own(refusal)
        self.lost(refusal)

    def lost(self, refusal: Refusal) -> None:
        """The connection's call: the stream is gone, and with it what came, unless that was all."""
        if self._complete and self._hears and not self._told_end:
            self._outlive()
            return
        asking, self._asking = self._asking, None
        self._drop()
        if self._pipe is not None:
            self._pipe.lost(refusal)
        elif asking is not None:
            asking.broken(refusal, self._silent)

    def _outlive(self) -> None:
        """All has come, and waits for its client only; who is held back need not wait, for nobody listens."""
        self._outlives = True
        self._stop_sending()
        self._take_more()
        self._client.clock.callLater(0, self._tell_rest)

    def _tell_rest(self) -> None:
        """What is left of what a peer has said whose stream is no more."""
        if self._pipe is not None:
            self.wake()
            return
        asking = self._asking
        if asking is None or self._paused:
            return
        while self._inbox and self.asked_by(asking) and not self._paused:
            asking.piece(self._inbox.popleft())
        if not self._inbox and self.asked_by(asking):
            self._asking = None
            asking.response_end(self._inbox_trailers)
        asking.flush()

    def close(self) -> None:
        """See `asking.HttpClient`. RFC 9113 §8.7: whoever does not want an answer cancels."""
        self._asking = None
        moving, self._moving = self._moving, None
        if moving is not None:
            moving.cancel()
        else:
            self._client.finished(self, ErrorCode.CANCEL)
        self._drop()

    def _drop(self) -> None:
        self._stop_sending()
        self._inbox.clear()
        self._kept.drop()


def _is_our_own(refusal: Refusal) -> bool:
    """Whether it is we who could not make a connection: there are enough of them, or no file is left."""
    return isinstance(refusal, NoPeer) or (
        isinstance(refusal, PeerUnreachable) and refusal.code in OUR_SHORTAGE
    )
