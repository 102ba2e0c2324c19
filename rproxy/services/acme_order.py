"""One certificate, from the order to the chain: RFC 8555 §7.4. Called by `acme_service`.

What comes back is checked before anybody sees it: it must be for our key and all our names, and
OpenSSL must take it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from acme import challenges  # type: ignore[import-untyped]
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from josepy.errors import Error as JoseError
from twisted.internet.defer import Deferred, DeferredList, ensureDeferred, maybeDeferred

from rproxy.keypair import KeyPair
from rproxy.services.acme_answers import base64url, text, texts
from rproxy.services.acme_client import Client
from rproxy.services.acme_problems import AcmeError, Kind, clean, failed_validation, unreachable
from rproxy.services.certificates import check

MOST_CERTIFICATES: Final = 10
"""In a chain; real ones have two to four."""

SIGNED_SEEN: Final = 0.7
"""Seconds between two looks whether it is signed: a second later it should be served."""

CertificateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

KEYS: Final[dict[str, Callable[[], CertificateKey]]] = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "rsa2048": lambda: rsa.generate_private_key(65537, 2048),
    "rsa3072": lambda: rsa.generate_private_key(65537, 3072),
    "rsa4096": lambda: rsa.generate_private_key(65537, 4096),
}
"""By `acme.key_type`. RSA takes tenths of a second, so it is not made in the reactor's thread."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What to order."""

    names: tuple[str, ...]
    profile: str | None = None
    replaces: str | None = None
    """The `renewal_id` of the certificate that this one is for, RFC 9773 §5."""


@dataclass(frozen=True, slots=True)
class Obtained:
    """A certificate that has been checked."""

    key: bytes
    """PEM, PKCS#8."""
    chain: tuple[bytes, ...]
    """PEM, one each, the server's own first."""
    leaf: x509.Certificate


async def obtain(
    client: Client,
    responders: Sequence[Any],
    wish: Wish,
    make_key: Callable[[], Awaitable[CertificateKey]],
) -> Obtained:
    """Order, prove, finalize, fetch and check. Raises `AcmeError`; `responders` are `IResponder`s."""
    url, order = await client.new_order(wish.names, wish.profile, wish.replaces)
    await _prove_all(client, responders, texts(order, "authorizations"))
    # The order follows its authorizations a moment later.
    order = await client.settled(url, "the order", frozenset(("ready", "valid")))
    key = await make_key()
    request = base64url(_request(wish.names, key))
    await client.post(text(order, "finalize"), {"csr": request}, "the certificate request")
    order = await client.settled(url, "the order", frozenset(("valid",)), longest=SIGNED_SEEN)
    chain = await client.chain(text(order, "certificate"))
    return _checked(chain, key, wish.names)


async def _prove_all(client: Client, responders: Sequence[Any], urls: Sequence[str]) -> None:
    """All names at once. If some fail the first failure is told, with the names of all that did."""
    proofs: list[Deferred[None]] = [ensureDeferred(_prove(client, responders, url)) for url in urls]
    # Not gatherResults: it hides the cause in a FirstError, and leaves the other proofs running.
    results = await DeferredList(proofs, consumeErrors=True)
    failures = [result for succeeded, result in results if not succeeded]
    if not failures:
        return
    problems = [failure.value for failure in failures]  # type: ignore[attr-defined]
    told = next((each for each in problems if isinstance(each, AcmeError) and each.names), problems[0])
    if isinstance(told, AcmeError):
        told.names = tuple({name for each in problems for name in getattr(each, "names", ())})
    raise told


async def _prove(client: Client, responders: Sequence[Any], url: str) -> None:
    """One authorization, RFC 8555 §7.5. What an earlier order has proven needs no second proof."""
    authorization, _ = await client.fetch(url, "an authorization")
    if authorization.get("status") == "valid":
        return
    name = _name_of(authorization)
    if authorization.get("status") != "pending":
        raise failed_validation(name, authorization)
    responder, offer = _choose(responders, authorization, name)
    challenge, response = _challenge(client, offer)
    await maybeDeferred(responder.start_responding, name, challenge, response)
    try:
        await client.post(text(offer, "url"), {}, f"the challenge of {name}")
        await client.settled(
            url,
            f"the authorization of {name}",
            frozenset(("valid",)),
            lambda document: failed_validation(name, document),
        )
    finally:
        await maybeDeferred(responder.stop_responding, name, challenge, response)


def _name_of(authorization: dict[str, Any]) -> str:
    identifier = authorization.get("identifier")
    name = clean(identifier.get("value")) if isinstance(identifier, dict) else ""
    if not name:
        raise unreachable("an authorization names nobody")
    return name


def _choose(
    responders: Sequence[Any], authorization: dict[str, Any], name: str
) -> tuple[Any, dict[str, Any]]:
    """The first of our responders that the authority offers a challenge for; others are not looked at."""
    offered = authorization.get("challenges")
    offers = [each for each in offered if isinstance(each, dict)] if isinstance(offered, list) else []
    for responder in responders:
        for offer in offers:
            if offer.get("type") == responder.challenge_type:
                return responder, offer
    wanted = " or ".join(responder.challenge_type for responder in responders)
    raise AcmeError(Kind.REFUSED, f"the authority does not offer {wanted} for {name}", names=[name])


def _challenge(client: Client, offer: dict[str, Any]) -> tuple[Any, Any]:
    """The challenge and our response to it, as `acme` models them."""
    try:
        wanted = {"type": offer["type"], "token": text(offer, "token")}
        challenge = challenges.Challenge.from_json(wanted)
        return challenge, challenge.response(client.jwk)
    except (JoseError, ValueError):
        raise unreachable("the authority's challenge has no usable token")


def _request(names: Sequence[str], key: CertificateKey) -> bytes:
    """A CSR without a common name: browsers do not look at it, and authorities begin to refuse it."""
    san = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    builder = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(san, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def _checked(pem: bytes, key: CertificateKey, names: Sequence[str]) -> Obtained:
    try:
        certificates = x509.load_pem_x509_certificates(pem)
        leaf = certificates[0]
        ours = leaf.public_key() == key.public_key()
        good_for = _good_for(leaf)
    except (ValueError, x509.ExtensionNotFound):
        raise unreachable("what the authority sent is no certificate")
    if len(certificates) > MOST_CERTIFICATES:
        raise unreachable(f"the authority sent a chain of {len(certificates)} certificates")
    if not ours:
        raise unreachable("the authority's certificate is for another key")
    if missing := sorted(set(names) - good_for):
        raise unreachable(f"the authority's certificate is not good for {', '.join(missing)}")
    chain = tuple(each.public_bytes(serialization.Encoding.PEM) for each in certificates)
    _try_out(chain, leaf, key)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Obtained(secret, chain, leaf)


def _good_for(leaf: x509.Certificate) -> set[str]:
    found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {name.lower() for name in found.get_values_for_type(x509.DNSName)}


def _try_out(chain: Sequence[bytes], leaf: x509.Certificate, key: CertificateKey) -> None:
    """What OpenSSL does not take is not stored."""
    pair = KeyPair("the authority's certificate", "its key", b"".join(chain), leaf, key, 0o600, ())
    try:
        check("order", (pair,))
    except ValueError as problem:
        raise unreachable(str(problem))
