"""First lines and heads as a whole: methods, forms of target, keep-alive."""

import pytest

from rproxy.wire.http1_head import MAX_METHOD
from tests.wire.reading import request_of, request_with


@pytest.mark.parametrize(
    "method", [b"QUERY", b"BREW", b"PROPFIND", b"M-SEARCH", b"a", b"!#$%&'*+-.^_`|~", b"X" * MAX_METHOD]
)
def test_every_token_is_a_method(method: bytes) -> None:
    assert request_of(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n").method == method


@pytest.mark.parametrize(
    ("version", "connection", "keep_alive"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"close", False),
        (b"1.1", b"CLOSE", False),
        (b"1.1", b"keep-alive, close", False),
        (b"1.1", b"keep-alive", True),
        (b"1.1", b"closed", True),
        (b"1.0", b"", False),
        (b"1.0", b"Keep-Alive", True),
        (b"1.0", b"keep-alive, close", False),
        (b"1.0", b"close", False),
    ],
)
def test_keep_alive_follows_version_and_connection(
    version: bytes, connection: bytes, keep_alive: bool
) -> None:
    assert request_with(b"Connection: " + connection, version=version).keep_alive is keep_alive


@pytest.mark.parametrize(
    ("start", "host", "path", "authority", "scheme"),
    [
        (b"GET /", b"a:8080", b"/", b"a:8080", b""),
        (b"GET HTTPS://A.b:443/c?d", b"a.B", b"/c?d", b"A.b:443", b"https"),
        (b"GET http://a", b"a:80", b"/", b"a", b"http"),
        (b"OPTIONS *", b"a", b"*", b"a", b""),
        (b"OPTIONS http://a?b", b"a", b"/?b", b"a", b"http"),
        (b"CONNECT a:22", b"a:22", b"", b"a:22", b""),
        (b"CONNECT [::1]:443", b"[::1]", b"", b"[::1]:443", b""),
    ],
)
def test_every_form_of_target_gives_path_and_authority(
    start: bytes, host: bytes, path: bytes, authority: bytes, scheme: bytes
) -> None:
    request = request_of(start + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert (request.path, request.authority, request.scheme) == (path, authority, scheme)
    assert request.target == start.partition(b" ")[2]


def test_http_1_0_without_host_has_no_authority() -> None:
    assert request_of(b"GET / HTTP/1.0\r\n\r\n").authority == b""
    assert request_of(b"GET http://a/ HTTP/1.0\r\n\r\n").authority == b"a"
