"""Client certificates of every kind, the authorities that sign them, and their revocation lists."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.tlspeers import PEM, Made, days, key_of

CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
CN, ORG, EMAIL = NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.EMAIL_ADDRESS


def named(*attributes: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])


def signed(
    subject: x509.Name | str,
    issuer: Made | None,
    *,
    ca: bool = False,
    begins: datetime | None = None,
    ends: datetime | None = None,
    usage: Any = CLIENT,
    more: Sequence[x509.ExtensionType] = (),
    kind: str = "ec",
    number: int = 0,
) -> Made:
    """A certificate; text is its common name, and without an issuer it signs itself."""
    name = named((CN, subject)) if isinstance(subject, str) else subject
    key = key_of(kind, number)
    builder = (
        x509.CertificateBuilder(
            issuer.certificate.subject if issuer is not None else name, name, key.public_key()
        )
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins or days(-2))
        .not_valid_after(ends or days(30))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if usage is not None and not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    for extension in more:
        builder = builder.add_extension(extension, critical=False)
    signer = issuer.key if issuer is not None else key
    return Made(builder.sign(signer, hashes.SHA256()), key)


def authority(name: str, number: int, issuer: Made | None = None, **more: Any) -> Made:
    """An authority, which signs itself unless it has an issuer; keys of different numbers differ."""
    return signed(name, issuer, ca=True, number=number, **more)


def revoking(
    issuer: Made,
    *gone: Made,
    begins: datetime | None = None,
    ends: datetime | None = None,
    delta: bool = False,
    by: Made | None = None,
) -> bytes:
    """A revocation list in PEM; `by` has another key than the issuer's sign it."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(begins or days(-1))
        .next_update(ends or days(7))
    )
    for each in gone:
        entry = x509.RevokedCertificateBuilder(serial_number=each.certificate.serial_number)
        builder = builder.add_revoked_certificate(entry.revocation_date(days(-1)).build())
    if delta:
        builder = builder.add_extension(x509.DeltaCRLIndicator(1), critical=True)
    return builder.sign((by or issuer).key, hashes.SHA256()).public_bytes(PEM)


def together(path: Path, *made: Made) -> Path:
    """One file with all of them."""
    path.write_bytes(b"".join(each.pem for each in made))
    return path
