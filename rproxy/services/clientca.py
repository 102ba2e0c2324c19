"""The authorities whose clients an app serves, and their lists of revoked certificates.

`ClientFiles` are one app's files, which `certificates` watches; `ClientCA` is what was in them, and
makes a TLS context ask for certificates. OpenSSL verifies them; here is what it is told, and what is
written down. Imports OpenSSL, so `assemble` imports it only for configurations that need it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.bindings.openssl.binding import Binding
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from OpenSSL.crypto import X509, X509Store, X509StoreFlags
from OpenSSL.crypto import Error as CryptoError

from rproxy.keypair import MOST_BYTES
from rproxy.openssl import words_of
from rproxy.policy.identity import escaped, identity_of, subject_of
from rproxy.services.reload import fingerprint

MOST_LIST_BYTES: Final = 1 << 20
"""Of all revocation lists of an app, 20,000 certificates: OpenSSL hashes a list in every handshake, which
takes half a millisecond for that much, and reading it takes 40."""
MOST_HINTS: Final = 16384
"""Bytes of authorities' names that clients are told, a record; rather than more they are told none,
which means any (RFC 8446 §4.2.4)."""
MOST_BETWEEN: Final = 4
"""Intermediate certificates of a chain: real ones have one or two, each costs a signature to verify."""
MOST_SHOWN: Final = 256
"""Characters of a name that a stranger has chosen, in a log line."""

_Code = SSL.X509VerificationCodes
_NO_LIST: Final = _Code.ERR_UNABLE_TO_GET_CRL
_ABOUT_LISTS: Final = frozenset((_NO_LIST, _Code.ERR_CRL_NOT_YET_VALID, _Code.ERR_CRL_HAS_EXPIRED))
_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True)
class ClientFiles:
    """PEM files with authorities and, if they revoke, with their lists; a `certificates.Source`."""

    authorities: Path
    revoked: Path | None = None
    required: bool = True
    """Whether clients without a certificate are refused."""

    def fingerprint(self) -> Hashable:
        """What `stat` says of both."""
        return tuple(fingerprint(path) for path in (self.authorities, self.revoked) if path is not None)

    def load(self) -> ClientCA:
        """Read both. Raises `ValueError` with a sentence."""
        authorities = _authorities(self.authorities)
        lists = () if self.revoked is None else _lists(self.revoked, authorities)
        trusted, distrusted = _sift(authorities, lists)
        if not trusted:
            raise ValueError(f"every authority in {self.authorities} is revoked by {self.revoked}")
        return ClientCA(self, trusted, lists, distrusted)


@dataclass(frozen=True, slots=True)
class ClientCA:
    """What was in the files; equal to one that trusts and revokes the same."""

    files: ClientFiles
    authorities: tuple[x509.Certificate, ...]
    """Each is trusted for itself, whoever has signed it: it may be a root or not."""
    lists: tuple[x509.CertificateRevocationList, ...] = ()
    distrusted: tuple[x509.Certificate, ...] = field(default=(), repr=False)
    """Those in the file that another one in it has revoked."""

    def check(self) -> None:
        """Raises `ValueError` when OpenSSL does not take them."""
        try:
            self.ask(SSL.Context(SSL.TLS_SERVER_METHOD))
        except (SSL.Error, CryptoError) as problem:
            raise ValueError(f"{self.files.authorities} is not usable: {words_of(problem)}")

    def ask(self, context: SSL.Context) -> None:
        """Make the context ask its clients for certificates. Each connection has a `Shown` as its app data.

        Nothing is resumed: a ticket would be good after the certificate has expired or was revoked.
        Raises `SSL.Error` or `OpenSSL.crypto.Error` for what OpenSSL does not take.
        """
        self._fill(context.get_cert_store())
        mode = SSL.VERIFY_PEER | (SSL.VERIFY_FAIL_IF_NO_PEER_CERT if self.files.required else 0)
        context.set_verify(mode, self._judge())
        context.set_verify_depth(MOST_BETWEEN)
        context.set_options(SSL.OP_NO_TICKET)
        if sum(len(each.subject.public_bytes()) for each in self.authorities) <= MOST_HINTS:
            for each in self.authorities:
                context.add_client_ca(each)

    def concerns(self, now: datetime) -> list[str]:
        """Sentences about what keeps clients out."""
        revoked = [
            f"{self.files.authorities}: {subject_of(each)} is revoked by {self.files.revoked} and not trusted"
            for each in self.distrusted
        ]
        return [*revoked, *self._without_list(), *self.overdue(now)]

    def overdue(self, now: datetime) -> list[str]:
        """Sentences about what is out of date, and refuses every client that depends on it."""
        ended = [
            f"{self.files.authorities}: {subject_of(each)} has expired on {_day(each.not_valid_after_utc)}:"
            " its clients are refused"
            for each in self.authorities
            if each.not_valid_after_utc < now
        ]
        for each in self.lists:
            until = each.next_update_utc
            if until is not None and until < now:
                ended.append(
                    f"{self.files.revoked}: the list of {escaped(each.issuer)} has expired on {_day(until)}:"
                    " its clients are refused until there is a new one"
                )
        return ended

    def facts(self) -> str:
        """For the log."""
        names = ", ".join(subject_of(each) for each in self.authorities[:5])
        more = f" and {len(self.authorities) - 5} more" if len(self.authorities) > 5 else ""
        revoked = sum(len(each) for each in self.lists)
        return f"{names}{more}" + (f"; revoked certificates: {revoked}" if self.lists else "")

    def _without_list(self) -> list[str]:
        listing = {each.issuer for each in self.lists}
        return [
            f"{self.files.revoked} has no list of {subject_of(each)}: its clients are refused"
            for each in self.authorities
            if self.lists and each.subject not in listing
        ]

    def _fill(self, store: X509Store | None) -> None:
        assert store is not None
        for each in self.authorities:
            store.add_cert(X509.from_cryptography(each))
        for every in self.lists:
            store.add_crl(every)
        flags = X509StoreFlags.PARTIAL_CHAIN
        if self.lists:
            flags |= X509StoreFlags.CRL_CHECK | X509StoreFlags.CRL_CHECK_ALL
        store.set_flags(flags)

    def _judge(self) -> Callable[[SSL.Connection, X509, int, int, int], bool]:
        """OpenSSL's question at each step of a chain, from the authority down; `ok` is its own opinion."""
        anchors = {each.public_bytes(Encoding.DER) for each in self.authorities}

        def judge(connection: SSL.Connection, certificate: X509, error: int, depth: int, ok: int) -> bool:
            shown: Any = connection.get_app_data()
            try:
                found = certificate.to_cryptography()
                if ok:
                    shown.identity = identity_of(found) if depth == 0 else None
                elif error == _NO_LIST and found.public_bytes(Encoding.DER) in anchors:
                    return True  # nobody has to say that what stands in our own file is not revoked
                else:
                    shown.problem = _problem(error, found, self.files)
                return bool(ok)
            except Exception as problem:  # whatever it is that we cannot read, nobody gets in by it
                shown.problem = _plain(str(problem))
                return False

        return judge


_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]*+-----END CERTIFICATE-----")
_BEGIN = re.compile(rb"-----BEGIN [A-Z0-9 ]+-----")
_LIST = re.compile(rb"-----BEGIN X509 CRL-----[^-]*+-----END X509 CRL-----")


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(most + 1)
    except OSError as problem:
        raise ValueError(f"cannot read {path}: {problem.strerror}")
    if len(text) > most:
        raise ValueError(f"{path} is larger than {most >> 20} MiB, which is the most")
    return text


def _blocks(path: Path, most: int, pattern: re.Pattern[bytes], what: str, kind: str) -> list[bytes]:
    text = _read(path, most)
    blocks = pattern.findall(text)
    if len(blocks) != len(_BEGIN.findall(text)):  # a file that is being written, or something else's
        raise ValueError(f"{path} has a block that is cut off, or is no {what}")
    if blocks:
        return blocks
    if text[:1] == b"\x30":
        raise ValueError(
            f"{path} is not PEM; if it is DER, `openssl {kind} -inform der -in {path}` prints it as PEM"
        )
    raise ValueError(f"{path} holds no {what} in PEM form" if text.strip() else f"{path} is empty")


def _authorities(path: Path) -> tuple[x509.Certificate, ...]:
    blocks = _blocks(path, MOST_BYTES, _CERTIFICATE, "certificate", "x509")
    return tuple(dict.fromkeys(_authority(block, path, at) for at, block in enumerate(blocks, 1)))


def _authority(block: bytes, path: Path, at: int) -> x509.Certificate:
    certificate = _parsed(x509.load_pem_x509_certificate, block, f"certificate {at} in {path}")
    try:
        subject = subject_of(certificate)
        found = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        is_authority = found.ca
    except x509.ExtensionNotFound:
        is_authority = False
    except (ValueError, x509.DuplicateExtension) as problem:
        raise ValueError(f"certificate {at} in {path} is damaged: {problem}")
    if not is_authority:
        raise ValueError(
            f"certificate {at} in {path}, {subject}, is no authority (it lacks CA:TRUE);"
            " the file holds those that sign clients' certificates"
        )
    return certificate


def _lists(path: Path, authorities: Sequence[x509.Certificate]) -> tuple[x509.CertificateRevocationList, ...]:
    blocks = _blocks(path, MOST_LIST_BYTES, _LIST, "revocation list", "crl")
    lists = [
        _parsed(x509.load_pem_x509_crl, block, f"list {at} in {path}") for at, block in enumerate(blocks, 1)
    ]
    for at, each in enumerate(lists, 1):
        _check_list(each, f"list {at} in {path}", authorities)
    return tuple(lists)


def _check_list(
    found: x509.CertificateRevocationList, which: str, authorities: Sequence[x509.Certificate]
) -> None:
    """Whether OpenSSL would use it. One of an authority that only clients' chains will show is left to it."""
    try:
        issuer, kinds = found.issuer, {type(extension.value) for extension in found.extensions}
    except (ValueError, x509.DuplicateExtension) as problem:
        raise ValueError(f"{which} is damaged: {problem}")
    if x509.DeltaCRLIndicator in kinds:
        raise ValueError(f"{which} holds changes only (a delta CRL); a whole list is needed")
    signers = [each for each in authorities if each.subject == issuer]
    if signers and not any(_has_signed(each, found) for each in signers):
        raise ValueError(f"{which} is not signed by {escaped(issuer)}, whose it says it is")


def _has_signed(authority: x509.Certificate, found: x509.CertificateRevocationList) -> bool:
    try:
        return found.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except (TypeError, ValueError, UnsupportedAlgorithm):  # a key of another kind
        return False


def _sift(
    authorities: Sequence[x509.Certificate], lists: Sequence[x509.CertificateRevocationList]
) -> tuple[tuple[x509.Certificate, ...], tuple[x509.Certificate, ...]]:
    """Those that are trusted, and those that others here have revoked.

    OpenSSL would not look: what stands in its store is trusted, and nobody above it is asked.
    """
    known = {each.subject for each in authorities}
    revoked = {
        each
        for each in authorities
        for found in lists
        if found.issuer == each.issuer
        and found.issuer in known
        and found.get_revoked_certificate_by_serial_number(each.serial_number) is not None
    }
    return tuple(e for e in authorities if e not in revoked), tuple(e for e in authorities if e in revoked)


def _parsed(parse: Callable[[bytes], _Read], block: bytes, which: str) -> _Read:
    try:
        return parse(block)
    except ValueError:
        raise ValueError(f"{which} is damaged")


def _problem(error: int, certificate: x509.Certificate, files: ClientFiles) -> str:
    """What OpenSSL has against a certificate, and whose that is."""
    words = Binding.ffi.string(Binding.lib.X509_verify_cert_error_string(error)).decode("ascii", "replace")
    where = f"; see {files.revoked}" if error in _ABOUT_LISTS else ""
    return f"{words}: {_short(certificate.subject)}, issued by {_short(certificate.issuer)}{where}"


def _short(name: x509.Name) -> str:
    text = escaped(name) or "nobody"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def _plain(text: str) -> str:
    """A library's words, which may quote what a stranger has chosen."""
    return "".join(c if " " <= c <= "~" else "?" for c in text[:MOST_SHOWN])


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
