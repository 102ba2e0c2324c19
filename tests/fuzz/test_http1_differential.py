"""What our readers accept, h11 and httptools accept too and read alike: the differential test of the codec.

One way only: we refuse much that they let pass. Inputs are well-formed messages, and the same with bytes
changed at random. Known and wanted differences, each with its own row below:

- httptools knows a list of methods, we take any token: it is asked for those on its list only;
- httptools keeps white space behind values, and refuses a tab behind `chunked`: it is given none in heads;
- h11 gives `Transfer-Encoding` values in lower case;
- h11 refuses the empty line before a request that RFC 9112 §2.2 asks servers to ignore.
"""

import re
from typing import NamedTuple

import h11
import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rproxy.errors import Refusal
from rproxy.wire.http1 import RequestReader, ResponseReader
from rproxy.wire.message import Request, Response
from tests.wire.ambiguous_bodies import CHUNKS, CODINGS, LENGTHS
from tests.wire.ambiguous_heads import FIELDS, HOSTS, LINES
from tests.wire.reading import drain

ROOM = 1 << 20
"""More than our own limit for a head: h11's is not under test."""


class Meaning(NamedTuple):
    """What a parser made of one message; names of fields in lower case."""

    start: tuple[bytes, ...]
    fields: list[tuple[bytes, bytes]]
    body: bytes
    trailers: list[tuple[bytes, bytes]]


def lower(pairs: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Names in lower case, and the one value whose case nobody needs."""
    folded = ((name.lower(), value) for name, value in pairs)
    return [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in folded]


def version_of(head: Request | Response) -> bytes:
    return b"1.1" if head.version == 11 else b"1.0"


def our_request(data: bytes) -> tuple[Meaning, int] | None:
    """The first request of `data` and its length on the wire, or None if it is refused or incomplete."""
    reader = RequestReader()
    reader.receive(data)
    try:
        head = reader.read_head()
    except Refusal:
        return None
    if head is None:
        return None
    body, fault = drain(reader)
    if fault or not reader.complete:
        return None
    trailers = lower(list(reader.trailers.pairs)) if reader.trailers else []
    start = (head.method, head.target, version_of(head))
    return Meaning(start, lower(list(head.headers.pairs)), body, trailers), len(data) - reader.unread


def our_response(data: bytes, method: bytes) -> tuple[Meaning, int] | None:
    """The first response of `data` if it is final and complete, and its length on the wire."""
    reader = ResponseReader()
    reader.expect(method)
    reader.receive(data)
    try:
        head = reader.read_head()
        if head is None or head.status < 200:
            return None
        body, fault = drain(reader)
        if fault:
            return None
        length = len(data) - reader.unread
        reader.close()
    except Refusal:
        return None
    trailers = lower(list(reader.trailers.pairs)) if reader.trailers else []
    return Meaning(
        (b"%d" % head.status, version_of(head)), lower(list(head.headers.pairs)), body, trailers
    ), length


def with_h11(connection: h11.Connection, data: bytes) -> Meaning:
    """What h11 reads; raises its `RemoteProtocolError`."""
    connection.receive_data(data)
    connection.receive_data(b"") if connection.our_role is h11.CLIENT else None
    start: tuple[bytes, ...] = ()
    fields: list[tuple[bytes, bytes]] = []
    body = b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            start, fields = (event.method, event.target, event.http_version), list(event.headers)
        elif isinstance(event, h11.Response):
            start, fields = (b"%d" % event.status_code, event.http_version), list(event.headers)
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return Meaning(start, fields, body, list(event.headers))
        else:
            raise AssertionError(f"h11 stopped at {event!r}")


class Listener:
    """Collects the callbacks of an httptools parser."""

    def __init__(self) -> None:
        self.url = self.body = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.head = 0
        self.complete = False

    def on_url(self, part: bytes) -> None:
        self.url += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.head = len(self.fields)

    def on_body(self, part: bytes) -> None:
        self.body += part

    def on_message_complete(self) -> None:
        self.complete = True


def meaning_of(listener: Listener, start: tuple[bytes, ...]) -> Meaning:
    assert listener.complete, "httptools waits for more"
    fields = lower(listener.fields)
    return Meaning(start, fields[: listener.head], listener.body, fields[listener.head :])


def without_trailing_space(data: bytes) -> bytes:
    head, end, body = data.partition(b"\r\n\r\n")
    return re.sub(rb"[ \t]+(?=\r\n|\Z)", b"", head) + end + body


def request_with_httptools(data: bytes) -> Meaning:
    """What httptools reads; raises its `HttpParserError`."""
    data = without_trailing_space(data)
    listener = Listener()
    parser = httptools.HttpRequestParser(listener)
    try:
        parser.feed_data(data)
        end = len(data)
    except httptools.HttpParserUpgrade as upgrade:
        end = upgrade.args[0]
    assert end == len(data)
    start = (parser.get_method(), listener.url, parser.get_http_version().encode())
    return meaning_of(listener, start)


def response_with_httptools(data: bytes) -> Meaning:
    listener = Listener()
    parser = httptools.HttpResponseParser(listener)
    parser.feed_data(without_trailing_space(data))
    if not listener.complete:
        # It is never told of the end of the connection; ours ends such a body there.
        assert b"content-length" not in dict(lower(listener.fields))
        listener.complete = True
    start = (b"%d" % parser.get_status_code(), parser.get_http_version().encode())
    return meaning_of(listener, start)


# --- what is generated

TOKEN = st.text("abcXYZ019-_!#$%&'*+.^`|~", min_size=1, max_size=12).map(str.encode)
METHODS = st.sampled_from(
    [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"PROPFIND", b"M-SEARCH", b"OPTIONS"]
)
TARGETS = st.sampled_from(
    [
        b"/",
        b"/a/b;c?d=e&f",
        b"//a",
        b"/%2e%2e/",
        b"/..",
        b"/\\",
        b"/?http://b/",
        b"http://a/",
        b"http://a:80?b",
        b'/|{}"<>^`',
        b"/a//b/./c",
    ]
)
VALUE = st.text(' \tabc09,;:="\\/\x80\xff', max_size=20).map(lambda s: s.encode("latin-1").strip(b" \t"))
SPACE = st.sampled_from([b"", b" ", b"\t", b"  "])
FIELD = st.builds(
    lambda name, a, value, b: name + b":" + a + value + b + b"\r\n",
    TOKEN.map(lambda name: b"X-" + name),
    SPACE,
    VALUE,
    SPACE,
) | st.sampled_from(
    [
        b"Connection: close\r\n",
        b"Connection: keep-alive\r\n",
        b"TE: trailers\r\n",
        b"Cookie: a=b\r\n",
        b"Expect: 100-continue\r\n",
    ]
)
EXTENSION = st.sampled_from([b"", b"", b";a", b";a=b", b';a="b c"', b";a;b=c"])


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A framing field and the body it frames."""
    parts = draw(st.lists(st.binary(min_size=1, max_size=20), max_size=4))
    if draw(st.booleans()):
        body = b"".join(parts)
        return b"Content-Length: %d\r\n" % len(body), body
    chunks = [b"%x" % len(part) + draw(EXTENSION) + b"\r\n" + part + b"\r\n" for part in parts]
    trailers = b"".join(draw(st.lists(FIELD.filter(lambda line: line.startswith(b"X-")), max_size=2)))
    return b"Transfer-Encoding: chunked\r\n", b"".join(chunks) + b"0" + draw(
        EXTENSION
    ) + b"\r\n" + trailers + b"\r\n"


@st.composite
def well_formed(draw: st.DrawFn, start: bytes, body: tuple[bytes, bytes]) -> bytes:
    """A message of well-formed parts; the fields in any order."""
    lines = draw(st.lists(FIELD, max_size=5, unique_by=lambda line: line.partition(b":")[0]))
    lines = draw(st.permutations([*lines, body[0]]))
    return start + b"".join(lines) + b"\r\n" + body[1]


@st.composite
def good_requests(draw: st.DrawFn) -> bytes:
    body = draw(st.just((b"", b"")) | bodies())
    start = draw(METHODS) + b" " + draw(TARGETS) + b" HTTP/1.1\r\nHost: a\r\n"
    return draw(well_formed(start, body))


@st.composite
def good_responses(draw: st.DrawFn) -> bytes:
    status = draw(st.sampled_from([b"200 OK", b"404 Not Found", b"500 ", b"206 x y"]))
    return draw(well_formed(b"HTTP/1.1 " + status + b"\r\n", draw(bodies())))


NASTY = st.sampled_from(
    b"\r \n \r\n : , ; = _ - + 0 5 a ff 0x \0 \t \x0b \x7f \xa0 \xff # * @ chunked".split(b" ")
) | st.sampled_from(
    [b" ", b"  ", b"\r\n ", b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n", b"HTTP/1.0"]
)


@st.composite
def mutated(draw: st.DrawFn, messages: st.SearchStrategy[bytes]) -> bytes:
    """A well-formed message with a few places overwritten, inserted into, or cut out."""
    message = draw(messages)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(message)))
        end = draw(st.sampled_from([place, place, place + 1, place + 2]))
        message = message[:place] + draw(st.just(b"") | NASTY) + message[end:]
    return message


# --- the tests


def compare_request(data: bytes) -> bool:
    """Compare the first request of `data`, if we accept one; whether we did."""
    ours = our_request(data)
    if ours is None:
        return False
    meaning, length = ours
    assert with_h11(h11.Connection(h11.SERVER, ROOM), data[:length].removeprefix(b"\r\n")) == meaning
    if meaning.start[0] in KNOWN_TO_HTTPTOOLS:
        assert request_with_httptools(data[:length]) == meaning
    return True


def compare_response(data: bytes, method: bytes) -> bool:
    ours = our_response(data, method)
    if ours is None:
        return False
    meaning, length = ours
    client = h11.Connection(h11.CLIENT, ROOM)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    assert with_h11(client, data[:length]) == meaning
    if method != b"HEAD":
        # httptools cannot be told what was asked.
        assert response_with_httptools(data[:length]) == meaning
    return True


KNOWN_TO_HTTPTOOLS = frozenset(
    b"GET HEAD POST PUT DELETE PATCH PROPFIND M-SEARCH OPTIONS CONNECT TRACE REPORT MKCOL".split()
)


@given(good_requests())
@settings(max_examples=200)
def test_well_formed_requests_are_accepted_and_read_alike(data: bytes) -> None:
    assert compare_request(data)


@given(mutated(good_requests()))
@settings(max_examples=1000)
def test_requests_we_accept_are_read_alike(data: bytes) -> None:
    compare_request(data)


@given(good_responses(), st.sampled_from([b"GET", b"POST"]))
@settings(max_examples=200)
def test_well_formed_responses_are_accepted_and_read_alike(data: bytes, method: bytes) -> None:
    assert compare_response(data, method)


@given(mutated(good_responses()), st.sampled_from([b"GET", b"HEAD"]))
@settings(max_examples=600)
def test_responses_we_accept_are_read_alike(data: bytes, method: bytes) -> None:
    compare_response(data, method)


@pytest.mark.parametrize("rows", [LENGTHS, CODINGS, CHUNKS, FIELDS, HOSTS, LINES])
def test_ambiguous_requests_we_accept_are_read_alike(rows: list[tuple[str, bytes]]) -> None:
    assert sum(compare_request(row[1]) for row in rows) > 0
