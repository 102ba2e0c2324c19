"""Responses out of the fields of HTTP/2: what they become, and what is refused."""

from __future__ import annotations

import pytest

from rproxy.wire.http2_answers import PeerReset, ResponseFields
from rproxy.wire.http2_head import Malformed
from rproxy.wire.message import Framing, Pair, Response


def read(*fields: Pair, method: bytes = b"GET", ended: bool = False) -> Response:
    return ResponseFields().response(list(fields), method, ended)


OK = (b":status", b"200")


def test_a_response_has_its_fields_and_a_reason() -> None:
    response = read(OK, (b"server", b"x"), (b"set-cookie", b"a"), (b"set-cookie", b"b"))
    assert (response.version, response.status, response.reason) == (20, 200, b"OK")
    assert response.headers.pairs == [(b"server", b"x"), (b"set-cookie", b"a"), (b"set-cookie", b"b")]
    assert (response.interim, response.keep_alive, response.upgrade) == (False, True, b"")


def test_a_status_that_nobody_knows_has_no_reason() -> None:
    assert (read((b":status", b"799")).status, read((b":status", b"799")).reason) == (799, b"")


LENGTH = (b"content-length", b"5")


@pytest.mark.parametrize(
    ("fields", "method", "ended", "framing", "length"),
    [
        ([OK], b"GET", False, Framing.CHUNKED, 0),
        ([OK], b"GET", True, Framing.LENGTH, 0),
        ([OK, LENGTH], b"GET", False, Framing.LENGTH, 5),
        ([OK, (b"content-length", b"0")], b"GET", True, Framing.LENGTH, 0),
        ([OK, LENGTH], b"HEAD", True, Framing.NONE, 0),
        ([OK, LENGTH], b"HEAD", False, Framing.NONE, 0),
        ([(b":status", b"304"), LENGTH], b"GET", True, Framing.NONE, 0),
        ([(b":status", b"204")], b"GET", True, Framing.NONE, 0),
        ([(b":status", b"103")], b"GET", False, Framing.NONE, 0),
        ([OK], b"CONNECT", False, Framing.NONE, 0),
        ([(b":status", b"403"), LENGTH], b"CONNECT", False, Framing.LENGTH, 5),
    ],
)
def test_how_the_end_of_a_body_is_found(
    fields: list[Pair], method: bytes, ended: bool, framing: Framing, length: int
) -> None:
    response = read(*fields, method=method, ended=ended)
    assert (response.framing, response.length) == (framing, length)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([], id="nothing"),
        pytest.param([(b"server", b"x")], id="no status"),
        pytest.param([(b"server", b"x"), OK], id="status that does not come first"),
        pytest.param([OK, OK], id="two statuses"),
        pytest.param([(b":status", b"0200")], id="four digits"),
        pytest.param([(b":status", b"099")], id="below 100"),
        pytest.param([(b":status", b"+20")], id="no digits"),
        pytest.param([(b":status", b"101")], id="an upgrade"),
        pytest.param([OK, (b":path", b"/")], id="pseudo-header field of a request"),
        pytest.param([OK, (b"Server", b"x")], id="upper case"),
        pytest.param([OK, (b"connection", b"close")], id="connection"),
        pytest.param([OK, (b"transfer-encoding", b"chunked")], id="transfer-encoding"),
        pytest.param([OK, (b"keep-alive", b"5")], id="keep-alive"),
        pytest.param([OK, (b"upgrade", b"h2c")], id="upgrade"),
        pytest.param([OK, (b"proxy-connection", b"close")], id="proxy-connection"),
        pytest.param([OK, (b"x", b"a\r\nset-cookie: b")], id="line break"),
        pytest.param([OK, (b"x", b"a\0b")], id="nul"),
        pytest.param([OK, (b"x", b" a")], id="white space in front"),
        pytest.param([OK, (b"x y", b"a")], id="name with a space"),
        pytest.param([OK, (b"", b"a")], id="no name"),
        pytest.param([OK, (b"content-length", b"-1")], id="negative length"),
        pytest.param([OK, LENGTH, (b"content-length", b"6")], id="two lengths"),
        pytest.param([OK, *[(b"x", b"")] * 200], id="too many"),
        pytest.param([(b":status", b"204"), LENGTH], id="204 with a body"),
        pytest.param([(b":status", b"103"), LENGTH], id="interim with a body"),
    ],
)
def test_what_is_malformed(fields: list[Pair]) -> None:
    with pytest.raises(Malformed):
        read(*fields)


@pytest.mark.parametrize(
    ("fields", "method"),
    [([OK, LENGTH], b"GET"), ([(b":status", b"100")], b"GET"), ([OK], b"CONNECT")],
)
def test_what_cannot_end_with_its_head(fields: list[Pair], method: bytes) -> None:
    with pytest.raises(Malformed):
        read(*fields, method=method, ended=True)


def test_fields_that_come_again_are_the_same_object() -> None:
    reader = ResponseFields()
    first = reader.response([OK, (b"x", b"1")], b"GET", False)
    again = reader.response([(b":status", b"404"), (b"x", b"1")], b"GET", False)
    assert again.headers is first.headers
    assert reader.response([OK, (b"x", b"2")], b"GET", False).headers is not first.headers


def test_a_response_that_is_refused_is_not_remembered() -> None:
    reader = ResponseFields()
    for _ in range(2):
        with pytest.raises(Malformed):
            reader.response([OK, (b"X", b"1")], b"GET", False)


def test_a_reset_says_its_code() -> None:
    assert PeerReset(8).code == 8
    assert "8" in str(PeerReset(8))
