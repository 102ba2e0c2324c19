"""What answers the key of a WebSocket."""

from __future__ import annotations

from base64 import b64decode

from hypothesis import given
from hypothesis import strategies as st

from rproxy.wire.websocket import accept_of


def test_the_key_of_rfc_6455_has_the_answer_of_rfc_6455() -> None:
    assert accept_of(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_a_key_is_taken_as_it_is_written() -> None:
    assert accept_of(b" dGhlIHNhbXBsZSBub25jZQ==") != accept_of(b"dGhlIHNhbXBsZSBub25jZQ==")


@given(st.binary(max_size=100))
def test_any_bytes_have_an_answer_of_one_digest(key: bytes) -> None:
    answer = accept_of(key)
    assert (len(answer), len(b64decode(answer, validate=True))) == (28, 20)
