"""Addresses as values: what the sockets give becomes one canonical form, and prints as people write it."""

import pytest

from rproxy.wire.address import Inet, Unix, inet


@pytest.mark.parametrize(
    ("host", "canonical"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::ffff:1", "::ffff:1"),
        ("::ffff:c000:207", "::ffff:c000:207"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("::1", "::1"),
    ],
)
def test_mapped_text_becomes_ipv4_and_all_else_stays(host: str, canonical: str) -> None:
    assert inet(host, 443) == Inet(canonical, 443)


@pytest.mark.parametrize(
    ("address", "text", "v6"),
    [(Inet("192.0.2.7", 0), "192.0.2.7:0", False), (Inet("2001:db8::7", 65535), "[2001:db8::7]:65535", True)],
)
def test_inet_prints_as_in_urls(address: Inet, text: str, v6: bool) -> None:
    assert (str(address), address.is_v6) == (text, v6)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (b"/run/a.sock", "unix:/run/a.sock"),
        (b"", "unix:"),
        (b"\0name", "unix:@name"),
        (b"/\xff", "unix:/\\xff"),
    ],
)
def test_unix_prints_any_path(path: bytes, text: str) -> None:
    assert str(Unix(path)) == text


def test_an_address_is_a_key() -> None:
    assert {Inet("::1", 1): "a"}[inet("::1", 1)] == "a"
    assert Unix(b"/a") != Unix(b"/b")
