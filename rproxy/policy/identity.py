"""Who a client's certificate says it is, and whom an app or a service lets in by that.

Asked by the routes that end TLS and want certificates, `downstream.terminate` and `downstream.mutual`,
for certificates that OpenSSL has verified: nothing here tells a forged one. Imports cryptography.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

MOST_BYTES: Final = 16384
"""Of a certificate in DER: usual ones have 1 to 2 KiB, one with a post-quantum key and signature has 8."""
MOST_SUBJECT: Final = 4096
"""Characters of a subject: it becomes a header field, and servers take 8 KiB for a whole line."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a certificate says about its holder."""

    subject: str
    """As RFC 4514 writes it; printable ASCII, so that it fits in a header."""
    names: tuple[str, ...]
    """The common name, then the e-mail addresses, URIs and DNS names of the subjectAltName."""
    groups: tuple[str, ...]
    """What is behind the last `@` of a common name `user@group` (G-4); the authority vouches for it."""
    common_name: str = ""
    """Empty where there is none, or more than one."""
    certificate: bytes = field(default=b"", repr=False)
    """DER."""

    @property
    def key(self) -> str:
        """Whose connections are counted together: the whole common name (G-4), else the subject."""
        return self.common_name or self.subject


@dataclass(frozen=True, slots=True)
class Authorized:
    """Whom a configuration lets in: one group or one name is enough; with neither, whoever is verified."""

    groups: Collection[str] = ()
    names: Collection[str] = ()

    def __post_init__(self) -> None:
        """Sets: a text by mistake would let in every part of it."""
        object.__setattr__(self, "groups", frozenset(self.groups))
        object.__setattr__(self, "names", frozenset(self.names))

    def allows(self, identity: Identity | None) -> bool:
        """Whether this client may; None is one that has shown no certificate. Every character counts."""
        if not self.groups and not self.names:
            return True
        if identity is None:
            return False
        return any(group in self.groups for group in identity.groups) or any(
            name in self.names for name in identity.names
        )


@dataclass(frozen=True, slots=True)
class ClientPolicy:
    """Whom one app serves among those whose certificates its authorities have signed; compared by value."""

    app: str
    authorities: Any = None
    """Where those stand, a `services.clientca.ClientFiles`."""
    required: bool = True
    """Whether a handshake without a certificate fails."""
    authorized: Authorized = Authorized()
    sends_certificate: bool = False
    """Whether peers get the whole certificate (RFC 9440) beside its subject."""

    def allows(self, identity: Identity | None) -> bool:
        """Whether requests of this client are served; None is one without a certificate."""
        return (identity is not None or not self.required) and self.authorized.allows(identity)


class Shown:
    """What the client of one connection has shown; made before its handshake, filled by it."""

    __slots__ = ("_allowed", "asked_by", "identity", "problem")

    def __init__(self, asked_by: ClientPolicy) -> None:
        self.asked_by = asked_by
        """The app that the connection was made for: for no other does the identity count."""
        self.identity: Identity | None = None
        """None without a certificate, and before it has been verified."""
        self.problem = ""
        """Why a certificate was refused, and whose; a sentence in printable ASCII."""
        self._allowed: bool | None = None

    @property
    def allowed(self) -> bool:
        """Whether the app serves this client's requests; once per connection, behind the handshake."""
        if self._allowed is None:
            self._allowed = self.asked_by.allows(self.identity)
        return self._allowed

    @property
    def told(self) -> tuple[str | None, bytes]:
        """What peers are told: the subject, and the certificate if they want it; None and nothing without."""
        if self.identity is None:
            return None, b""
        return self.identity.subject, self.identity.certificate if self.asked_by.sends_certificate else b""


def identity_of(certificate: x509.Certificate | bytes) -> Identity:
    """What a verified certificate says; bytes are DER.

    Raises `ValueError` with a sentence for what OpenSSL reads and we do not, or not in full: who is let
    in by a certificate has to be beyond doubt.
    """
    try:
        if isinstance(certificate, bytes):
            certificate = x509.load_der_x509_certificate(certificate)
        der = certificate.public_bytes(Encoding.DER)
        subject, common_name = subject_of(certificate), _common_name(certificate)
        others = _alternative_names(certificate)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as problem:
        raise ValueError(f"the certificate cannot be read: {problem}")
    if len(der) > MOST_BYTES:
        raise ValueError(f"the certificate has {len(der)} bytes, {MOST_BYTES} are the most")
    if len(subject) > MOST_SUBJECT:
        raise ValueError(f"the subject has {len(subject)} characters, {MOST_SUBJECT} are the most")
    names = ((common_name,) if common_name else ()) + others
    return Identity(subject, names, _groups(common_name), common_name, der)


def subject_of(certificate: x509.Certificate) -> str:
    """The subject, as `escaped` writes it. Raises `ValueError` for one that cannot be read."""
    return escaped(certificate.subject)


def escaped(name: x509.Name) -> str:
    """A name in the form of RFC 4514, all but printable ASCII as `\\XX` (§2.4): it may hold line breaks."""
    text = name.rfc4514_string(_USUAL_NAMES).encode("utf-8")
    return _NOT_PRINTABLE(lambda found: b"\\%02X" % ord(found.group()), text).decode("ascii")


_USUAL_NAMES: Final = {NameOID.EMAIL_ADDRESS: "emailAddress"}
"""What OpenSSL, and so every other server, writes for the one attribute that RFC 4514 has no name for."""
_NOT_PRINTABLE = re.compile(rb"[^ -~]").sub


def _common_name(certificate: x509.Certificate) -> str:
    """The one common name. Two say nothing: of those who read them, some take the first, some the last."""
    values = [each.value for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return values[0] if len(values) == 1 and isinstance(values[0], str) else ""


def _groups(common_name: str) -> tuple[str, ...]:
    user, _, group = common_name.rpartition("@")
    return (group,) if user and group else ()


def _alternative_names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return (
        *found.get_values_for_type(x509.RFC822Name),
        *found.get_values_for_type(x509.UniformResourceIdentifier),
        *found.get_values_for_type(x509.DNSName),
    )
