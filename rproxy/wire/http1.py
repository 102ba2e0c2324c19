"""HTTP/1.1 without I/O: a reader of requests for `downstream`, one of responses for `upstream`.

    reader.receive(bytes)            whenever bytes came
    reader.read_head()               a Request or Response, or None: more bytes are needed
    reader.read_body()               pieces, until it gives none; then `complete` says whether more will come

One reader per connection. It refuses what two parsers could read differently and never repairs it; after a
refusal it gives out nothing more, so that no byte behind a fault becomes a request. Heads, chunk lines and
trailers are bounded and read in linear time however they are cut; the grammar is in `http1_head`,
`http1_fields` and `http1_body`. What is written comes from `http1_write`.
"""

from __future__ import annotations

from typing import Final

from rproxy.errors import Refusal
from rproxy.native import heads

from . import http1_head as head
from .http1_body import HEAD, IDLE, REFUSED, TUNNEL, MessageReader, Phase
from .http1_fields import Facts, Known, read_facts
from .message import BadRequest, BadResponse, Framing, HeadTooLarge, Request, Response

MAX_HEAD: Final = 65536
"""Bytes of a head with its empty line: what one connection may make us hold before it says anything useful.
nginx takes 32 KiB and HAProxy 16 by default, Node 16; single sign-on cookies reach 20."""
MAX_INTERIM: Final = 16
"""1xx responses before a final one: real peers send one or two; one that never ends would hold the client."""
MAX_REMEMBERED: Final = 2048
"""Bytes of a field section kept to recognise its repetition: browsers send 600 to 1500. A kept-alive client's
head then takes 2.6 to 3.0 µs (5 and 12 fields) instead of 7.4 to 11.5, for 1.4 to 3.6 KiB a connection."""

_NONE: Final = Framing.NONE
_plain_request: Final = heads.plain_request
_plain_response: Final = heads.plain_response
_NO_FIELDS: Final = read_facts(b"")
_GOOD: Final = (11, 200, b"OK", 0)


class HeadReader(MessageReader):
    """What reading a head means in both roles: find its end, check what is there meanwhile.

    Most clients and peers repeat their fields, byte for byte, on a kept-alive connection. The facts of the
    last field section are kept and used again if the next is the same; `forget` drops them.
    """

    __slots__ = ("_block", "_facts", "_known", "_line")

    def __init__(self, after: Phase, known: Known | None = None) -> None:
        super().__init__(after)
        self._known = known
        self._block, self._facts = b"", _NO_FIELDS
        # Length of the first line once it was checked ahead of the rest, else 0.
        self._line = 0

    def forget(self) -> None:
        """Free the memory of the last field section, when the connection goes idle for long."""
        self._block, self._facts = b"", _NO_FIELDS

    def _find_head(self) -> int:
        """The offset of the empty line behind a complete head, or -1; raises `BadRequest` early."""
        at = self._at
        end = self._buffer.find(b"\r\n\r\n", self._seen, at + MAX_HEAD)
        if end < 0 and len(self._buffer) > at:
            self._check_partial_head(at)
        return end

    def _check_partial_head(self, at: int) -> None:
        """Refuse a head that cannot become a good one; looks at each byte once."""
        if not self._line:
            self._line = max(0, self._check_partial_line(at) - at)
        if self._line:
            self._check_partial_lines(at + self._line, at + MAX_HEAD)
            if len(self._buffer) - at >= MAX_HEAD:
                raise HeadTooLarge("head too large")
        self._look_again_from(len(self._buffer) - 3)

    def _check_partial_line(self, at: int) -> int:
        """The offset behind the first line if it is complete and good, -1 if incomplete."""
        raise NotImplementedError

    def _read_facts(self, block: bytes) -> Facts:
        facts = read_facts(block) if self._known is None else self._known.read(block)
        if len(block) <= MAX_REMEMBERED:
            self._facts, self._block = facts, block
        return facts

    def _end_head(self, end: int) -> None:
        self._advance(end)
        self._line = 0
        self.trailers = None


class RequestReader(HeadReader):
    """The server role. After an Upgrade request the owner decides: `read_head` for more HTTP, or `take_rest`.

    Requests may be pipelined: what follows one stays unread until `read_head` is called again.
    """

    __slots__ = ()

    def __init__(self, known: Known | None = None) -> None:
        """`known` is what other connections have said, for them to share."""
        super().__init__(HEAD, known)

    @property
    def idle(self) -> bool:
        """Whether the client may close now without having cut a request short."""
        return self._phase is HEAD and self._at == len(self._buffer)

    def read_head(self) -> Request | None:
        """The next request, or None while its head is incomplete; only when the one before is `complete`.

        Raises `BadRequest` or a kind of it; then the connection is to be answered and closed.
        """
        if self._phase is not HEAD:
            raise self._wrong_phase()
        try:
            request = self._read_plain()
            if request is None:
                end = self._find_head()
                request = None if end < 0 else self._read_request(end)
        except BadRequest as refusal:
            raise self._refuse(refusal)
        return request

    def _read_plain(self) -> Request | None:
        """The next request in one pass, if it is all there and plain, as nearly every one is."""
        buffer = self._buffer
        found = _plain_request(buffer, self._at, self._block) if isinstance(buffer, bytes) else None
        if found is None:
            return None
        method, target, block, end = found
        return self._begin((method, target, 11, 0), block, end)

    def _read_request(self, end: int) -> Request:
        buffer = self._settled()
        line = head.read_request_line(buffer, self._at)
        block = buffer[line[3] : end + 2]
        return self._begin(line, None if block == self._block else block, end + 4)

    def _begin(self, line: head.RequestLine, block: bytes | None, end: int) -> Request:
        """`block` is None if it is that of the last head; `end` is the offset behind the head."""
        request = head.make_request(line, self._facts if block is None else self._read_facts(block))
        self._end_head(end)
        if request.framing is not _NONE:
            self._start_body(request.framing, request.length)
        return request

    def _check_partial_line(self, at: int) -> int:
        end = head.check_partial_request_line(self._buffer, at, self._seen)
        if end >= 0:
            head.read_request_line(bytes(self._buffer[at:end]), 0)
        return end


class ResponseReader(HeadReader):
    """The client role: `expect` says what was asked, `read_head` gives interim responses, then the final one.

    Every fault of the peer is a `BadResponse`.
    """

    __slots__ = ("_interim", "_keep_alive", "_method", "_upgrade")

    def __init__(self) -> None:
        super().__init__(IDLE)
        self._method = b""
        self._upgrade = False
        self._interim = 0
        self._keep_alive = True

    @property
    def reusable(self) -> bool:
        """Whether the connection may carry another request: all was read, nothing is left over."""
        return self._phase is IDLE and self._keep_alive and self._at == len(self._buffer)

    @property
    def silent(self) -> bool:
        """Whether a response is expected and not a byte of it came: what a retry on another peer asks."""
        return self._phase is HEAD and not self._interim and self._at == len(self._buffer)

    def expect(self, method: bytes, upgrade: bool = False) -> None:
        """Get ready for the response to a `method` request, which asked for an upgrade or not.

        Only when the connection is `reusable`: bytes that came unasked are never taken for a response.
        """
        if not self.reusable:
            raise RuntimeError("the connection cannot be used again")
        self._method, self._upgrade, self._interim = method, upgrade, 0
        self._phase = HEAD

    def read_head(self) -> Response | None:
        """The next response, or None while its head is incomplete; after an interim one, call again.

        A 101, or a 2xx to CONNECT, ends HTTP on this connection: `take_rest` has what came behind it.
        """
        if self._phase is not HEAD:
            raise self._wrong_phase()
        try:
            response = self._read_plain()
            if response is None:
                end = self._find_head()
                response = None if end < 0 else self._read_response(end)
        except BadRequest as fault:
            raise self._refuse(self._translate(fault))
        except BadResponse as refusal:
            raise self._refuse(refusal)
        return response

    def close(self) -> None:
        """Note that the peer closed its side: the end of a body without length, too early for anything else.

        Call it when `read_head` or `read_body` had nothing more to give. Raises `BadResponse` if the response
        was cut short.
        """
        if self._phase is Phase.UNTIL_CLOSE and not self.unread:
            self._phase = IDLE
        self._keep_alive = False
        if self._phase is not IDLE and self._phase is not TUNNEL and self._phase is not REFUSED:
            raise self._refuse(BadResponse("response cut short"))

    def _read_plain(self) -> Response | None:
        """The next response in one pass, if it is all there and plain, as nearly every one is."""
        buffer = self._buffer
        found = _plain_response(buffer, self._at, self._block) if isinstance(buffer, bytes) else None
        return None if found is None else self._begin(_GOOD, found[0], found[1])

    def _read_response(self, end: int) -> Response:
        buffer = self._settled()
        line = head.read_status_line(buffer, self._at)
        block = buffer[line[3] : end + 2]
        return self._begin(line, None if block == self._block else block, end + 4)

    def _begin(self, line: head.StatusLine, block: bytes | None, end: int) -> Response:
        """`block` is None if it is that of the last head; `end` is the offset behind the head."""
        response = head.make_response(
            line, self._facts if block is None else self._read_facts(block), self._method
        )
        self._end_head(end)
        if response.status < 200:
            self._read_interim(response)
        elif self._method == b"CONNECT" and response.status < 300:
            self._phase = TUNNEL
        else:
            self._keep_alive = response.keep_alive
            if response.framing is _NONE:
                self._phase = IDLE
            else:
                self._start_body(response.framing, response.length)
        return response

    def _read_interim(self, response: Response) -> None:
        self._interim += 1
        if response.status == 101:
            if not self._upgrade:
                raise BadResponse("upgrade that was not asked for")
            self._phase = TUNNEL
        elif self._interim > MAX_INTERIM:
            raise BadResponse("too many interim responses")

    def _translate(self, refusal: BadRequest) -> Refusal:
        return BadResponse(*refusal.args)

    def _check_partial_line(self, at: int) -> int:
        end = head.check_partial_status_line(self._buffer, at, self._seen)
        if end >= 0:
            head.read_status_line(bytes(self._buffer[at:end]), 0)
        return end
