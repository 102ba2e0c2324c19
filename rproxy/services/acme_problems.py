"""What can go wrong between us and a certificate authority, and what follows. Raised by `acme_client`.

One exception, `AcmeError`, whose `kind` decides when it is tried again (`acme_schedule`) and
whose words a person reads: in the log, and in what `rproxy certs` prints. What an authority wrote
is text of a stranger: it is cut short and keeps no control characters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final

MOST_WORDS: Final = 400
"""Characters kept of what an authority says; Let's Encrypt's longest explanations have some 300."""
URN: Final = "urn:ietf:params:acme:error:"


class Kind(Enum):
    """When it makes sense to try again."""

    VALIDATION = "validation"
    """It did not reach us under one of the names. Counts against the budget of the name."""
    REFUSED = "refused"
    """It will say the same again until somebody changes something."""
    LIMITED = "limited"
    """Too often; it says, or we guess, when it will listen again."""
    UNREACHABLE = "unreachable"
    """It does not answer, or not in a way that makes sense. Costs nobody anything."""
    OURS = "ours"
    """This machine's: a disk that is full, a key that cannot be read."""


class AcmeError(Exception):
    """Why there is no certificate. `names` are those it is about, `retry_after` is in seconds from now."""

    def __init__(
        self,
        kind: Kind,
        words: str,
        *,
        type: str = "",
        names: Sequence[str] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(words)
        self.kind, self.words, self.type = kind, words, type
        self.names, self.retry_after = tuple(names), retry_after


def unreachable(words: str, retry_after: float | None = None) -> AcmeError:
    """The authority does not answer, or nonsense."""
    return AcmeError(Kind.UNREACHABLE, words, retry_after=retry_after)


def ours(words: str) -> AcmeError:
    """The fault is on this machine."""
    return AcmeError(Kind.OURS, words)


def refusal(status: int, document: object, where: str, retry_after: float | None, now: float) -> AcmeError:
    """What an HTTP error status means; `document` is its body if that was JSON (RFC 7807), `now` in epoch
    seconds. `where` says what was asked for."""
    problem = document if isinstance(document, dict) else {}
    name = type_of(problem)
    if not name:
        return unreachable(f"the answer for {where} is HTTP {status}", retry_after)
    if retry_after is None:
        retry_after = _date_in(problem.get("detail"), now)
    kind = _kind(name, status)
    return AcmeError(kind, words_of(problem), type=name, names=_names(problem), retry_after=retry_after)


def failed_validation(name: str, authorization: dict[str, Any]) -> AcmeError:
    """Why the authority is not convinced that `name` is ours, as its authorization says (RFC 8555 §7.5.1)."""
    challenges = authorization.get("challenges")
    found = [
        each["error"]
        for each in (challenges if isinstance(challenges, list) else [])
        if isinstance(each, dict) and isinstance(each.get("error"), dict)
    ]
    problem = found[0] if found else {}
    kind = Kind.REFUSED if type_of(problem) in _ALWAYS_REFUSED else Kind.VALIDATION
    status = clean(authorization.get("status"))
    words = words_of(problem) if found else f"the authorization is {status or 'over'}"
    return AcmeError(kind, f"{name}: {words}", type=type_of(problem), names=[name])


def failed_order(order: dict[str, Any]) -> AcmeError:
    """Why an order has become invalid after its names were proven (RFC 8555 §7.4)."""
    problem = order.get("error")
    problem = problem if isinstance(problem, dict) else {}
    name = type_of(problem)
    if not name:
        return unreachable(f"the order is {clean(order.get('status')) or 'over'}")
    return AcmeError(_kind(name, 403), words_of(problem), type=name, names=_names(problem))


def type_of(problem: dict[str, Any]) -> str:
    """The last part of an ACME error's name; empty for anything else (RFC 8555 §6.7)."""
    named = problem.get("type")
    if not isinstance(named, str) or not named.startswith(URN):
        return ""
    return clean(named.removeprefix(URN))[:64]


def words_of(problem: dict[str, Any]) -> str:
    """What the authority says, and what to do about it where we know that."""
    name = type_of(problem)
    said = clean(problem.get("detail")) or clean(problem.get("title")) or "no reason given"
    for each in _subproblems(problem)[:3]:
        said += f"; {clean(each.get('detail'))}"
    hint = HINTS.get(name, "")
    return f"{said[:MOST_WORDS]} ({name or 'no type'}){': ' + hint if hint else ''}"


def clean(text: object) -> str:
    """A stranger's text as one short line; empty for what is no text."""
    if not isinstance(text, str):
        return ""
    shown = "".join(c if c.isprintable() else " " for c in text[: 2 * MOST_WORDS])
    return " ".join(shown.split())[:MOST_WORDS]


HINTS: Final = {
    "connection": "it must reach this proxy's TLS port on port 443 of the name",
    "dns": "the name must have an address that leads to this proxy",
    "tls": "something else answers on port 443 of the name, or takes acme-tls/1 away",
    "unauthorized": "it must reach this proxy's TLS port on port 443 of the name, and nobody else there",
    "incorrectResponse": "another ACME client answered for the name",
    "caa": "the name's CAA records in DNS allow other authorities only",
    "rejectedIdentifier": "this authority does not sign for the name",
    "unsupportedIdentifier": "this authority does not sign for such names",
    "externalAccountRequired": "give acme.eab, with the key id and key from your account there",
    "userActionRequired": "read its terms of service, then reload",
    "invalidContact": "check acme.email",
    "unsupportedContact": "check acme.email",
    "invalidProfile": "check acme.profile",
    "badPublicKey": "try another acme.key_type",
}
"""What a person can do, per type of RFC 8555 §6.7."""

_ALWAYS_REFUSED: Final = frozenset(
    (
        "accountDoesNotExist",
        "badCSR",
        "badPublicKey",
        "badSignatureAlgorithm",
        "caa",
        "externalAccountRequired",
        "invalidContact",
        "invalidProfile",
        "rejectedIdentifier",
        "unsupportedContact",
        "unsupportedIdentifier",
        "userActionRequired",
    )
)
_CHALLENGED: Final = frozenset(("connection", "dns", "incorrectResponse", "tls"))
_TROUBLE: Final = frozenset(("badNonce", "orderNotReady", "serverInternal", "compound"))


def _kind(name: str, status: int) -> Kind:
    if name == "rateLimited" or status == 429:
        return Kind.LIMITED
    if name in _ALWAYS_REFUSED:
        return Kind.REFUSED
    if name in _CHALLENGED:
        return Kind.VALIDATION
    # What is left is about a request that we made wrongly: it would be as wrong the next time.
    return Kind.UNREACHABLE if status >= 500 or name in _TROUBLE else Kind.REFUSED


def _subproblems(problem: dict[str, Any]) -> list[dict[str, Any]]:
    below = problem.get("subproblems")
    return [each for each in below if isinstance(each, dict)] if isinstance(below, list) else []


def _names(problem: dict[str, Any]) -> list[str]:
    found = [each.get("identifier") for each in _subproblems(problem)]
    return [clean(each.get("value")) for each in found if isinstance(each, dict)]


_DATE = re.compile(r"retry after (\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?: ?UTC|Z)").search


def _date_in(detail: object, now: float) -> float | None:
    """Let's Encrypt writes the time into the text as well, and at times only there."""
    found = _DATE(clean(detail))
    if found is None:
        return None
    try:
        until = datetime.fromisoformat(f"{found[1]}T{found[2]}").replace(tzinfo=UTC)
    except ValueError:
        return None
    return max(0.0, until.timestamp() - now)
