"""HTTP/2 without I/O, the client's end: bytes in, events out; calls in, bytes out. Owned by `upstream`.

    codec.start()                    once; preface and SETTINGS are then in the output
    codec.hear(bytes, now)           events, whenever bytes came; again with none while `codec.unread`
    codec.head(...)                  a request's head, encoded
    codec.begin(...)                 a request with this head, on the stream whose number it gives
    codec.send_body(...), send_trailers, reset, taken, ping, goaway
    codec.output()                   what has to be written now

What both ends have in common is in `http2_connection`; here are the responses. One connection carries what
many clients have asked for, so nothing that one of them does, or leaves undone, may harm the others: the
window of the connection is given back at once, that of a stream when its client has taken what came; and what
still comes for streams that we have reset is no breach, however many they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast

from . import http2_settings as names
from .http1 import MAX_INTERIM
from .http2_answers import ResponseFields
from .http2_asks import RequestEncoder
from .http2_connection import Connection
from .http2_events import Body, ErrorCode, Event
from .http2_frames import LAST_STREAM, MAX_FRAME, PREFACE, Breach, Frame, FrameReader
from .http2_gate import MAX_HEAD, Account, Gate
from .http2_head import Malformed
from .http2_speaker import StreamState
from .message import Fields, Framing, Pair, Response

MORE_CHORES: Final = 10000.0
"""Units of account (see `http2_gate`) for what a peer says that is no answer: 20 times as much as a client
has, for many share the connection, and peers that speak gRPC ping and open windows for each message."""
MORE_PER_SECOND: Final = 2000.0
"""Units that come back: 1 % of a core, whatever the peer does."""
MORE_CRUMBS: Final = 400000.0
"""Units for bodies in small pieces, 20 times as many as well: the windows of 100 streams may open at once."""
MORE_CRUMBS_PER_SECOND: Final = 40000.0
"""Units that come back: 100 clients may each be told 2000 of the smallest messages a second."""
_EARNED_BY_DATA: Final = 4

_NONE: Final = Framing.NONE
_LENGTH: Final = Framing.LENGTH


class ResponseHead(NamedTuple):
    """A response begins, or is announced: it may be an interim one."""

    stream: int
    response: Response
    ended: bool
    """Whether there is no body; then no `End` follows."""


class Settled(NamedTuple):
    """The peer has said its SETTINGS, the first ones or others."""


class Draining(NamedTuple):
    """The peer has sent GOAWAY: it will not look at streams above `last`, nor at new ones."""

    last: int
    code: int


Answer = Event | ResponseHead | Settled | Draining
"""What `hear` gives. `RequestHead`, `RefusedHead` and `Leaving` are a server's, and never come."""


class Http2ClientCodec(Connection):
    """One connection. `now` is in seconds, from any clock."""

    def __init__(self, now: float) -> None:
        super().__init__(_PeerGate(now), FrameReader(b""))
        self._asks, self._answers = RequestEncoder(), ResponseFields()
        self._next = 1
        self.most = LAST_STREAM
        """Streams that the peer takes at a time."""
        self.takes_tunnels = False
        """Whether the peer knows extended CONNECT (RFC 8441 §3)."""

    @property
    def used_up(self) -> bool:
        """Whether there is no number left for another stream (RFC 9113 §5.1.1)."""
        return self._next > LAST_STREAM

    def start(self) -> None:
        """Say who we are (RFC 9113 §3.4), and that nothing is to be pushed."""
        self._out.append(PREFACE)
        self.say_settings(
            (
                (names.ENABLE_PUSH, 0),
                (names.MAX_FRAME_SIZE, MAX_FRAME),
                (names.MAX_HEADER_LIST_SIZE, MAX_HEAD),
            )
        )

    def hear(self, octets: bytes, now: float) -> Sequence[Answer]:
        """What these bytes, and those before, say. `Broken` comes alone, and nothing follows it."""
        answers: Any = self.receive(octets, now)
        return cast(Sequence[Answer], answers)

    def head(
        self, method: bytes, scheme: bytes, target: bytes, fields: Fields, protocol: bytes = b""
    ) -> bytes:
        """A request's head as it goes out; `fields` have Host, which becomes `:authority`.

        `protocol` makes it an extended CONNECT. Raises `ValueError` for what cannot be written.
        """
        return self._asks.request(method, scheme, target, fields, protocol)

    def begin(self, method: bytes, block: bytes, end: bool) -> int:
        """Send a head; the stream it is on. With `end` that is all of the request."""
        number = self._next
        self._next = number + 2
        state = self._streams[number] = AskedState(number, self._first_room, method)
        self.send_block(number, block, end)
        if end:
            self._end_output(state)
        return number

    def goaway(self, code: ErrorCode) -> None:
        """Say that we leave; no stream of the peer's has ever begun."""
        self.say_goaway(0, code)

    def is_idle(self, stream: int) -> bool:
        """Also those with an even number, which nobody may begin."""
        return stream >= self._next or not stream & 1

    def last_begun(self) -> int:
        """The peer begins none."""
        return 0

    def settings_are(self, said: dict[int, int]) -> None:
        """How many streams it takes, and of what kind."""
        if said.get(names.ENABLE_PUSH, 0):
            raise Breach(ErrorCode.PROTOCOL_ERROR, "a server that wants to be pushed to")
        self.most = said.get(names.MAX_CONCURRENT_STREAMS, self.most)
        self.takes_tunnels = bool(said.get(names.ENABLE_CONNECT_PROTOCOL, self.takes_tunnels))
        self._tell(Settled())

    def leaving(self, last: int, code: int) -> None:
        """What it will not look at may be asked elsewhere."""
        self._tell(Draining(last, code))

    def check_late(self, stream: int) -> None:
        """As many may be late as clients have left; who has ended a stream and goes on is a nuisance only."""
        if self.is_idle(stream):
            raise Breach(ErrorCode.PROTOCOL_ERROR, "frame for a stream that never was")

    def head_of_none(self, stream: int, fields: list[Pair], ends: bool) -> None:
        """The answer to what nobody wants to know any more, if to anything."""
        self.check_late(stream)
        self._gate.stray()

    def head_of_open(self, state: StreamState, fields: list[Pair], ends: bool) -> None:
        """A response, or the trailers of one."""
        asked = cast(AskedState, state)
        if asked.answered:
            self.take_trailers(state, fields, ends)
            return
        try:
            response = self._answers.response(fields, asked.method, ends)
            asked.note(response)
        except Malformed as refusal:
            self.fail(state, refusal)
            return
        if ends:
            self.end_input(state)
        self._tell(ResponseHead(state.number, response, ends))

    def _tell_piece(self, body: Body) -> None:
        self._give_back(body.credit)
        super()._tell_piece(body)

    def _tell(self, answer: Any) -> None:
        """An event that only this end of a connection has."""
        self._events.append(answer)


class AskedState(StreamState):
    """A stream with a request on it."""

    __slots__ = ("_interim", "answered", "method")

    def __init__(self, number: int, room: int, method: bytes) -> None:
        super().__init__(number, room)
        self.method = method
        self.answered = False
        """Whether the final response has begun."""
        self._interim = 0

    def note(self, response: Response) -> None:
        """A head has come: what is to follow. Raises `Malformed` if it is one of too many interim ones."""
        if response.status < 200:
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise Malformed("too many interim responses")
            return
        self.answered = True
        if response.framing is _LENGTH:
            self.left = response.length
        elif response.framing is _NONE and (self.method != b"CONNECT" or response.status >= 300):
            self.left = 0


class _PeerGate(Gate):
    """The accounts of a peer, which is trusted more than clients are, and shared by many of them.

    Bytes of body that come late, for streams that we have reset, cost no more than those that come in time:
    whole windows of them may be under way. Resets cost nothing: there are no more of them than requests.
    """

    def __init__(self, now: float) -> None:
        super().__init__(0, now)
        self._chores = Account(MORE_CHORES, MORE_PER_SECOND, now)
        self._crumbs = Account(MORE_CRUMBS, MORE_CRUMBS_PER_SECOND, now)

    def _measure_data(self, frame: Frame, opened: Any) -> None:
        if not frame.size:
            super()._measure_data(frame, opened)

    def piece(self, size: int) -> None:
        """See `Gate`; the more it brings, the more it may talk."""
        super().piece(size)
        self._chores.earn(_EARNED_BY_DATA)

    def reset(self) -> None:
        """A stream was reset by the peer, or by us for what it has said."""
