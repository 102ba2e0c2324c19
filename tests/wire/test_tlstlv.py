"""What peers are told of a client's TLS: byte for byte, and as another reader of PROXY headers sees it."""

from __future__ import annotations

from proxyprotocol.v2 import ProxyProtocolV2

from rproxy.wire.address import Inet
from rproxy.wire.proxyheader import ALPN, AUTHORITY, NETNS, SSL, UNIQUE_ID, ProxyHeaderReader, encode_v2
from rproxy.wire.tlstlv import passed_on, tls_tlvs

CLIENT, SERVER = Inet("192.0.2.7", 1234), Inet("198.51.100.1", 5000)
CIPHER = "TLS_AES_128_GCM_SHA256"


def test_a_verified_client_byte_for_byte() -> None:
    """§2.2.6: flags, verification 0, then version, cipher and common name."""
    ((kind, value),) = tls_tlvs("TLSv1.3", CIPHER, "bob@admin", b"", None)
    assert kind == SSL
    assert value == (
        b"\x07\0\0\0\0" + b"\x21\0\x07TLSv1.3" + b"\x23\0\x16" + CIPHER.encode() + b"\x22\0\x09bob@admin"
    )


def test_a_client_without_a_certificate_is_not_verified() -> None:
    ((_, value),) = tls_tlvs("TLSv1.2", "X", None, b"", None)
    assert value == b"\x01\0\0\0\x01" + b"\x21\0\x07TLSv1.2" + b"\x23\0\x01X"


def test_name_and_protocol_stand_beside_it() -> None:
    found = dict(tls_tlvs("TLSv1.3", CIPHER, "é", b"postgresql", "db.example"))
    assert (found[ALPN], found[AUTHORITY]) == (b"postgresql", b"db.example")
    assert "é".encode() in found[SSL]


def test_another_reader_understands_it() -> None:
    tlvs = tls_tlvs("TLSv1.3", CIPHER, "bob@admin", b"h2", "db.example")
    read = ProxyProtocolV2().unpack(encode_v2(CLIENT, SERVER, tlvs))
    assert (read.tlv.alpn, read.tlv.authority) == (b"h2", "db.example")
    assert read.tlv.ssl.has_ssl
    assert read.tlv.ssl.has_cert_conn
    assert read.tlv.ssl.has_cert_sess
    assert read.tlv.ssl.verify == 0
    assert (read.tlv.ssl.version, read.tlv.ssl.cipher, read.tlv.ssl.cn) == ("TLSv1.3", CIPHER, "bob@admin")


def test_our_own_reader_takes_it() -> None:
    tlvs = tls_tlvs("TLSv1.3", CIPHER, "bob@admin", b"h2", "db.example")
    header = ProxyHeaderReader().feed(encode_v2(CLIENT, SERVER, tlvs))
    assert header is not None
    assert header.tlvs == tlvs


def test_what_a_proxy_in_front_said_about_its_own_tls_is_not_passed_on() -> None:
    said = (
        (ALPN, b"h2"),
        (AUTHORITY, b"x"),
        (SSL, b"\1\0\0\0\0"),
        (UNIQUE_ID, b"7"),
        (NETNS, b"n"),
        (0xE0, b"own"),
    )
    assert passed_on(said) == ((UNIQUE_ID, b"7"), (NETNS, b"n"), (0xE0, b"own"))
