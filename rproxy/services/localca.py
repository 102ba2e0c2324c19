"""Certificates for development: a certificate authority of our own, behind `self_signed = true`.

It lives in the state directory and outlasts restarts, so that a browser or curl has to be told to
trust it once only. It signs a certificate per set of names and a new one in good time;
`certificates` watches a `LocalNames` like any other source. Imports cryptography, so `assemble`
imports it only for configurations that use it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.logger import Logger

from rproxy.keypair import KeyPair, load_pair
from rproxy.services.reload import fingerprint

log = Logger()

LEAF_LIFE = timedelta(days=90)
"""As of public certificates; browsers refuse more than 398 days even from authorities one has added."""
RENEW_AFTER = LEAF_LIFE * 2 / 3
CA_LIFE = timedelta(days=3650)
"""Trusting it is a person's work, so it should be needed once."""
CLOCKS_DIFFER = timedelta(hours=1)
"""Certificates begin this long ago."""

Now = Callable[[], datetime]


def _utc() -> datetime:
    return datetime.now(UTC)


class LocalCA:
    """The authority kept in `directory`, made there when first needed. `now` gives the time in UTC."""

    def __init__(self, directory: Path, now: Now = _utc) -> None:
        self.directory, self._now = directory, now

    @property
    def certificate_path(self) -> Path:
        """What clients have to be told to trust."""
        return self.directory / "ca.pem"

    def source(self, names: tuple[str, ...]) -> LocalNames:
        """A certificate source for these names, wildcards and addresses."""
        return LocalNames(self.directory, tuple(sorted(names)), self._now)


@dataclass(frozen=True, slots=True)
class LocalNames:
    """The local authority's certificate for some names; see `certificates.Source`."""

    directory: Path
    names: tuple[str, ...]
    now: Now = field(compare=False, repr=False)

    def fingerprint(self) -> Hashable:
        """Also differs once the certificate has to be renewed."""
        path = self._path()
        try:
            begun = path.stat().st_mtime
        except FileNotFoundError:
            return ()
        return fingerprint(path), self.now().timestamp() - begun >= RENEW_AFTER.total_seconds()

    def load(self) -> tuple[KeyPair, ...]:
        """The certificate on disk while it is good, else a new one. Raises `ValueError` with a sentence."""
        try:
            kept = self._kept()
            if kept is None:
                make_private(self.directory)
                authority = _authority(self.directory, self.now())
                write_private(self._path(), _leaf(self.names, authority, self.now()))
                kept = load_pair(self._path(), self._path())
        except OSError as problem:
            raise ValueError(f"cannot keep a local certificate in {self.directory}: {problem.strerror}")
        return (kept,)

    def _path(self) -> Path:
        names = sha256("\n".join(self.names).encode()).hexdigest()[:32]
        return self.directory / f"{names}.pem"

    def _kept(self) -> KeyPair | None:
        """None when there is none, or none that will do."""
        try:
            pair = load_pair(self._path(), self._path())
            authority = x509.load_pem_x509_certificate((self.directory / "ca.pem").read_bytes())
            pair.leaf.verify_directly_issued_by(authority)
        except (OSError, ValueError, TypeError, InvalidSignature):
            return None
        begins = pair.leaf.not_valid_before_utc
        return pair if begins <= self.now() < begins + RENEW_AFTER else None


def make_private(directory: Path) -> None:
    """A directory that only we may enter, whatever it was before. Raises `OSError`."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.stat().st_mode & 0o077:
        directory.chmod(0o700)


def write_private(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Write a file that only we may read, whole or not at all. Raises `OSError`.

    With `replace` off a file that is there already stays: another process was quicker.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # mode 0600
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.rename(temporary, path)
        else:
            os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        Path(temporary).unlink(missing_ok=True)
    _sync(path.parent)


def _sync(directory: Path) -> None:
    """The rename itself is only safe once the directory is on disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class _Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def _authority(directory: Path, now: datetime) -> _Authority:
    """The one on disk, or a new one. A damaged one is not replaced: clients may trust it."""
    path = directory / "ca-key.pem"
    if not path.exists():
        write_private(path, _new_authority(now), replace=False)
        log.info("made a local certificate authority; to trust it: {path}", path=str(directory / "ca.pem"))
    try:
        pair = load_pair(path, path)
        if not isinstance(pair.key, ec.EllipticCurvePrivateKey) or now >= pair.leaf.not_valid_after_utc:
            raise ValueError(f"{path} has expired or is not ours")
    except ValueError as problem:
        raise ValueError(f"{problem}; remove it to have a new local authority made")
    public = directory / "ca.pem"
    if not public.exists() or public.read_bytes() != pair.chain:
        write_private(public, pair.chain)
    return _Authority(pair.leaf, pair.key)


def _new_authority(now: datetime) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    mark = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    name = _called(f"rproxy local authority {mark.digest.hex()[:8]}")
    certificate = (
        _begin(name, name, key.public_key(), now, CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(mark, critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pem(key, certificate)


def _leaf(names: tuple[str, ...], authority: _Authority, now: datetime) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.certificate
    life = min(LEAF_LIFE, issuer.not_valid_after_utc - now)
    certificate = (
        _begin(_called("rproxy local certificate"), issuer.subject, key.public_key(), now, life)
        .add_extension(x509.SubjectAlternativeName([_san(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
        )
        .sign(authority.key, hashes.SHA256())
    )
    return _pem(key, certificate)


def _begin(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder(issuer, subject, key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCKS_DIFFER)
        .not_valid_after(now + life)
    )


def _called(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _san(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> bytes:
    """Both in one file, so that there is no moment in which they do not belong together."""
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)
