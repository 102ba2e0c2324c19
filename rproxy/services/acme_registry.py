"""The registry: what ACME keeps on disk. Used by `acme_service` and `acme_store`, read by `certreport`.

    certificates/<label>.pem    a key and its chain; the label is the app's first name
    certificates/<label>.json   what is remembered of it, an `acme_schedule.Record`
    accounts/<authority>.pem    the key of the account there
    budget.json                 failed validations of the last hour

Files have mode 0600, folders 0700; a file is written whole or not at all, and not in the reactor's
thread, for a disk may take its time. The folders of an rpxy registry may be beside these.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from rproxy.keypair import KeyPair, load_pair
from rproxy.services.acme_schedule import Budget, Record
from rproxy.services.localca import make_private, write_private

log = Logger()

LONGEST_LABEL: Final = 200
"""Characters, of a file name's 255; a host name may have 253."""
MOST_BYTES: Final = 1 << 20
"""Of a JSON file here: a record has some 700, and who puts something else here is not listened to."""

InThread = Callable[..., Deferred[Any]]
"""Calls a function with arguments somewhere where it may block: `deferToThread`."""


class Registry:
    """The folder of `acme.registry_path`. Nothing is made before something is written."""

    def __init__(self, directory: Path, in_thread: InThread) -> None:
        self.directory, self._in_thread = directory, in_thread
        self.certificates = directory / "certificates"
        self._writing = DeferredLock()

    def path(self, label: str) -> Path:
        """Where the certificate of this label is, with its key."""
        return self.certificates / f"{label}.pem"

    def pair(self, label: str) -> KeyPair | None:
        """The certificate of this label; None when there is none that can be used."""
        path = self.path(label)
        if not path.exists():
            return None
        try:
            pair = load_pair(path, path)
        except ValueError as problem:
            log.warn("{why}; another is ordered", why=str(problem))
            return None
        if pair.key_mode & 0o077:
            log.warn("{path} could be read by others; now it cannot", path=pair.key_path)
            path.chmod(0o600)
        return pair

    def record(self, label: str) -> Record:
        """What is remembered of this label; an empty record for nothing, or for a file that is damaged."""
        return read_record(self.certificates / f"{label}.json")

    def keep_record(self, label: str, record: Record) -> Deferred[None]:
        """Write it. The Deferred fails with `OSError`."""
        return self.write(self.certificates / f"{label}.json", _json(asdict(record)))

    def budget(self) -> Budget:
        """The failures of the last hour."""
        return read_budget(self.directory / "budget.json")

    def keep_budget(self, budget: Budget) -> Deferred[None]:
        """Write it. The Deferred fails with `OSError`."""
        return self.write(self.directory / "budget.json", _json(dict(budget.failures)))

    def account_key(self, directory_url: str) -> ec.EllipticCurvePrivateKey:
        """The key of the account at this authority, made when there is none. Blocks.

        Raises `OSError`, and `ValueError` with a sentence for a file that is no such key.
        """
        path = self.directory / "accounts" / f"{authority_label(directory_url)}.pem"
        if not path.exists():
            make_private(self.directory)
            make_private(path.parent)
            write_private(path, _new_account_key(), replace=False)
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise ValueError(f"{path} is not an account's key; remove it to get a new account")
        return key

    def write(self, path: Path, content: bytes) -> Deferred[None]:
        """A private file, one after the other. The Deferred fails with `OSError`."""
        return self._writing.run(self._in_thread, self._write, path, content)

    def adopt(self, label: str, names: Iterable[str], directory_urls: Iterable[str]) -> KeyPair | None:
        """Take over a certificate that is there under another label, or that rpxy has left. Blocks.

        A copy is made of the one that is good for most of `names`. None when there is none.
        """
        wanted = set(names)
        paths = [*self.certificates.glob("*.pem"), *_of_rpxy(self.directory, wanted, directory_urls)]
        merits = {path: merit for path in paths if (merit := _merit(path, wanted))[0]}
        if not merits:
            return None
        best = max(merits, key=lambda path: merits[path])
        try:
            pair = load_pair(best, best)
            self._write(self.path(label), best.read_bytes())
            remembered = best.with_suffix(".json")
            if remembered.parent == self.certificates and remembered.exists():
                self._write(self.certificates / f"{label}.json", remembered.read_bytes())
        except (OSError, ValueError) as problem:
            log.warn("cannot take over {path}: {why}", path=str(best), why=str(problem))
            return None
        log.info("took over {path} for {names}", path=str(best), names=", ".join(sorted(wanted)))
        return pair

    def _write(self, path: Path, content: bytes) -> None:
        make_private(self.directory)
        make_private(path.parent)
        write_private(path, content)


def label_of(names: tuple[str, ...]) -> str:
    """What an app's certificate is called: its first name, so that adding others changes nothing."""
    name = names[0]
    if not _LABEL(name):
        raise ValueError(f'"{name[:99]}" cannot be a file name')
    if len(name) <= LONGEST_LABEL:
        return name
    return f"{name[: LONGEST_LABEL - 17]}+{sha256(name.encode('ascii')).hexdigest()[:16]}"


def authority_label(directory_url: str) -> str:
    """What an authority's files are called: its host, and which of the directories there it is."""
    host = re.sub(r"[^a-z0-9.-]", "_", directory_url.removeprefix("https://").partition("/")[0].lower())
    return f"{host[:LONGEST_LABEL]}+{sha256(directory_url.encode()).hexdigest()[:16]}"


def certificate_id(leaf: x509.Certificate) -> str:
    """Which certificate it is, for `Record.certificate`."""
    return sha256(leaf.public_bytes(serialization.Encoding.DER)).hexdigest()


def read_record(path: Path) -> Record:
    """The record in this file; an empty one for nothing, or for a file that is damaged."""
    found = _read(path)
    try:
        return Record(**{each.name: _field(found, each.name, each.default) for each in fields(Record)})
    except (TypeError, ValueError):
        log.warn("{path} is damaged and not used", path=str(path))
        return Record()


def read_budget(path: Path) -> Budget:
    """The budget in this file; an empty one for nothing, or for a file that is damaged."""
    try:
        return Budget({name: tuple(map(float, times)) for name, times in _read(path).items()})
    except (TypeError, ValueError):
        log.warn("{path} is damaged and not used", path=str(path))
        return Budget()


_LABEL = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?").fullmatch


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1).encode("ascii") + b"\n"


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(MOST_BYTES) or b"{}")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as problem:
        log.warn("cannot use {path}: {why}", path=str(path), why=str(problem))
        return {}
    return found if isinstance(found, dict) else {}


def _field(found: dict[str, Any], name: str, default: Any) -> Any:
    """A value of the kind that the field has. Raises `TypeError`, `ValueError`."""
    value = found.get(name, default)
    if isinstance(default, tuple):
        begins, ends = map(float, value)
        return begins, ends
    if isinstance(default, float):
        return float(value)
    if type(value) is not type(default):
        raise TypeError(name)
    return value


def _new_account_key() -> bytes:
    """P-256, which every authority takes."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _merit(path: Path, wanted: set[str]) -> tuple[int, float]:
    """For how many of the names a stored certificate is good, and until when. Without its key: there may
    be a thousand."""
    try:
        with path.open("rb") as file:
            block = _FIRST_CERTIFICATE(file.read(MOST_BYTES))
        leaf = x509.load_pem_x509_certificate(block[0] if block else b"")
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return 0, 0.0
    names = {name.lower() for name in found.get_values_for_type(x509.DNSName)}
    return len(wanted & names), leaf.not_valid_after_utc.timestamp()


_FIRST_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]*+-----END CERTIFICATE-----").search


def _of_rpxy(directory: Path, names: set[str], directory_urls: Iterable[str]) -> Iterator[Path]:
    """rpxy has a folder per name, and hashes name and directory into the file's name.

    Some of its versions write the directory in lower case, some do not.
    """
    urls = {form for url in directory_urls for form in (url, url.lower())}
    for name in sorted(names):
        for url in sorted(urls):
            mark = urlsafe_b64encode(sha256(f"{name}\0{url}".encode()).digest()).rstrip(b"=").decode()
            path = directory / name / f"cached_cert_{mark}"
            if path.exists():
                yield path
