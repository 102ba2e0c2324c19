"""What stands in an authority's answers, taken out with care; used by `acme_client` and `acme_order`.

Nothing is believed to be there, or to be of the right kind. Every failure is an `AcmeError`.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from datetime import datetime
from typing import Any, Final

from cryptography import x509

from rproxy.services.acme_http import Reply
from rproxy.services.acme_problems import unreachable

MOST_AUTHORIZATIONS: Final = 200
"""Of one order: twice the names that one of ours has."""


def json_object(reply: Reply, what: str) -> dict[str, Any]:
    """The body of a reply for `what`, which has to be a JSON object."""
    found = reply.document()
    if not isinstance(found, dict):
        raise unreachable(f"the authority's answer for {what} is not a JSON object")
    return found


def text(document: dict[str, Any], key: str) -> str:
    """A text that has to be there. Raises `AcmeError`."""
    found = document.get(key)
    if not isinstance(found, str):
        raise unreachable(f'the authority\'s answer lacks "{key}"')
    return found


def texts(document: dict[str, Any], key: str) -> list[str]:
    """A list of texts that has to be there. Raises `AcmeError`."""
    found = document.get(key)
    if not isinstance(found, list) or not found or not all(isinstance(each, str) for each in found):
        raise unreachable(f'the authority\'s answer lacks "{key}"')
    if len(found) > MOST_AUTHORIZATIONS:
        raise unreachable(f'the authority\'s answer has {len(found)} "{key}"')
    return found


def renewal_id(leaf: x509.Certificate) -> str:
    """How RFC 9773 §4.1 names a certificate: issuer's key id and serial number. Raises `AcmeError`."""
    try:
        issuer = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except (x509.ExtensionNotFound, ValueError):
        issuer = None
    if issuer is None:
        raise unreachable("the certificate does not name its issuer's key")
    serial = leaf.serial_number
    # As DER has it: a zero in front where the first bit would be a sign.
    return f"{base64url(issuer)}.{base64url(serial.to_bytes(serial.bit_length() // 8 + 1, 'big'))}"


def moment(window: object, key: str) -> float:
    """Epoch seconds of a time as in RFC 3339, under this key of a renewal window."""
    try:
        moment = datetime.fromisoformat(window[key])  # type: ignore[index]
        if moment.tzinfo is None:
            raise ValueError
        return moment.timestamp()
    except (TypeError, ValueError, KeyError, OverflowError):
        raise unreachable("its renewal window has no start or end")


def base64url(octets: bytes) -> str:
    """Without padding, as JOSE wants it."""
    return urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")
