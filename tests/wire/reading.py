"""Drives the HTTP/1 readers over bytes in any cut, for the tests of the codec."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

from rproxy.errors import Refusal
from rproxy.wire.http1 import RequestReader, ResponseReader
from rproxy.wire.http1_body import MessageReader
from rproxy.wire.http1_fields import Known
from rproxy.wire.http1_write import chunk, framing_pairs, last_chunk, request_head
from rproxy.wire.message import Framing, Headers, Request, Response

T = TypeVar("T")
H = TypeVar("H", Request, Response)
COMMON = ("version", "headers", "framing", "length", "keep_alive", "connection", "upgrade")
PARTS: dict[type, tuple[str, ...]] = {
    Request: (*COMMON, "method", "target", "path", "authority", "scheme", "expects_continue"),
    Response: (*COMMON, "status", "reason"),
}
FRAMING = {b"content-length", b"transfer-encoding"}


class Read(NamedTuple):
    """One message as far as it was read."""

    head: Request | Response
    body: bytes
    complete: bool
    trailers: Headers | None


class Transcript(NamedTuple):
    """Everything a reader gave for some bytes: messages, the status of a refusal, bytes left over."""

    messages: list[Read]
    refused: int | None
    rest: bytes


def request_of(data: bytes) -> Request:
    """The only request of `data`, whose head is complete."""
    (message,) = requests([data]).messages
    assert isinstance(message.head, Request)
    return message.head


def changed(message: H, **others: Any) -> H:
    """The same request or response with some of its parts different."""
    parts = {name: getattr(message, name) for name in PARTS[type(message)]}
    return type(message)(**parts | others)


def request_with(*lines: bytes, version: bytes = b"1.1", start: bytes = b"POST /") -> Request:
    """The request of such a head, with Host `a` and `lines` behind it."""
    fields = b"".join(line + b"\r\n" for line in lines)
    return request_of(start + b" HTTP/" + version + b"\r\nHost: a\r\n" + fields + b"\r\n")


def requests(pieces: Iterable[bytes], known: Known | None = None) -> Transcript:
    """All requests that `pieces` hold, read as eagerly as possible."""
    return _drive(RequestReader(known), pieces)


def responses(pieces: Iterable[bytes], method: bytes = b"GET", upgrade: bool = False) -> Transcript:
    """The interim and final response that `pieces` hold, followed by the end of the connection."""
    reader = ResponseReader()
    reader.expect(method, upgrade)
    transcript = _drive(reader, pieces)
    if transcript.refused is not None:
        return transcript
    try:
        reader.close()
    except Refusal as refusal:
        return transcript._replace(refused=refusal.status)
    last = transcript.messages[-1]
    return transcript._replace(messages=[*transcript.messages[:-1], last._replace(complete=reader.complete)])


def _drive(reader: RequestReader | ResponseReader, pieces: Iterable[bytes]) -> Transcript:
    messages: list[Read] = []
    try:
        for piece in pieces:
            reader.receive(piece)
            _read_all(reader, messages)
    except Refusal as refusal:
        return Transcript(messages, refusal.status, b"")
    return Transcript(messages, None, bytes(reader._buffer[reader._at :]))


def _read_all(reader: RequestReader | ResponseReader, messages: list[Read]) -> None:
    while True:
        if messages and not messages[-1].complete:
            body, fault = drain(reader)
            messages[-1] = messages[-1]._replace(
                body=messages[-1].body + body, complete=reader.complete, trailers=reader.trailers
            )
            if fault is not None:
                raise fault
        if reader._phase.name != "HEAD":
            return
        head = reader.read_head()
        if head is None:
            return
        interim = isinstance(head, Response) and head.status < 200
        messages.append(Read(head, b"", interim or reader.complete, None))


def drain(reader: MessageReader) -> tuple[bytes, Refusal | None]:
    """The body bytes there are, and the refusal that ended them."""
    pieces = []
    try:
        while piece := reader.read_body():
            pieces.append(bytes(piece))
    except Refusal as refusal:
        return b"".join(pieces), refusal
    return b"".join(pieces), None


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """`data` whole, in two at every place, and byte by byte."""
    yield [data]
    for place in range(1, len(data)):
        yield [data[:place], data[place:]]
    yield [data[place : place + 1] for place in range(len(data))]


def however_cut(read: Callable[[list[bytes]], T], data: bytes) -> T:
    """What `read` makes of `data`, which must be the same for every cut."""
    whole = read([data])
    for pieces in cuts(data):
        assert read(pieces) == whole, pieces
    return whole


def forwarded(message: Read) -> bytes:
    """A request as a backend would get it: one length, one target, one spelling of everything that frames."""
    request = message.head
    assert isinstance(request, Request)
    pairs = request.headers.without(FRAMING) + framing_pairs(request.framing, request.length)
    body = message.body
    if request.framing is Framing.CHUNKED:
        chunks = b"".join(chunk(body)) if body else b""
        body = chunks + last_chunk(message.trailers.pairs if message.trailers else ())
    return request_head(request.method, request.path, pairs) + body
