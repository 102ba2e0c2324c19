"""What gRPC is, and how it says that a call broke off."""

from __future__ import annotations

import pytest

from rproxy.policy.grpc import is_grpc, status_of
from rproxy.wire.http2_answers import PeerReset
from rproxy.wire.message import BadResponse, Framing, Headers, Request

NONE: frozenset[bytes] = frozenset()


def request(*pairs: tuple[bytes, bytes]) -> Request:
    return Request(
        b"POST", b"/", b"/", b"a", b"https", 20, Headers(pairs), Framing.CHUNKED, 0, True, False, NONE, b""
    )


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (b"application/grpc", True),
        (b"Application/gRPC+proto", True),
        (b"application/grpc; charset=utf-8", True),
        (b"application/grpc-web", False),
        (b"application/grpc-web+proto", False),
        (b"application/json", False),
    ],
)
def test_a_call_is_known_by_its_content_type(kind: bytes, expected: bool) -> None:
    assert is_grpc(request((b"content-type", kind)).headers) is expected


def test_without_a_content_type_it_is_none() -> None:
    assert not is_grpc(request().headers)


@pytest.mark.parametrize(("code", "status"), [(0, 13), (2, 13), (7, 14), (8, 1), (11, 8), (12, 7), (99, 13)])
def test_a_reset_is_what_a_client_would_make_of_it(code: int, status: int) -> None:
    assert status_of(PeerReset(code)).get(b"grpc-status") == b"%d" % status


def test_anything_else_is_unavailable_and_says_why() -> None:
    assert status_of(BadResponse("connection closed")).pairs == [
        (b"grpc-status", b"14"),
        (b"grpc-message", b"connection closed"),
    ]


def test_the_message_is_printable_ascii() -> None:
    assert status_of(BadResponse("100 %\né")).get(b"grpc-message") == b"100 %25%0A%C3%A9"
