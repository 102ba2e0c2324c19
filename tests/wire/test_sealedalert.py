"""An alert inside TLS 1.3: the keys of RFC 8448's example, and what is in the record. OpenSSL reads it, too,
in tests/downstream/test_mutual.py."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from rproxy.wire.sealedalert import CIPHERS, _expand, sealed_alert

SECRET = bytes.fromhex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643")
KEY, IV = bytes.fromhex("9f02283b6c9c07efc26bb9f2ac92e356"), bytes.fromhex("cf782b88dd83549aadf1e984")
"""RFC 8448 §3: the server's application traffic secret, and what it derives from it."""


def test_keys_are_derived_as_the_rfc_does() -> None:
    assert _expand(SECRET, b"key", 16, hashes.SHA256()) == KEY
    assert _expand(SECRET, b"iv", 12, hashes.SHA256()) == IV


@pytest.mark.parametrize("description", [49, 80])
def test_the_record_holds_a_fatal_alert(description: int) -> None:
    record = sealed_alert("TLS_AES_128_GCM_SHA256", SECRET, description)
    assert record[:5] == b"\x17\x03\x03\x00\x13"
    assert len(record) == 5 + 19
    assert AESGCM(KEY).decrypt(IV, record[5:], record[:5]) == bytes((2, description, 21))


@pytest.mark.parametrize("cipher", sorted(CIPHERS))
def test_every_cipher_of_tls_1_3_makes_a_record_of_the_same_size(cipher: str) -> None:
    assert len(sealed_alert(cipher, bytes(48), 49)) == 24


def test_another_cipher_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        sealed_alert("ECDHE-RSA-AES128-GCM-SHA256", SECRET, 49)
