"""A certificate authority in memory that does what a test wants: RFC 8555 and RFC 9773 as far as we use them.

It verifies every signature and takes each nonce once. Real validation is pebble's part, in the
end-to-end tests; here the test says which names are believed.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, NamedTuple

from acme import jws  # type: ignore[import-untyped]
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from josepy.jwk import JWKOct
from treq.testing import RequestTraversalAgent
from twisted.web.resource import Resource

URN = "urn:ietf:params:acme:error:"
BASE = "https://ca.example"


class Answer(NamedTuple):
    """What the authority says to one request."""

    status: int
    document: Any = None
    headers: dict[str, str] = {}

    @property
    def body(self) -> bytes:
        return self.document if isinstance(self.document, bytes) else json.dumps(self.document).encode()


def problem(kind: str, status: int = 400, detail: str = "because", **headers: str) -> Answer:
    """An error as RFC 8555 §6.7 has it; `Retry_After="5"` is a header."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"type": URN + kind, "detail": detail, "status": status}, named)


class Order(NamedTuple):
    names: list[str]
    body: dict[str, Any]


class Authority(Resource):
    """The authority; `agent` is the way to it. `now` gives epoch seconds."""

    isLeaf = True

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self.now = now
        self.agent = RequestTraversalAgent(self)
        self.life = timedelta(days=90)
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.accounts: dict[str, Any] = {}
        self.contacts: dict[str, list[str]] = {}
        self.orders: list[Order] = []
        self.csrs: dict[int, x509.CertificateSigningRequest] = {}
        self.issued: list[x509.Certificate] = []
        self.requests: list[str] = []
        self.posted: list[dict[str, Any]] = []
        self.user_agents: set[str] = set()
        self.disbelieved: dict[str, dict[str, Any]] = {}
        """By name: the error that its validation ends in."""
        self.proven: set[str] = set()
        self.pending_looks = 0
        """How many times an authorization is still pending when it is looked at."""
        self.instead: dict[str, list[Answer]] = {}
        """By the first part of the path: answers given instead of the right ones, one each."""
        self.reject_nonces = 0
        """How many of the next nonces are refused."""
        self.customers: dict[str, bytes] = {}
        """By key id: the keys of external account bindings; with any, one is required."""
        self.meta: dict[str, Any] = {}
        self.window: tuple[float, float] | None = None
        self.explanation: str | None = None
        self.ask_again = "21600"
        self.chain_of: Callable[[bytes], bytes] = lambda pem: pem
        """What is made of a chain before it is sent."""
        self.names_of: Callable[[list[str]], list[str]] = lambda names: names
        self._nonces: set[str] = set()
        self._numbers = count(1)
        self._looks: dict[str, int] = {}

    # -- The web's part -------------------------------------------------------------------------------------

    def render(self, request: Any) -> bytes:
        path = request.path.decode()
        self.requests.append(f"{request.method.decode()} {path}")
        self.user_agents.add((request.getHeader("user-agent") or "").split("/")[0])
        answer = self._answer(request, path)
        request.setResponseCode(answer.status)
        if request.method == b"POST" or path == "/nonce":
            request.setHeader("Replay-Nonce", self._new_nonce())
        for name, value in answer.headers.items():
            request.setHeader(name, value)
        return b"" if request.method == b"HEAD" else answer.body

    def _answer(self, request: Any, path: str) -> Answer:
        part, _, rest = path.strip("/").partition("/")
        if request.method != b"POST":
            planned = self.instead.get(part)
            return planned.pop(0) if planned else self._unsigned(part, rest)
        assert request.getHeader("content-type") == "application/jose+json"
        signed = jws.JWS.json_loads(request.content.read())
        header = signed.signature.combined
        assert header.url == BASE + path
        if self._is_spent(json.loads(signed.signature.protected)["nonce"]):
            return problem("badNonce")
        planned = self.instead.get(part)
        if planned:
            return planned.pop(0)
        payload = json.loads(signed.payload or b"null")
        self.posted.append({"path": path, "payload": payload})
        if part == "account" and not rest:
            return self._account(signed, payload)
        key = self.accounts.get(header.kid or "")
        if key is None:
            return problem("accountDoesNotExist")
        assert signed.verify(key)
        answer: Answer = getattr(self, f"_{part}")(rest, payload)
        return answer

    def _is_spent(self, nonce: str) -> bool:
        if self.reject_nonces:
            self.reject_nonces -= 1
            return True
        known = nonce in self._nonces
        self._nonces.discard(nonce)
        return not known

    def _new_nonce(self) -> str:
        nonce = f"nonce-{next(self._numbers):06}"[:12]
        self._nonces.add(nonce)
        return nonce

    # -- What it knows --------------------------------------------------------------------------------------

    def _unsigned(self, part: str, rest: str) -> Answer:
        if part == "dir":
            return Answer(200, self.directory())
        if part == "nonce":
            return Answer(200)
        if part == "renewal" and self.window is not None:
            begins, ends = (datetime.fromtimestamp(each, UTC).isoformat() for each in self.window)
            found: dict[str, Any] = {"suggestedWindow": {"start": begins, "end": ends}}
            if self.explanation:
                found["explanationURL"] = self.explanation
            return Answer(200, found, {"Retry-After": self.ask_again})
        return Answer(404, {})

    def directory(self) -> dict[str, Any]:
        urls = {"newNonce": "nonce", "newAccount": "account", "newOrder": "order"}
        found: dict[str, Any] = {key: f"{BASE}/{part}" for key, part in urls.items()} | {"meta": self.meta}
        return found | ({"renewalInfo": f"{BASE}/renewal"} if self.window is not None else {})

    def lose_accounts(self) -> None:
        self.accounts.clear()
        self.contacts.clear()

    def _account(self, signed: Any, payload: dict[str, Any]) -> Answer:
        key = signed.signature.combined.jwk
        assert signed.verify(key)
        assert payload["termsOfServiceAgreed"] is True
        if self.customers and not self._is_bound(payload, key):
            return problem("externalAccountRequired", 403)
        url = next((url for url, known in self.accounts.items() if known == key), None)
        if url is not None:
            return Answer(200, {"contact": self.contacts[url]}, {"Location": url})
        url = f"{BASE}/acct/{next(self._numbers)}"
        self.accounts[url], self.contacts[url] = key, payload["contact"]
        return Answer(201, {"contact": payload["contact"]}, {"Location": url})

    def _is_bound(self, payload: dict[str, Any], key: Any) -> bool:
        if "externalAccountBinding" not in payload:
            return False
        bound = jws.JWS.from_json(payload["externalAccountBinding"])
        header = bound.signature.combined
        assert header.url == f"{BASE}/account"
        secret = self.customers.get(header.kid)
        public = json.dumps(key.public_key().to_partial_json(), sort_keys=True)
        same = json.dumps(json.loads(bound.payload), sort_keys=True) == public
        return bool(secret and same and bound.verify(JWKOct(key=secret)))

    def _acct(self, rest: str, payload: dict[str, Any]) -> Answer:
        self.contacts[f"{BASE}/acct/{rest}"] = payload["contact"]
        return Answer(200, {})

    def _order(self, rest: str, payload: Any) -> Answer:
        if not rest:
            self.orders.append(Order([each["value"] for each in payload["identifiers"]], payload))
            number = len(self.orders) - 1
            return Answer(201, self._shown(number), {"Location": f"{BASE}/order/{number}"})
        return Answer(200, self._shown(int(rest)))

    def _shown(self, number: int) -> dict[str, Any]:
        names = self.orders[number].names
        states = {self._state(name) for name in names}
        status = "invalid" if "invalid" in states else "ready" if states == {"valid"} else "pending"
        shown = {
            "status": "valid" if number in self.csrs else status,
            "authorizations": [f"{BASE}/authorization/{name}" for name in names],
            "finalize": f"{BASE}/finalize/{number}",
        }
        return shown | ({"certificate": f"{BASE}/certificate/{number}"} if number in self.csrs else {})

    def _state(self, name: str) -> str:
        if name in self._looks and name in self.disbelieved:
            return "invalid"
        return "valid" if name in self.proven else "pending"

    def _authorization(self, name: str, payload: None) -> Answer:
        assert payload is None
        offer: dict[str, Any] = {"type": "tls-alpn-01", "url": f"{BASE}/challenge/{name}", "token": "A" * 43}
        state = self._state(name)
        if self._looks.get(name):
            self._looks[name] -= 1
            state = "pending"
        if state == "invalid":
            offer["error"] = self.disbelieved[name]
            del self._looks[name]  # another order gets another authorization
        identifier = {"type": "dns", "value": name}
        strange = {"type": "dns-persist-01", "status": "pending"}
        return Answer(200, {"identifier": identifier, "status": state, "challenges": [strange, offer]})

    def _challenge(self, name: str, payload: dict[str, Any]) -> Answer:
        assert payload == {}
        self._looks[name] = self.pending_looks
        if name not in self.disbelieved:
            self.proven.add(name)
        return Answer(200, {})

    def _finalize(self, rest: str, payload: dict[str, Any]) -> Answer:
        octets = urlsafe_b64decode(payload["csr"] + "==")
        self.csrs[int(rest)] = x509.load_der_x509_csr(octets)
        return Answer(200, self._shown(int(rest)))

    def _certificate(self, rest: str, payload: None) -> Answer:
        made = self.sign(self.csrs[int(rest)])
        self.issued.append(made)
        return Answer(200, self.chain_of(made.public_bytes(serialization.Encoding.PEM)))

    def sign(self, csr: x509.CertificateSigningRequest) -> x509.Certificate:
        assert csr.is_signature_valid
        assert csr.subject.rfc4514_string() == ""
        san = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = self.names_of(san.get_values_for_type(x509.DNSName))
        issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Test CA")])
        now = datetime.fromtimestamp(self.now(), UTC)
        public: Any = csr.public_key()
        return (
            x509.CertificateBuilder(issuer, csr.subject, public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + self.life)
            .add_extension(x509.SubjectAlternativeName(list(map(x509.DNSName, names))), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False)
            .sign(self.key, hashes.SHA256())
        )
