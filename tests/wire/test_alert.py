"""The refusals' alerts, byte for byte (S-11)."""

import ssl

import pytest

from rproxy.wire.alert import alert_record


@pytest.mark.parametrize("description", [0, 10, 22, 50, 80, 90, 112, 120, 255])
def test_a_fatal_alert_in_its_own_record(description: int) -> None:
    assert alert_record(description) == bytes([0x15, 3, 3, 0, 2, 2, description])


@pytest.mark.parametrize(
    ("description", "why"), [(112, "UNRECOGNIZED_NAME"), (50, "DECODE_ERROR"), (80, "INTERNAL_ERROR")]
)
def test_openssl_understands_it(description: int, why: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    answer = ssl.MemoryBIO()
    client = context.wrap_bio(answer, ssl.MemoryBIO(), server_hostname="example.org")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    answer.write(alert_record(description))
    with pytest.raises(ssl.SSLError, match=why):
        client.do_handshake()
