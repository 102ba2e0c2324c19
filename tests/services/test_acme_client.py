"""The client against an authority that misbehaves in every way it is not supposed to."""

from __future__ import annotations

import random
from base64 import urlsafe_b64decode
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from rproxy.services.acme_answers import renewal_id
from rproxy.services.acme_client import POLL_FOR, TRIES, Client, Eab
from rproxy.services.acme_http import Web
from rproxy.services.acme_problems import AcmeError, Kind
from tests.acme_ca import BASE, Answer, Authority, problem

pytestmark = pytest.mark.filterwarnings("ignore:Using readBody:DeprecationWarning")  # of the fake transport
START = 1_800_000_000.0


class World:
    """An authority, and a client of it; time stands still."""

    def __init__(self, **client: Any) -> None:
        self.clock = Clock()
        self.clock.advance(START)
        self.ca = Authority(self.clock.seconds)
        self.client = self.another(**client)

    def another(self, key: ec.EllipticCurvePrivateKey | None = None, **client: Any) -> Client:
        web = Web(self.clock, self.ca.agent)
        key = key or ec.generate_private_key(ec.SECP256R1())
        facts = {"email": "a@example.org"} | client
        now, rng = self.clock.seconds, random.Random(1)
        return Client(web, self.clock, now, rng, f"{BASE}/dir", key, **facts)

    def done(self, work: Coroutine[Deferred[Any], Any, Any], seconds: float = 0) -> Any:
        """Its result; time passes as it likes, at most so many seconds."""
        results: list[Any] = []
        ensureDeferred(work).addBoth(results.append)
        for _ in range(int(seconds / 0.05)):
            if results:
                break
            self.clock.advance(0.05)
        assert results, "it still waits"
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]

    def refused(self, work: Coroutine[Deferred[Any], Any, Any], seconds: float = 0) -> AcmeError:
        with pytest.raises(AcmeError) as caught:
            self.done(work, seconds)
        return caught.value


@pytest.fixture
def world() -> World:
    return World()


def test_an_account_is_made_once_however_many_ask(world: World) -> None:
    first, second = ensureDeferred(world.client.account()), ensureDeferred(world.client.account())
    kids = [world.done(_wait(each)) for each in (first, second)]
    assert kids[0] == kids[1]
    assert world.ca.requests.count("POST /account") == 1
    assert world.ca.contacts == {kids[0]: ["mailto:a@example.org"]}
    assert world.ca.user_agents == {"rproxy"}


async def _wait(deferred: Deferred[Any]) -> Any:
    return await deferred


def test_the_same_key_finds_its_account_and_tells_a_new_address(world: World) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    kid = world.done(world.another(key).account())
    assert world.done(world.another(key, email="b@example.org").account()) == kid
    assert world.ca.contacts == {kid: ["mailto:b@example.org"]}


def test_nonces_are_kept_and_used_once(world: World) -> None:
    for _ in range(3):
        world.done(world.client.new_order(["a.example"], None, None))
    assert world.ca.requests.count("HEAD /nonce") == 1


@pytest.mark.parametrize("refused", [1, TRIES - 1])
def test_a_refused_nonce_is_not_the_end(world: World, refused: int) -> None:
    world.done(world.client.account())
    world.ca.reject_nonces = refused
    world.done(world.client.new_order(["a.example"], None, None))
    assert len(world.ca.orders) == 1


def test_nonces_from_before_a_refusal_are_not_tried_one_by_one(world: World) -> None:
    world.done(world.client.account())
    world.client._nonces.extend(["older-ones"] * 5)
    world.client._nonces.rotate(5)
    before = len(world.ca.requests)
    world.done(world.client.new_order(["a.example"], None, None))
    assert len(world.ca.requests) - before == 2


def test_nonces_that_are_always_refused_are(world: World) -> None:
    world.done(world.client.account())
    world.ca.reject_nonces = 99
    before = len(world.ca.requests)
    told = world.refused(world.client.new_order(["a.example"], None, None))
    assert (told.type, told.kind) == ("badNonce", Kind.UNREACHABLE)
    assert len(world.ca.requests) - before == TRIES


def test_an_account_that_was_lost_is_made_again(world: World) -> None:
    world.done(world.client.account())
    world.ca.lose_accounts()
    world.done(world.client.new_order(["a.example"], None, None))
    assert len(world.ca.orders) == 1


def test_an_account_that_is_lost_at_once_again_is_told(world: World) -> None:
    world.done(world.client.account())
    world.ca.instead["order"] = [problem("accountDoesNotExist")] * 2
    told = world.refused(world.client.new_order(["a.example"], None, None))
    assert (told.type, told.kind) == ("accountDoesNotExist", Kind.REFUSED)


def test_a_customer_is_recognized_by_his_key(world: World) -> None:
    world.ca.customers["me"] = b"k" * 32
    told = world.refused(world.client.account())
    assert told.kind is Kind.REFUSED
    assert "acme.eab" in told.words
    world.done(world.another(eab=Eab("me", b"k" * 32)).account())
    assert world.refused(world.another(eab=Eab("me", b"x" * 32)).account()).kind is Kind.REFUSED


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(404, b"<html>"), f"{BASE}/dir is not an ACME directory (HTTP 404); check acme.dir_url"),
        (Answer(200, b"[]"), f"{BASE}/dir is not an ACME directory (HTTP 200); check acme.dir_url"),
        (Answer(200, b"{" * 100000), f"{BASE}/dir is not an ACME directory (HTTP 200); check acme.dir_url"),
        (Answer(200, {"newNonce": 1}), f"{BASE}/dir is not an ACME directory (HTTP 200); check acme.dir_url"),
        (Answer(503, b"later"), "the answer for its directory from ca.example is HTTP 503"),
        (problem("serverInternal", 500, "ouch"), "ouch (serverInternal)"),
    ],
)
def test_what_is_no_directory_is_told_in_words(world: World, answer: Answer, words: str) -> None:
    world.ca.instead["dir"] = [answer]
    told = world.refused(world.client.account())
    assert (told.words, told.kind) == (words, Kind.UNREACHABLE)
    world.done(world.client.account())


def test_the_directory_is_read_again_after_an_hour(world: World) -> None:
    world.done(world.client.account())
    world.clock.advance(3601)
    world.done(world.client.new_order(["a.example"], None, None))
    assert world.ca.requests.count("GET /dir") == 2


@pytest.mark.parametrize(
    "document",
    [b"", b"nonsense", [], 5, None, {"newNonce": "http://ca.example/nonce"}, {"newNonce": "ftp://x"}],
)
def test_an_address_that_is_not_https_is_not_asked(world: World, document: Any) -> None:
    world.ca.instead["dir"] = [
        Answer(200, world.ca.directory() | document if isinstance(document, dict) else document)
    ]
    assert world.refused(world.client.account()).kind is Kind.UNREACHABLE
    assert world.ca.requests == ["GET /dir"]


@pytest.mark.parametrize(
    "answer", [Answer(201, b"oops"), Answer(201, {}, {"Location": "javascript:x"}), Answer(302)]
)
def test_an_account_without_an_address_is_none(world: World, answer: Answer) -> None:
    world.ca.instead["account"] = [answer]
    assert world.refused(world.client.account()).kind is Kind.UNREACHABLE


@pytest.mark.parametrize("nonce", ["!", "", "abcde", "a b", "é", "x" * 600])
def test_an_authority_without_nonces_is_not_asked_for_ever(world: World, nonce: str) -> None:
    world.ca._new_nonce = lambda: nonce  # type: ignore[method-assign]
    assert world.refused(world.client.account()).words == "ca.example gives no nonces"


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (problem("rateLimited", 429, Retry_After="120"), 120),
        (problem("rateLimited", 429, Retry_After="Fri, 15 Jan 2027 08:01:40 GMT"), 100),
        (problem("rateLimited", 429, "too many, retry after 2027-01-15 08:01:00 UTC: see"), 60),
        (problem("rateLimited", 429, "too many, retry after 2027-01-15T08:02:00Z"), 120),
        (problem("rateLimited", 429, "retry after 2027-99-15 08:01:00 UTC"), None),
        (problem("rateLimited", 429, Retry_After="soon"), None),
        (problem("rateLimited", 429, Retry_After="-1"), None),
    ],
)
def test_too_often_is_told_with_its_time(world: World, answer: Answer, seconds: float | None) -> None:
    world.ca.instead["order"] = [answer]
    told = world.refused(world.client.new_order(["a.example"], None, None))
    assert told.kind is Kind.LIMITED
    assert told.retry_after == seconds


def test_an_order_replaces_a_certificate_where_that_is_known(world: World) -> None:
    world.done(world.client.new_order(["a.example"], None, "x.y"))
    assert "replaces" not in world.ca.orders[0].body, "no renewal information in the directory"
    world.ca.window = (1, 2)
    world.clock.advance(9999)
    world.done(world.client.new_order(["a.example"], None, "x.y"))
    assert world.ca.orders[1].body["replaces"] == "x.y"


@pytest.mark.parametrize(
    "answer",
    [problem("alreadyReplaced", 409), problem("serverInternal", 500), problem("malformed", 404), Answer(500)],
)
def test_that_it_replaces_something_is_never_worth_a_failure(world: World, answer: Answer) -> None:
    world.ca.window = (1, 2)
    world.ca.instead["order"] = [answer]
    world.done(world.client.new_order(["a.example"], None, "x.y"))
    assert [order.body.get("replaces") for order in world.ca.orders] == [None]


def test_too_often_is_not_asked_twice_for_a_replacement(world: World) -> None:
    world.ca.window = (1, 2)
    world.ca.instead["order"] = [problem("rateLimited", 429)]
    world.refused(world.client.new_order(["a.example"], None, "x.y"))
    assert world.ca.orders == []


def test_a_profile_is_asked_for_where_it_exists(world: World) -> None:
    told = world.refused(world.client.new_order(["a.example"], "short", None))
    assert (told.kind, told.words) == (Kind.REFUSED, 'ca.example has no profile "short", it has: none')
    world.ca.meta = {"profiles": {"classic": "x", "short": "y"}}
    world.clock.advance(9999)
    world.done(world.client.new_order(["a.example"], "short", None))
    assert world.ca.orders[0].body["profile"] == "short"
    told = world.refused(world.client.new_order(["a.example"], "shrot", None))
    assert told.words == 'ca.example has no profile "shrot", it has: classic, short'


def test_waiting_doubles_and_ends(world: World) -> None:
    url, _ = world.done(world.client.new_order(["a.example"], None, None))
    before = len(world.ca.requests)
    told = world.refused(world.client.settled(url, "the order", frozenset(["valid"])), POLL_FOR + 30)
    assert told.words == "the order is still pending after 180 s"
    assert POLL_FOR <= world.clock.seconds() - START <= POLL_FOR + 15
    assert 18 <= len(world.ca.requests) - before <= 30


def test_what_the_authority_says_about_waiting_counts(world: World) -> None:
    url, order = world.done(world.client.new_order(["a.example"], None, None))
    world.ca.instead["order"] = [
        Answer(200, order, {"Retry-After": after}) for after in ("7", "9999999999999", "0")
    ]
    world.ca.instead["order"].append(Answer(200, {"status": "valid"}))
    waiting = ensureDeferred(world.client.settled(url, "the order", frozenset(["valid"])))
    for seconds, left in ((6.9, 3), (0.2, 2), (59.8, 2), (0.2, 1), (0.1, 1), (0.1, 0)):
        world.clock.advance(seconds)
        assert len(world.ca.instead["order"]) == left, seconds
    assert world.done(_wait(waiting)) == {"status": "valid"}


def test_an_order_that_has_become_invalid_says_why(world: World) -> None:
    url, _ = world.done(world.client.new_order(["a.example"], None, None))
    world.ca.instead["order"] = [
        Answer(200, {"status": "invalid", "error": problem("caa", 403, "no\x1b[1m!").document}),
        Answer(200, {"status": "expired"}),
        Answer(200, {"status": "invalid", "error": "x"}),
    ]
    wanted = frozenset(["valid"])
    told = world.refused(world.client.settled(url, "the order", wanted))
    assert told.kind is Kind.REFUSED
    assert told.words.startswith("no [1m! (caa): ")
    assert world.refused(world.client.settled(url, "it", wanted)).words == "the order is expired"
    assert world.refused(world.client.settled(url, "it", wanted)).words == "the order is invalid"


def certificate(serial: int, issuer_key: bytes | None) -> x509.Certificate:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    builder = (
        x509.CertificateBuilder(name, name, key.public_key())
        .serial_number(serial)
        .not_valid_before(datetime.now(UTC))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
    )
    if issuer_key is not None:
        identifier = x509.AuthorityKeyIdentifier(issuer_key, None, None)
        builder = builder.add_extension(identifier, critical=False)
    return builder.sign(key, hashes.SHA256())


def test_a_certificate_is_named_as_in_the_example_of_rfc_9773() -> None:
    issuer = bytes.fromhex("69885B6B87464041E1B37B847BA0AE2CDE01C8D4")
    leaf = certificate(0x87654321, issuer)
    assert renewal_id(leaf) == "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"
    assert urlsafe_b64decode(renewal_id(certificate(0x7F, issuer)).partition(".")[2] + "==") == b"\x7f"


def test_a_certificate_without_an_issuers_key_has_no_name() -> None:
    with pytest.raises(AcmeError):
        renewal_id(certificate(1, None))


def test_renewal_information_is_asked_for_and_may_be_absent(world: World) -> None:
    leaf = certificate(5, b"key")
    assert world.done(world.client.suggestion(leaf)) is None
    world.ca.window, world.ca.explanation = (START + 5.5, START + 9), "https://ca.example/why"
    world.clock.advance(9999)
    found = world.done(world.client.suggestion(leaf))
    assert found == (START + 5.5, START + 9, "https://ca.example/why", 21600)
    assert f"GET /renewal/{renewal_id(leaf)}" in world.ca.requests


@pytest.mark.parametrize(
    "document",
    [
        b"x",
        [],
        {},
        {"suggestedWindow": 5},
        {"suggestedWindow": {"start": "2027-01-01T00:00:00Z"}},
        {"suggestedWindow": {"start": "2027-01-01T00:00:00", "end": "2027-01-02T00:00:00"}},
        {"suggestedWindow": {"start": "2027-01-02T00:00:00Z", "end": "2027-01-01T00:00:00Z"}},
        {"suggestedWindow": {"start": "2027-01-02T00:00:00Z", "end": "2027-01-02T00:00:00Z"}},
        {"suggestedWindow": {"start": "9999999-01-02T00:00:00Z", "end": 7}},
    ],
)
def test_nonsense_about_renewal_is_no_answer(world: World, document: Any) -> None:
    world.ca.window = (1, 2)
    world.ca.instead["renewal"] = [Answer(200, document)]
    assert world.refused(world.client.suggestion(certificate(5, b"key"))).kind is Kind.UNREACHABLE
