"""Host names in the one form that is compared, looked up and logged: lower case, A-labels, no trailing dot.

`canonical` and `canonical_pattern` turn what people write into that form, for the config and the
command line; `from_wire` turns what clients send, for the ClientHello reader and for Host headers.
What a person may write is always something a client can ask for.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from base64 import urlsafe_b64encode
from typing import Final

MAX_LABEL: Final = 63
"""Bytes in one label, RFC 1035 §2.3.4."""

MAX_NAME: Final = 253
"""Characters in a name without its trailing dot: 255 bytes on the wire of DNS (RFC 1035 §2.3.4)."""

MAX_WIRE: Final = 254
"""Bytes of a name a client may send: what DNS allows with the trailing dot; longer is no name at all."""


def from_wire(raw: bytes) -> str | None:
    """The name a client sent, in lower case; None when it cannot be the name of a host.

    Refused: nothing, more than `MAX_WIRE` bytes, a byte other than a-z, A-Z, 0-9, "-" and ".", a label
    that is empty or begins with "-", a trailing dot. Such a name is safe as a file name. Accepted
    although DNS knows better: a label above 63 bytes or ending in "-", a single label, IPv4 text.
    """
    name = raw.lower()
    if len(name) > MAX_WIRE or _WIRE_NAME(name) is None:
        return None
    return name.decode("ascii")


def canonical(text: str) -> str:
    """The canonical form of a host name as a person writes it: any case, U-labels or A-labels.

    Mapped by UTS #46 (non-transitional, STD3 rules), one trailing dot dropped, labels encoded with
    punycode; not IDNA2008, which refuses names in use such as those with emoji.
    Raises `ValueError` with a sentence that says which label is wrong, and why.
    """
    mapped = text.lower() if text.isascii() else _mapped(text)  # ASCII: that is the whole mapping
    labels = mapped.removesuffix(".").split(".")
    if labels == [""]:
        raise ValueError(f"{text!r} is no host name: it is empty")
    name = ".".join([_canonical_label(label, text) for label in labels])
    if len(name) > MAX_NAME:
        raise ValueError(
            f"{text!r} is {len(name)} characters long in DNS form; at most {MAX_NAME} are allowed"
        )
    return name


def canonical_pattern(text: str) -> str:
    """The canonical form of a name or a wildcard such as `*.example.org`, as served names are configured.

    Raises `ValueError` with a sentence that says what to write instead.
    """
    _refuse_url(text)
    if text == "*" or text == "*.":
        raise ValueError(f"{text!r} names no domain; write '*.example.org', or make this the default")
    if "*" in text.removeprefix("*."):
        raise ValueError(f"{text!r}: '*' may only stand for whole labels in front, as in '*.example.org'")
    if text.startswith("*."):
        return "*." + canonical(text[2:])
    return canonical(text)


def hashed(name: str) -> str:
    """The 43 characters that stand for a canonical name where it is too long or secret.

    BLAKE2s-256 in base64url without padding.
    """
    digest = hashlib.blake2s(name.encode("ascii")).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


# Possessive, so that a hostile name costs one pass.
_WIRE_NAME: Final = re.compile(rb"[a-z0-9][a-z0-9-]*+(?:\.[a-z0-9][a-z0-9-]*+)*+").fullmatch

_NOT_LDH: Final = re.compile(r"[^a-z0-9-]")


def _mapped(text: str) -> str:
    import idna  # its tables are large, and most configs need none of them

    try:
        return idna.uts46_remap(text, std3_rules=True, transitional=False)
    except idna.IDNAError as error:
        refused = next((c for c in text if not _mappable(c)), None)
        reason = str(error) if refused is None else _forbidden(refused)
        raise ValueError(f"{text!r}: {reason}") from None


def _mappable(char: str) -> bool:
    import idna

    try:
        idna.uts46_remap(char, std3_rules=True, transitional=False)
    except idna.IDNAError:
        return False
    return True


def _forbidden(char: str) -> str:
    return f"{_named(char)} cannot stand in a host name; letters, digits and '-' can"


def _named(char: str) -> str:
    return f"{char!r} (U+{ord(char):04X})"


def _canonical_label(label: str, text: str) -> str:
    """One mapped label as an A-label or plain ASCII; `text` is the whole name, for the message."""
    place = f"label {label!r} of {text!r}"
    if not label:
        raise ValueError(f"{text!r} has an empty label: a dot in front, or two dots in a row")
    if label.startswith("-"):
        raise ValueError(f"{place} begins with '-', which no client's name may")
    if label.isascii():
        _check_ascii(label, place)
        return label
    if label.startswith("xn--"):
        raise ValueError(f"{place} begins with 'xn--' but is not encoded")
    if unicodedata.category(label[0]).startswith("M"):
        raise ValueError(f"{place} begins with a combining mark, {_named(label[0])}")
    return _fits("xn--" + label.encode("punycode").decode("ascii"), place)


def _check_ascii(label: str, place: str) -> None:
    refused = _NOT_LDH.search(label)
    if refused:
        raise ValueError(f"{place}: {_forbidden(refused[0])}")
    _fits(label, place)
    if label.startswith("xn--") and not _is_a_label(label):
        raise ValueError(f"{place} begins with 'xn--' but encodes no international name")


def _fits(label: str, place: str) -> str:
    if len(label) > MAX_LABEL:
        raise ValueError(
            f"{place} is {len(label)} characters long in DNS form; at most {MAX_LABEL} are allowed"
        )
    return label


def _is_a_label(label: str) -> bool:
    """Whether an `xn--` label decodes to a label that encodes to it again, so that names stay unique."""
    try:
        return canonical(label[4:].encode("ascii").decode("punycode")) == label
    except ValueError:  # UnicodeError is one
        return False


def _refuse_url(text: str) -> None:
    """Refuse what belongs to a URL or an address, with the name that was probably meant."""
    scheme, _, rest = text.rpartition("://")
    host = rest.partition("/")[0]
    if scheme:
        raise ValueError(f"{text!r} has a scheme; write {_bare(host)!r}, the name alone")
    if host != text:
        raise ValueError(f"{text!r} has a path; write {_bare(host)!r}, the name alone")
    if text.count(":") > 1:
        raise ValueError(f"{text!r} is an IPv6 address, which no client sends as a name; write a host name")
    if ":" in text:
        raise ValueError(f"{text!r} has a port; write {_bare(host)!r}, ports belong to the listeners")
    if "_" in text:
        raise ValueError(f"{text!r} has a '_', which host names cannot have; write letters, digits and '-'")


def _bare(host: str) -> str:
    name = host.partition(":")[0]
    return "example.org" if name in ("", "[") else name
