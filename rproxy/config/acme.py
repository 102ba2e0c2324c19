"""The models of `[acme]`: where certificates come from that nobody fetches by hand. Part of `schema`."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, PlainValidator, ValidationInfo, field_validator

from rproxy.config.table import Table
from rproxy.config.values import FilePath, Text, Wrong, filled, one_of, plain, quoted

MOST_NAMES: Final = 100
"""In one certificate: what Let's Encrypt signs at most."""
LONGEST_URL: Final = 512
"""Characters of a directory's address; those of public authorities have 30 to 60."""
LEAST_HMAC: Final = 16
"""Bytes of an account binding's key: authorities give 32 or more."""


def _directory(value: object) -> str:
    text = plain(value, "the address of an ACME directory")
    try:
        parts = urlsplit(text)
        sound = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if (
        not sound
        or not re.fullmatch(r"[!-~]+", text)
        or len(text) > LONGEST_URL
        or "@" in text
        or "#" in text
    ):
        hint = "Let's Encrypt's is \"https://acme-v02.api.letsencrypt.org/directory\""
        raise Wrong(f"expected an address that begins with https://, got {quoted(text)}", hint)
    return text


def _email(value: object) -> str:
    text = plain(value, "an email address")
    if not re.fullmatch(r"[!-~]+", text) or "," in text or text.lower().startswith("mailto:"):
        raise Wrong(f"expected one email address in ASCII, got {quoted(text)}")
    return text


def _hmac_key(value: object) -> str:
    """As authorities show it: base64url, with padding or not. Never repeated: messages end up in logs."""
    text = plain(value, "the key of an account binding").rstrip("=")
    try:
        octets = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        octets = b""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", text) or len(octets) < LEAST_HMAC:
        raise Wrong(
            f"expected {LEAST_HMAC} bytes or more in base64url, something else is there",
            "take the HMAC key as the authority shows it, not the account's password",
        )
    return text


KeyType = Literal["p256", "p384", "rsa2048", "rsa3072", "rsa4096"]
Directory = Annotated[str, PlainValidator(_directory)]


class Eab(Table):
    """External account binding: which customer of an authority an account belongs to (RFC 8555 §7.3.4)."""

    kid: Text
    hmac_key: Annotated[str, PlainValidator(_hmac_key)]
    """base64url."""


class Fallback(Table):
    """An authority that is asked when those before it fail."""

    dir_url: Directory
    ca_file: FilePath | None = None
    eab: Eab | None = None
    profile: Text | None = None


class Acme(Table):
    """The authorities that certificates come from, and where they are kept."""

    dir_url: Directory = "https://acme-v02.api.letsencrypt.org/directory"
    email: Annotated[str, PlainValidator(_email)]
    registry_path: FilePath = Field(default="acme_registry", validate_default=True)
    ca_file: FilePath | None = None
    """PEM file of the roots that the authority's own server is verified with; None: those of the system."""
    eab: Eab | None = None
    profile: Text | None = None
    """The kind of certificate, where an authority has several; None: its default."""
    key_type: Annotated[KeyType, PlainValidator(one_of(KeyType))] = "p256"
    fallback: Annotated[tuple[Fallback, ...], BeforeValidator(filled)] = ()

    @field_validator("fallback")
    @classmethod
    def _others(cls, fallback: tuple[Fallback, ...], info: ValidationInfo) -> tuple[Fallback, ...]:
        known = {info.data.get("dir_url")}
        for each in fallback:
            if each.dir_url in known:
                raise Wrong(f"{quoted(each.dir_url)} is asked already", "name each authority once")
            known.add(each.dir_url)
        return fallback

    @property
    def authorities(self) -> tuple[Fallback, ...]:
        """All of them, in the order in which they are asked."""
        first = Fallback.model_construct(
            dir_url=self.dir_url, ca_file=self.ca_file, eab=self.eab, profile=self.profile
        )
        return (first, *self.fallback)


def provable(names: tuple[str, ...]) -> None:
    """Raises `Wrong` for names that an authority cannot verify on a TLS port."""
    wildcard = next((name for name in names if name.startswith("*")), None)
    if wildcard is not None:
        raise Wrong(
            f"no certificate for {quoted(wildcard)}: ACME proves wildcards by DNS only",
            "list the names one by one, or give certificate files",
        )
    if len(names) > MOST_NAMES:
        raise Wrong(
            f"{len(names)} names are too many for one certificate, {MOST_NAMES} are the most",
            "split the app in two",
        )
