"""A certificate chain with its key, read from PEM and checked. Used by `services` and by `upstream.tls`.

Everything that can be wrong with the two files is told as one sentence that names the file and,
where there is one, the way out. What is merely unwise is a *concern*: used, and warned about.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

MOST_BYTES = 1 << 20
"""Of one file: the longest chains have some ten KiB, and a wrong path may be anything."""
LEAST_RSA = 2048
"""Bits; less is refused by OpenSSL at its usual security level, and by browsers."""
CURVES = ("secp256r1", "secp384r1", "secp521r1")
"""The curves that TLS 1.3 has signatures for (RFC 8446 §4.2.3)."""
SOON = timedelta(days=7)
"""Before its end a certificate is warned about: whoever renews it has tried for weeks by then."""

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate with its chain and key; two with the same chain are equal."""

    certificate_path: str
    key_path: str
    chain: bytes = field(repr=False)
    """PEM, in the order of the file: the server's own first."""
    leaf: x509.Certificate = field(compare=False, repr=False)
    key: Key = field(compare=False, repr=False)
    key_mode: int = field(compare=False)
    names: tuple[str, ...]
    """What the certificate is for: names and wildcards in lower case, addresses as text."""

    def covers(self, name: str) -> bool:
        """Whether it is good for a canonical name: exactly, or by a wildcard for its first label.

        Given a wildcard, whether the certificate has the same. The common name does not count,
        browsers do not look at it (RFC 9525 §2).
        """
        return name in self.names or "*." + name.partition(".")[2] in self.names

    def concerns(self, now: datetime) -> list[str]:
        """Sentences about what is unwise or will soon be wrong."""
        return [*self._about_time(now), *self._about_mode()]

    def _about_time(self, now: datetime) -> list[str]:
        begins, ends = self.leaf.not_valid_before_utc, self.leaf.not_valid_after_utc
        if now < begins:
            return [f"{self.certificate_path} is not valid before {begins:%Y-%m-%d %H:%M} UTC"]
        if now > ends:
            return [f"{self.certificate_path} has expired on {ends:%Y-%m-%d %H:%M} UTC"]
        return [f"{self.certificate_path} expires on {ends:%Y-%m-%d %H:%M} UTC"] if ends - now < SOON else []

    def _about_mode(self) -> list[str]:
        if not self.key_mode & 0o077:
            return []
        return [
            f"the key {self.key_path} has mode {self.key_mode:04o}: others may use it;"
            f" `chmod 600 {self.key_path}` keeps it private"
        ]


def load_pair(certificate: Path | str, key: Path | str) -> KeyPair:
    """Read a chain and its key, PKCS#8, PKCS#1 or SEC1; both may be in one file.

    Raises `ValueError` with a sentence when they cannot be used.
    """
    certificate, key = str(certificate), str(key)
    chain_text, _ = _read(certificate)
    key_text, mode = _read(key)
    blocks = _CERTIFICATE.findall(chain_text)
    if not blocks:
        raise ValueError(_why_no_certificate(certificate, chain_text))
    chain = [_certificate(block, certificate, at) for at, block in enumerate(blocks, 1)]
    private = _key(key, key_text)
    _check_match(private, key, chain, certificate)
    return KeyPair(certificate, key, b"\n".join(blocks) + b"\n", chain[0], private, mode, _names(chain[0]))


_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]*+-----END CERTIFICATE-----")
_PRIVATE_KEY = re.compile(rb"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.*?-----END \1PRIVATE KEY-----", re.DOTALL)


def _read(path: str) -> tuple[bytes, int]:
    """The content and the permission bits."""
    try:
        with open(path, "rb") as file:
            text = file.read(MOST_BYTES + 1)
            mode = os.fstat(file.fileno()).st_mode & 0o777
    except OSError as problem:
        raise ValueError(f"cannot read {path}: {problem.strerror}")
    if not text.strip():
        raise ValueError(f"{path} is empty")
    if len(text) > MOST_BYTES:
        raise ValueError(f"{path} is larger than {MOST_BYTES >> 20} MiB, so it is no PEM file of ours")
    return text, mode


def _why_no_certificate(path: str, text: bytes) -> str:
    if _PRIVATE_KEY.search(text):
        return f"{path} holds a private key and no certificate; perhaps the two paths are interchanged"
    if text[:1] == b"\x30":
        return f"{path} is not PEM; if it is DER, `openssl x509 -inform der -in {path}` prints it as PEM"
    return f"{path} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)"


def _certificate(block: bytes, path: str, at: int) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(block)
    except ValueError:
        raise ValueError(f"certificate {at} in {path} is damaged")


def _key(path: str, text: bytes) -> Key:
    """The first key in the text, of a kind that can be used."""
    block = _PRIVATE_KEY.search(text)
    if block is None:
        raise ValueError(_why_no_key(path, text))
    if block[1] == b"ENCRYPTED " or b"Proc-Type: 4,ENCRYPTED" in block[0]:
        raise ValueError(f"the key in {path} is encrypted; `openssl pkey -in {path}` prints it decrypted")
    try:
        # Without the library's own proof, which takes 54 ms for 2048 bits, and 415 for 4096: see _prove.
        key = load_pem_private_key(block[0], None, unsafe_skip_rsa_key_validation=True)
        return _prove(_usable(key, path))
    except UnsupportedAlgorithm:
        raise _Unusable(f"the key in {path} is of {_USABLE}")
    except _Unusable:
        raise
    except (ValueError, TypeError, InvalidSignature, InternalError):
        raise ValueError(f"the key in {path} is damaged")


def _why_no_key(path: str, text: bytes) -> str:
    if _CERTIFICATE.search(text):
        return f"{path} holds a certificate and no private key; perhaps the two paths are interchanged"
    return f"{path} holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)"


_USABLE = "a kind that cannot be used: RSA, ECDSA on P-256, P-384 or P-521, and Ed25519 can"


class _Unusable(ValueError):
    """A key that is whole, but of no use here."""


def _usable(key: object, path: str) -> Key:
    match key:
        case ed25519.Ed25519PrivateKey():
            return key
        case rsa.RSAPrivateKey() if key.key_size >= LEAST_RSA:
            return key
        case rsa.RSAPrivateKey():
            raise _Unusable(f"the RSA key in {path} has {key.key_size} bits; {LEAST_RSA} are the least")
        case ec.EllipticCurvePrivateKey() if key.curve.name in CURVES:
            return key
        case ec.EllipticCurvePrivateKey():
            raise _Unusable(f"the key in {path} is on the curve {key.curve.name}, {_USABLE}")
        case _:
            raise _Unusable(f"the key in {path} is of {_USABLE}")


def _prove(key: Key) -> Key:
    """Sign something: the one thing that the key is for. Raises when it cannot."""
    match key:
        case rsa.RSAPrivateKey():
            signature = key.sign(_PROOF, padding.PKCS1v15(), hashes.SHA256())
            key.public_key().verify(signature, _PROOF, padding.PKCS1v15(), hashes.SHA256())
        case ec.EllipticCurvePrivateKey():
            signature = key.sign(_PROOF, ec.ECDSA(hashes.SHA256()))
            key.public_key().verify(signature, _PROOF, ec.ECDSA(hashes.SHA256()))
        case _:
            key.public_key().verify(key.sign(_PROOF), _PROOF)
    return key


_PROOF = b"proof"


def _check_match(key: Key, key_path: str, chain: list[x509.Certificate], path: str) -> None:
    public = key.public_key()
    owners = [at for at, certificate in enumerate(chain) if certificate.public_key() == public]
    if not owners:
        raise ValueError(f"the key in {key_path} does not belong to the certificate in {path}")
    if owners[0]:
        raise ValueError(
            f"the key in {key_path} belongs to certificate {owners[0] + 1} in {path};"
            " the server's own has to be the first"
        )


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    names = [name.lower() for name in found.get_values_for_type(x509.DNSName)]
    return (*names, *map(str, found.get_values_for_type(x509.IPAddress)))
