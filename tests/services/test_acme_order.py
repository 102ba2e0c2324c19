"""From the order to the certificate: what is proven, what is asked, and what is not believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred, ensureDeferred, fail, succeed

from rproxy.services.acme_order import KEYS, CertificateKey, Obtained, Wish, obtain
from rproxy.services.acme_problems import AcmeError, Kind
from tests.acme_ca import Answer, problem
from tests.services.test_acme_client import World
from tests.tlspeers import make

pytestmark = pytest.mark.filterwarnings("ignore:Using readBody:DeprecationWarning")  # of the fake transport
NAMES = ("a.example", "b.example")


class Responder:
    """Remembers what it was asked to answer."""

    challenge_type = "tls-alpn-01"

    def __init__(self) -> None:
        self.began: list[tuple[str, str]] = []
        self.ended: list[tuple[str, str]] = []

    def start_responding(self, name: str, challenge: Any, response: Any) -> Deferred[None]:
        assert challenge.typ == "tls-alpn-01"
        self.began.append((name, response.key_authorization))
        return succeed(None)

    def stop_responding(self, name: str, challenge: Any, response: Any) -> None:
        self.ended.append((name, response.key_authorization))


async def new_key() -> CertificateKey:
    return ec.generate_private_key(ec.SECP256R1())


class Shop(World):
    def __init__(self) -> None:
        super().__init__()
        self.responder = Responder()

    def order(self, *names: str) -> Any:
        return obtain(self.client, [self.responder], Wish(names or NAMES), new_key)


@pytest.fixture
def shop() -> Shop:
    return Shop()


def test_a_certificate_for_several_names(shop: Shop) -> None:
    got: Obtained = shop.done(shop.order(), 5)
    san = got.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert tuple(san.get_values_for_type(x509.DNSName)) == NAMES
    key = serialization.load_pem_private_key(got.key, None)
    assert key.public_key() == got.leaf.public_key()
    assert [name for name, _ in shop.responder.began] == list(NAMES)
    thumbprint = shop.responder.began[0][1].partition(".")[2]
    assert shop.responder.began[0][1].startswith("A" * 43 + ".")
    assert len(thumbprint) == 43
    assert sorted(shop.responder.ended) == sorted(shop.responder.began)


def test_a_challenge_is_answered_once_however_long_it_takes(shop: Shop) -> None:
    shop.ca.pending_looks = 5
    shop.done(shop.order("a.example"), 60)
    assert shop.ca.requests.count("POST /challenge/a.example") == 1


def test_what_is_proven_needs_no_second_proof(shop: Shop) -> None:
    shop.ca.proven.add("a.example")
    shop.done(shop.order(), 5)
    assert [name for name, _ in shop.responder.began] == ["b.example"]


def test_a_name_that_is_not_believed_is_told_and_nothing_is_left_behind(shop: Shop) -> None:
    shop.ca.disbelieved["b.example"] = problem("connection", detail="refused").document
    told = shop.refused(shop.order(), 5)
    assert (told.kind, told.names) == (Kind.VALIDATION, ("b.example",))
    assert told.words.startswith("b.example: refused (connection): it must reach")
    assert sorted(shop.responder.ended) == sorted(shop.responder.began)
    assert shop.ca.csrs == {}


def test_all_names_that_are_not_believed_are_told(shop: Shop) -> None:
    for name in NAMES:
        shop.ca.disbelieved[name] = problem("dns").document
    assert set(shop.refused(shop.order(), 5).names) == set(NAMES)


def test_a_challenge_that_cannot_be_posted_is_taken_back(shop: Shop) -> None:
    shop.ca.instead["challenge"] = [problem("serverInternal", 500)]
    shop.refused(shop.order("a.example"), 5)
    assert shop.responder.ended == shop.responder.began != []


def test_giving_up_takes_challenges_back(shop: Shop) -> None:
    shop.ca.pending_looks = 99
    under_way = ensureDeferred(shop.order())
    shop.clock.advance(1)
    under_way.addErrback(lambda _: None)
    under_way.cancel()
    assert sorted(shop.responder.ended) == sorted(shop.responder.began)
    assert len(shop.responder.began) == 2
    assert shop.clock.getDelayedCalls() == []


@pytest.mark.parametrize("state", ["invalid", "deactivated", "expired", "revoked", "nonsense", None])
def test_an_authorization_that_is_over_is_a_failure_of_its_name(shop: Shop, state: Any) -> None:
    document = {"status": state, "identifier": {"type": "dns", "value": "a.example"}, "challenges": []}
    shop.ca.instead["authorization"] = [Answer(200, document)]
    told = shop.refused(shop.order("a.example"), 5)
    assert told.names == ("a.example",)
    assert shop.responder.began == []


OFFER = {"type": "tls-alpn-01", "token": "A" * 43, "url": "https://ca.example/challenge/a.example"}


@pytest.mark.parametrize(
    ("challenges", "kind"),
    [
        ([], Kind.REFUSED),
        (None, Kind.REFUSED),
        ([5, {"type": "http-01"}], Kind.REFUSED),
        ([OFFER | {"token": 5}], Kind.UNREACHABLE),
        ([OFFER | {"token": "!"}], Kind.UNREACHABLE),
        ([OFFER | {"token": "../x"}], Kind.UNREACHABLE),
        ([OFFER | {"url": None}], Kind.UNREACHABLE),
        ([OFFER | {"url": "http://x"}], Kind.UNREACHABLE),
    ],
)
def test_an_offer_that_cannot_be_used_is_refused(shop: Shop, challenges: Any, kind: Kind) -> None:
    document = {
        "status": "pending",
        "identifier": {"type": "dns", "value": "a.example"},
        "challenges": challenges,
    }
    shop.ca.instead["authorization"] = [Answer(200, document)]
    assert shop.refused(shop.order("a.example"), 5).kind is kind
    assert shop.responder.ended == shop.responder.began


@pytest.mark.parametrize("identifier", [None, 5, {}, {"value": 5}, {"value": ""}])
def test_an_authorization_for_nobody_is_nonsense(shop: Shop, identifier: Any) -> None:
    shop.ca.instead["authorization"] = [Answer(200, {"status": "pending", "identifier": identifier})]
    assert shop.refused(shop.order("a.example"), 5).words == "an authorization names nobody"


@pytest.mark.parametrize("urls", [None, [], 5, [5], ["https://x"] * 201])
def test_an_order_without_authorizations_or_with_too_many_is_nonsense(shop: Shop, urls: Any) -> None:
    shop.ca.instead["order"] = [
        Answer(201, {"authorizations": urls}, {"Location": "https://ca.example/order/0"})
    ]
    assert shop.refused(shop.order("a.example"), 5).kind is Kind.UNREACHABLE


def other(pem: bytes) -> bytes:
    return make("a.example", number=9).pem


@pytest.mark.parametrize(
    ("chain", "words"),
    [
        (other, "the authority's certificate is for another key"),
        (lambda pem: other(pem) + pem, "the authority's certificate is for another key"),
        (lambda pem: b"", "what the authority sent is no certificate"),
        (lambda pem: b"{}", "what the authority sent is no certificate"),
        (lambda pem: pem[:-60], "what the authority sent is no certificate"),
        (lambda pem: pem + 10 * other(pem), "the authority sent a chain of 11 certificates"),
    ],
)
def test_a_certificate_that_is_not_ours_is_not_taken(
    shop: Shop, chain: Callable[[bytes], bytes], words: str
) -> None:
    shop.ca.chain_of = chain
    told = shop.refused(shop.order("a.example"), 5)
    assert (told.kind, told.words) == (Kind.UNREACHABLE, words)


def test_a_certificate_that_lacks_a_name_is_not_taken(shop: Shop) -> None:
    shop.ca.names_of = lambda names: names[:1]
    told = shop.refused(shop.order(), 5)
    assert told.words == "the authority's certificate is not good for b.example"


def test_a_chain_is_kept_in_its_order_and_nothing_else_with_it(shop: Shop) -> None:
    above = make("above", ca=True)
    shop.ca.chain_of = lambda pem: b"text before\n" + pem + b"text between\n" + above.pem + above.key_pem
    got: Obtained = shop.done(shop.order("a.example"), 5)
    assert len(got.chain) == 2
    assert got.chain[1] == above.pem
    assert b"PRIVATE" not in b"".join(got.chain)


def test_an_order_that_fails_at_the_end_is_told(shop: Shop) -> None:
    shop.ca.instead["finalize"] = [problem("badCSR", 400, "no")]
    assert shop.refused(shop.order(), 5).kind is Kind.REFUSED


@pytest.mark.parametrize("kind", KEYS)
def test_there_is_a_key_of_every_kind(kind: str) -> None:
    key = KEYS[kind]()
    assert {"p256": 256, "p384": 384}.get(
        kind, int(kind.removeprefix("rsa") or 0) if "rsa" in kind else 0
    ) == (key.key_size)


def test_a_mistake_of_ours_is_not_hidden_behind_another(shop: Shop) -> None:
    shop.responder.start_responding = lambda *_: fail(RuntimeError("a bug"))  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="a bug"):
        shop.done(shop.order("a.example"), 5)


def test_the_failure_of_a_name_is_told_before_trouble_on_the_way(shop: Shop) -> None:
    shop.ca.disbelieved["b.example"] = problem("dns").document
    shop.ca.instead["challenge"] = [problem("serverInternal", 500)]
    told = shop.refused(shop.order(), 5)
    assert isinstance(told, AcmeError)
    assert told.names == ("b.example",)
