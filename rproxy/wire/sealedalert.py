"""An alert inside TLS 1.3, sealed by us: OpenSSL offers no way to send one that it has not decided on itself.

Who may is only known when the client's certificate has been verified, and then the handshake is over. Section
numbers are those of RFC 8446. Called by `downstream.mutual`. Imports cryptography.
"""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

FATAL, ALERT = 2, 21
"""AlertLevel and ContentType (§6, §5.1)."""
TAG = 16
"""Bytes that sealing adds, with every cipher here (§5.2)."""

CIPHERS: dict[str, tuple[type[AESGCM] | type[ChaCha20Poly1305], int, type[hashes.HashAlgorithm]]] = {
    "TLS_AES_128_GCM_SHA256": (AESGCM, 16, hashes.SHA256),
    "TLS_AES_256_GCM_SHA384": (AESGCM, 32, hashes.SHA384),
    "TLS_CHACHA20_POLY1305_SHA256": (ChaCha20Poly1305, 32, hashes.SHA256),
}
"""What seals, the bytes of its key, and the hash (§B.4); the nonce has 12 bytes in each."""


def sealed_alert(cipher: str, secret: bytes, description: int) -> bytes:
    """The first record that is sent under the traffic secret `secret`, with a fatal alert in it.

    `cipher` is the name that OpenSSL gives; `description` is an AlertDescription. Raises `KeyError` for a
    cipher that TLS 1.3 does not have.
    """
    seals, size, digest = CIPHERS[cipher]
    key, nonce = _expand(secret, b"key", size, digest()), _expand(secret, b"iv", 12, digest())
    inner = bytes((FATAL, description, ALERT))
    head = b"\x17\x03\x03" + (len(inner) + TAG).to_bytes(2, "big")
    # The nonce is the iv XORed with the number of the record (§5.3), which is 0.
    return head + seals(key).encrypt(nonce, inner, head)


def _expand(secret: bytes, label: bytes, size: int, digest: hashes.HashAlgorithm) -> bytes:
    """HKDF-Expand-Label without a context (§7.1, §7.3)."""
    whole = b"tls13 " + label
    told = size.to_bytes(2, "big") + bytes((len(whole),)) + whole + b"\0"
    return HKDFExpand(digest, size, told).derive(secret)
