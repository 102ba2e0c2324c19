"""A proxy for HTTP/2 in the test's hands: as `http_world`, and a client that speaks it by the library."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    InformationalResponseReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes

from tests.http_world import Stream, World

Fields = list[tuple[bytes, bytes]]


@dataclass
class Heard:
    """What has come on a stream."""

    fields: Fields = field(default_factory=list)
    body: bytes = b""
    trailers: Fields | None = None
    ended: bool = False
    reset: int | None = None
    uncredited: int = 0

    def get(self, name: bytes) -> bytes | None:
        return dict(self.fields).get(name)


@dataclass
class Answer(Heard):
    """The same for a client."""

    status: int = 0
    interim: list[int] = field(default_factory=list)


H = TypeVar("H", bound=Heard)


class Speaking(Generic[H]):
    """One end of an HTTP/2 connection, which says what it is told to, also what it should not.

    With `credit` it gives windows back at once.
    """

    client_side: bool

    def __init__(self, world: World, wire: Stream, *, credit: bool, settings: dict[int, int] | None) -> None:
        self.world, self.wire, self.credit = world, wire, credit
        config = H2Configuration(
            client_side=self.client_side,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            header_encoding=None,
        )
        self.h2 = H2Connection(config)
        if self.client_side:
            self.h2.local_settings.enable_push = 0
        for code, value in (settings or {}).items():
            self.h2.local_settings[SettingCodes(code)] = value
        self.h2.local_settings.acknowledge()
        self.h2.initiate_connection()
        self.heard: dict[int, H] = {}
        self.gone: ConnectionTerminated | None = None
        self.closed = b""
        self.take()

    def heard_on(self, number: int) -> H:
        """What has come on a stream; something to be forgotten where that is none of ours."""
        raise NotImplementedError

    def flush(self) -> None:
        octets = self.h2.data_to_send()
        if octets:
            self.wire.send(octets)

    def send(self, number: int, octets: bytes, *, end: bool = False) -> Self:
        self.h2.send_data(number, octets, end_stream=end)
        self.flush()
        return self

    def upload(self, number: int, octets: bytes, *, end: bool = True) -> int:
        """As much of a body as the windows allow; how much that was."""
        sent = 0
        while sent < len(octets):
            room = min(self.h2.local_flow_control_window(number), 16384, len(octets) - sent)
            if room <= 0:
                self.take()
                if self.h2.local_flow_control_window(number) <= 0:
                    break
                continue
            self.send(number, octets[sent : sent + room], end=end and sent + room == len(octets))
            sent += room
        self.take()
        return sent

    def reset(self, number: int, code: int = 8) -> Self:
        self.h2.reset_stream(number, code)
        self.flush()
        return self

    def take(self) -> dict[int, H]:
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
                self._note(event, self.heard_on(getattr(event, "stream_id", 0) or 0))
            if self.wire.open:
                self.flush()
        return self.heard

    def _note(self, event: Any, heard: H) -> None:
        match event:
            case DataReceived():
                heard.body += event.data
                size = event.flow_controlled_length
                if self.credit:
                    self.h2.acknowledge_received_data(size, event.stream_id)
                else:
                    heard.uncredited += size
            case TrailersReceived():
                heard.trailers = [(bytes(name), bytes(value)) for name, value in event.headers]
            case StreamEnded():
                heard.ended = True
            case StreamReset():
                heard.reset = int(event.error_code)
            case ConnectionTerminated():
                self.gone = event


class Http2World(World):
    """A clear-text port with clients that speak HTTP/2."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.front.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as `services.listeners` does

    def client(
        self, *, credit: bool = True, settings: dict[int, int] | None = None, **options: Any
    ) -> Client:
        """A client that has said its preface."""
        return Client(self, self.connect(**options), credit=credit, settings=settings)

    def wait(self, seconds: float) -> None:
        """Time goes by; kernels acknowledge what they have, which takes them 40 ms of real time else."""
        while seconds > 0:
            for stream in self.streams:
                if stream.socket.fileno() >= 0:
                    stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            super().wait(min(seconds, 1.0))
            seconds -= 1.0

    @property
    def server(self) -> Any:
        """The latest connection's `Http2Server`."""
        return self.servers[-1]._become._instead


class Client(Speaking[Answer]):
    """An HTTP/2 client."""

    client_side = True

    @property
    def answers(self) -> dict[int, Answer]:
        """What has come, by its streams."""
        return self.heard

    def heard_on(self, number: int) -> Answer:
        return self.heard.get(number, Answer())

    def begin(
        self, path: bytes = b"/x", *fields: tuple[bytes, bytes], method: bytes = b"GET", end: bool = True
    ) -> int:
        """Begin a request; its stream."""
        pseudo = [(b":method", method), (b":scheme", b"http"), (b":authority", b"a"), (b":path", path)]
        return self.raw([*pseudo, *fields], end=end)

    def raw(self, fields: Fields, *, end: bool = True) -> int:
        """Begin a request with these fields."""
        number = self.h2.get_next_available_stream_id()
        self.h2.send_headers(number, fields, end_stream=end)
        self.heard[number] = Answer()
        self.flush()
        return number

    def download(self, peer: Stream, octets: bytes) -> int:
        """A peer sends these bytes while the client takes them; how many the peer got rid of."""
        sent = quiet = 0
        while sent < len(octets) and quiet < 3:
            now = peer.push(octets[sent : sent + (1 << 20)])
            self.take()
            sent, quiet = sent + now, 0 if now else quiet + 1
        self.take()
        return sent

    def _note(self, event: Any, heard: Answer) -> None:
        match event:
            case ResponseReceived():
                heard.fields = [(bytes(name), bytes(value)) for name, value in event.headers]
                heard.status = int(heard.fields[0][1])
            case InformationalResponseReceived():
                heard.interim.append(int(dict(event.headers)[b":status"]))
            case _:
                super()._note(event, heard)
