"""A proxy whose peers are spoken to in HTTP/2, and such peers in the test's hands, by the library."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    PingAckReceived,
    PingReceived,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes

from rproxy.upstream.http2_pool import Http2Pool
from rproxy.upstream.http_client import HttpPeer
from tests.http2_world import Fields, Http2World
from tests.http_world import Stream, World

OK: Fields = [(b":status", b"200")]


@dataclass
class Asked:
    """What has come on a stream."""

    fields: Fields = field(default_factory=list)
    body: bytes = b""
    trailers: Fields | None = None
    ended: bool = False
    reset: int | None = None
    uncredited: int = 0

    def get(self, name: bytes) -> bytes | None:
        return dict(self.fields).get(name)


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


class Peer:
    """An HTTP/2 server that says what it is told to, also what it should not."""

    def __init__(
        self, world: World, wire: Stream, *, credit: bool = True, settings: dict[int, int] | None = None
    ) -> None:
        self.world, self.wire, self.credit = world, wire, credit
        config = H2Configuration(
            client_side=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=True,
            header_encoding=None,
        )
        self.h2 = H2Connection(config)
        for code, value in (settings or {}).items():
            self.h2.local_settings[SettingCodes(code)] = value
        self.h2.local_settings.acknowledge()
        self.h2.initiate_connection()
        self.asked: dict[int, Asked] = {}
        self.gone: ConnectionTerminated | None = None
        self.pings: list[bytes] = []
        self.closed = b""
        self.take()

    def flush(self) -> None:
        octets = self.h2.data_to_send()
        if octets:
            self.wire.send(octets)

    def raw(self, octets: bytes) -> None:
        """Bytes that the library knows nothing of."""
        self.wire.send(octets)
        self.take()

    @property
    def latest(self) -> Asked:
        """The last request that has come."""
        return self.take()[max(self.asked)]

    def respond(self, number: int, fields: Fields = OK, *, end: bool = False) -> Peer:
        self.h2.send_headers(number, fields, end_stream=end)
        self.flush()
        return self

    def send(self, number: int, octets: bytes, *, end: bool = False) -> Peer:
        self.h2.send_data(number, octets, end_stream=end)
        self.flush()
        return self

    def answer(self, number: int, octets: bytes, fields: Fields = OK) -> Peer:
        """A whole response."""
        return self.respond(number, fields).send(number, octets, end=True)

    def upload(self, number: int, octets: bytes) -> int:
        """As much of a body as the windows allow; how much that was."""
        sent = 0
        while sent < len(octets):
            room = min(self.h2.local_flow_control_window(number), 16384, len(octets) - sent)
            if room <= 0:
                self.take()
                if self.h2.local_flow_control_window(number) <= 0:
                    break
                continue
            self.send(number, octets[sent : sent + room])
            sent += room
        self.take()
        return sent

    def trailers(self, number: int, fields: Fields) -> Peer:
        return self.respond(number, fields, end=True)

    def reset(self, number: int, code: int = 8) -> Peer:
        self.h2.reset_stream(number, code)
        self.flush()
        return self

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

    def take(self) -> dict[int, Asked]:
        """What has come by now."""
        self.flush()
        for _ in range(1000):
            got = self.wire.read()
            for end in (b"<end>", b"<reset>"):
                if got.endswith(end):
                    self.closed, got = end, got[: -len(end)]
            if not got:
                break
            for event in self.h2.receive_data(got):
                self._note(event)
            if self.wire.open:
                self.flush()
        return self.asked

    def _note(self, event: Any) -> None:
        number = getattr(event, "stream_id", 0) or 0
        asked = self.asked.setdefault(number, Asked()) if number else Asked()
        match event:
            case RequestReceived():
                asked.fields = [(bytes(name), bytes(value)) for name, value in event.headers]
            case DataReceived():
                asked.body += event.data
                size = event.flow_controlled_length
                if self.credit:
                    self.h2.acknowledge_received_data(size, event.stream_id)
                else:
                    asked.uncredited += size
            case TrailersReceived():
                asked.trailers = [(bytes(name), bytes(value)) for name, value in event.headers]
            case StreamEnded():
                asked.ended = True
            case StreamReset():
                asked.reset = int(event.error_code)
            case PingReceived() | PingAckReceived():
                self.pings.append(event.ping_data)
            case ConnectionTerminated():
                self.gone = event
