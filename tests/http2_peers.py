"""A proxy whose peers are spoken to in HTTP/2, and such peers in the test's hands, by the library."""

from __future__ import annotations

import socket
from typing import Any

from h2.events import PingAckReceived, PingReceived, RequestReceived
from h2.settings import SettingCodes

from rproxy.upstream.http2_pool import Http2Pool
from rproxy.upstream.http_client import HttpPeer
from tests.http2_world import Fields, Heard, Http2World, Speaking
from tests.http_world import Stream, World

OK: Fields = [(b":status", b"200")]


class Http2PeerWorld(Http2World):
    """Clients speak what they like."""

    keep = 64

    def _peer(self, listening: socket.socket) -> HttpPeer:
        host, port = listening.getsockname()
        return HttpPeer(
            f"{host}:{port}",
            authority=b"peer",
            fixed=[(socket.AF_INET, (host, port))],
            http2=Http2Pool,
            keep=self.keep,
        )

    def peer(self, number: int = 0, **options: Any) -> Peer:
        """The connection that the proxy has made to this peer, which says its SETTINGS."""
        return Peer(self, self.asked(number), **options)

    @property
    def pool(self) -> Any:
        """The first peer's."""
        return self.peers[0].pool

    def end(self) -> None:
        """Nothing is left of the connections to peers either."""
        pools: list[Any] = [peer.pool for peer in self.peers]
        super().end()
        assert [pool.connections for pool in pools] == [[]] * len(pools)
        assert [(pool._queue, pool._dial, pool._making) for pool in pools] == [({}, None, None)] * len(pools)


class Peer(Speaking[Heard]):
    """An HTTP/2 server."""

    client_side = False

    def __init__(
        self, world: World, wire: Stream, *, credit: bool = True, settings: dict[int, int] | None = None
    ) -> None:
        self.pings: list[bytes] = []
        super().__init__(world, wire, credit=credit, settings=settings)

    @property
    def asked(self) -> dict[int, Heard]:
        """What has come, by its streams."""
        return self.heard

    def heard_on(self, number: int) -> Heard:
        return self.heard.setdefault(number, Heard()) if number else Heard()

    def raw(self, octets: bytes) -> None:
        """Bytes that the library knows nothing of."""
        self.wire.send(octets)
        self.take()

    @property
    def latest(self) -> Heard:
        """The last request that has come."""
        return self.take()[max(self.heard)]

    def respond(self, number: int, fields: Fields = OK, *, end: bool = False) -> Peer:
        self.h2.send_headers(number, fields, end_stream=end)
        self.flush()
        return self

    def answer(self, number: int, octets: bytes, fields: Fields = OK) -> Peer:
        """A whole response."""
        return self.respond(number, fields).send(number, octets, end=True)

    def upload(self, number: int, octets: bytes, *, end: bool = False) -> int:
        """As a client's; the response goes on after it."""
        return super().upload(number, octets, end=end)

    def trailers(self, number: int, fields: Fields) -> Peer:
        return self.respond(number, fields, end=True)

    def goaway(self, last: int, code: int = 0) -> Peer:
        payload = last.to_bytes(4, "big") + code.to_bytes(4, "big")
        self.wire.send(b"\0\0\x08\x07\0\0\0\0\0" + payload)
        return self

    def set(self, **settings: int) -> Peer:
        """Other SETTINGS from now on."""
        self.h2.update_settings({SettingCodes[name.upper()]: value for name, value in settings.items()})
        self.flush()
        return self.done()

    def done(self) -> Peer:
        self.take()
        return self

    def _note(self, event: Any, heard: Heard) -> None:
        match event:
            case RequestReceived():
                heard.fields = [(bytes(name), bytes(value)) for name, value in event.headers]
            case PingReceived() | PingAckReceived():
                self.pings.append(event.ping_data)
            case _:
                super()._note(event, heard)
