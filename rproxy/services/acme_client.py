"""The protocol of certificate authorities, RFC 8555 with RFC 9773: one account at one of them.

Made by `acme_service` per authority, used by `acme_order`. JWS are made by josepy and acme.jws;
everything else is JSON as plain dicts, of which nothing is believed before it was looked at. All
failures are `AcmeError`.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final, NamedTuple

from acme import jws  # type: ignore[import-untyped]
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from josepy.b64 import b64decode
from josepy.jwa import ES256, HS256
from josepy.jwk import JWK, JWKEC, JWKOct
from twisted.internet.defer import DeferredLock
from twisted.internet.task import deferLater

from rproxy.services.acme_answers import json_object, moment, renewal_id, text
from rproxy.services.acme_http import Reply, Web, checked_url, host_of
from rproxy.services.acme_problems import (
    AcmeError,
    Kind,
    clean,
    failed_order,
    refusal,
    type_of,
    unreachable,
)

TRIES: Final = 12
"""For one request whose nonces are refused. Each costs a round trip, and pebble set to refuse every second
one fails a request of an order (some eighteen) once in 200 orders with so many, in every fourth with six."""
NONCES: Final = 16
"""Kept for later; authorities forget them after minutes."""
DIRECTORY_FOR: Final = 3600.0
"""Seconds until an authority's directory is read again."""
FIRST_LOOK: Final = 0.25
"""Seconds until it is asked again whether something is done, doubled each time, up to `LAST_LOOK`."""
LAST_LOOK: Final = 10.0
MOST_WAIT: Final = 60.0
"""Seconds between two looks, whatever the authority asks for: it has to come to an end."""
POLL_FOR: Final = 180.0
"""Seconds until we stop asking: validation from several places takes some ten."""
OVER: Final = frozenset(("invalid", "revoked", "deactivated", "expired"))


class Eab(NamedTuple):
    """Says which customer an account belongs to, RFC 8555 §7.3.4."""

    kid: str
    hmac_key: bytes


class Suggestion(NamedTuple):
    """When an authority wants a certificate to be renewed (RFC 9773 §4.2); epoch seconds."""

    begins: float
    ends: float
    explanation: str
    ask_again: float
    """Seconds until it should be asked again."""


class Client:
    """One account. `now` gives the time of day in epoch seconds, `clock` is the reactor."""

    def __init__(
        self,
        web: Web,
        clock: Any,
        now: Callable[[], float],
        rng: Random,
        directory_url: str,
        key: ec.EllipticCurvePrivateKey,
        *,
        email: str,
        eab: Eab | None = None,
    ) -> None:
        self._web, self._clock, self._now, self._rng = web, clock, now, rng
        self.directory_url, self._email, self._eab = directory_url, email, eab
        self.jwk = JWKEC(key=key)
        self._nonces: deque[str] = deque(maxlen=NONCES)
        self._registering = DeferredLock()
        self._kid: str | None = None
        self._directory: dict[str, Any] = {}
        self._read_at = 0.0

    async def directory(self) -> dict[str, Any]:
        """Where everything is (RFC 8555 §7.1.1), kept for an hour."""
        if not self._directory or self._now() - self._read_at > DIRECTORY_FOR:
            reply = await self._web.ask(b"GET", self.directory_url)
            found = reply.document()
            if reply.status >= 500 or (isinstance(found, dict) and type_of(found)):
                self._checked(reply, "its directory")
            if not isinstance(found, dict) or not all(isinstance(found.get(k), str) for k in _NEEDED):
                words = f"{self.directory_url} is not an ACME directory (HTTP {reply.status})"
                raise unreachable(f"{words}; check acme.dir_url", reply.retry_after(self._now()))
            self._directory, self._read_at = found, self._now()
        return self._directory

    async def account(self) -> str:
        """The account's address, registered when there is none yet. However many ask, it happens once."""
        await self._registering.acquire()
        try:
            if self._kid is None:
                self._kid = await self._register()
            return self._kid
        finally:
            self._registering.release()

    async def new_order(
        self, names: Sequence[str], profile: str | None, replaces: str | None
    ) -> tuple[str, dict[str, Any]]:
        """The address of a new order, and the order. That it replaces something is never worth a failure."""
        directory = await self.directory()
        body: dict[str, Any] = {"identifiers": [{"type": "dns", "value": name} for name in names]}
        if profile is not None:
            body["profile"] = self._offered(profile, directory)
        url = text(directory, "newOrder")
        if replaces is not None and "renewalInfo" in directory:
            try:
                return self._placed(await self.post(url, body | {"replaces": replaces}, "a new order"))
            except AcmeError as problem:
                if problem.kind in (Kind.LIMITED, Kind.OURS):
                    raise
        return self._placed(await self.post(url, body, "a new order"))

    async def fetch(self, url: str, what: str) -> tuple[dict[str, Any], float | None]:
        """Something of ours at the authority, and the seconds it wants us to wait before the next look."""
        reply = await self.post(url, None, what)
        return json_object(reply, what), reply.retry_after(self._now())

    async def settled(
        self,
        url: str,
        what: str,
        wanted: frozenset[str],
        failed: Callable[[dict[str, Any]], AcmeError] = failed_order,
        longest: float = LAST_LOOK,
    ) -> dict[str, Any]:
        """What is at `url` once its status is one of `wanted`. Raises what `failed` makes of it otherwise.

        `longest` are the seconds between two looks at most, unless the authority wants it otherwise.
        """
        until, pause = self._clock.seconds() + POLL_FOR, FIRST_LOOK
        while True:
            document, asked_for = await self.fetch(url, what)
            status = document.get("status")
            if status in wanted:
                return document
            if status in OVER:
                raise failed(document)
            if self._clock.seconds() >= until:
                raise unreachable(f"{what} is still {clean(status)} after {POLL_FOR:g} s")
            wait = pause * self._rng.uniform(0.8, 1.2) if asked_for is None else asked_for
            await deferLater(self._clock, min(max(wait, FIRST_LOOK / 2), MOST_WAIT))
            pause = min(2 * pause, longest)

    async def chain(self, url: str) -> bytes:
        """A certificate with its chain, PEM as the authority sends it."""
        return (await self.post(url, None, "the certificate", b"application/pem-certificate-chain")).body

    async def suggestion(self, leaf: x509.Certificate) -> Suggestion | None:
        """When to renew this certificate; None where the authority does not say (RFC 9773)."""
        base = (await self.directory()).get("renewalInfo")
        if not isinstance(base, str):
            return None
        reply = await self._web.ask(b"GET", f"{base.rstrip('/')}/{renewal_id(leaf)}")
        found = json_object(self._checked(reply, "renewal information"), "renewal information")
        window = found.get("suggestedWindow")
        begins, ends = (moment(window, key) for key in ("start", "end"))
        if ends <= begins:
            raise unreachable("its renewal window ends before it begins")
        explanation = clean(found.get("explanationURL"))
        again = reply.retry_after(self._now())
        return Suggestion(begins, ends, explanation, _SIX_HOURS if again is None else again)

    async def post(
        self, url: str, payload: dict[str, Any] | None, what: str, accept: bytes = b"application/json"
    ) -> Reply:
        """A signed request; None fetches (RFC 8555 §6.3). An account that was lost there is made anew."""
        kid = await self.account()
        try:
            return await self._post(url, payload, what, kid, accept)
        except AcmeError as problem:
            if problem.type != "accountDoesNotExist":
                raise
        if self._kid == kid:
            self._kid = None
        return await self._post(url, payload, what, await self.account(), accept)

    async def _register(self) -> str:
        """The same key finds the same account, so this also logs in (RFC 8555 §7.3)."""
        url = text(await self.directory(), "newAccount")
        contact = [f"mailto:{self._email}"]
        body: dict[str, Any] = {"termsOfServiceAgreed": True, "contact": contact}
        if self._eab is not None:
            body["externalAccountBinding"] = _bound(self.jwk, self._eab, url)
        reply = await self._post(url, body, "an account", None)
        kid = checked_url(reply.header("location"))
        known = reply.document()
        if (
            reply.status == 200
            and isinstance(known, dict)
            and known.get("contact") not in (None, [], contact)
        ):
            await self._post(kid, {"contact": contact}, "the account", kid)
        return kid

    async def _post(
        self,
        url: str,
        payload: dict[str, Any] | None,
        what: str,
        kid: str | None,
        accept: bytes = b"application/json",
    ) -> Reply:
        """A nonce that is refused comes with the next one (RFC 8555 §6.5)."""
        for attempt in range(TRIES):
            body = self._signed(url, await self._nonce(), payload, kid)
            reply = await self._web.ask(b"POST", url, body, accept)
            self._keep_nonce(reply)
            try:
                return self._checked(reply, what)
            except AcmeError as problem:
                if problem.type != "badNonce" or attempt == TRIES - 1:
                    raise
                self._forget_older_nonces()
        raise AssertionError("not reached")

    def _signed(self, url: str, nonce: str, payload: dict[str, Any] | None, kid: str | None) -> bytes:
        octets = b"" if payload is None else json.dumps(payload).encode("ascii")
        made = jws.JWS.sign(octets, key=self.jwk, alg=ES256, nonce=b64decode(nonce), url=url, kid=kid)
        signed: str = made.json_dumps()
        return signed.encode("ascii")

    async def _nonce(self) -> str:
        while not self._nonces:
            url = text(await self.directory(), "newNonce")
            reply = self._checked(await self._web.ask(b"HEAD", checked_url(url)), "a nonce")
            self._keep_nonce(reply)
            if not self._nonces:
                raise unreachable(f"{host_of(url)} gives no nonces")
        return self._nonces.popleft()

    def _keep_nonce(self, reply: Reply) -> None:
        nonce = reply.header("replay-nonce")
        if _NONCE(nonce) and len(nonce) % 4 != 1:  # what can be base64 (RFC 8555 §6.5.1)
            self._nonces.append(nonce)

    def _forget_older_nonces(self) -> None:
        """The authority may have forgotten all of them; the last is the one that came with its refusal."""
        while len(self._nonces) > 1:
            self._nonces.popleft()

    def _checked(self, reply: Reply, what: str) -> Reply:
        if 200 <= reply.status < 300:
            return reply
        now = self._now()
        where = f"{what} from {host_of(self.directory_url)}"
        raise refusal(reply.status, reply.document(), where, reply.retry_after(now), now)

    def _offered(self, profile: str, directory: dict[str, Any]) -> str:
        meta = directory.get("meta")
        offered = meta.get("profiles") if isinstance(meta, dict) else None
        if isinstance(offered, dict) and profile in offered:
            return profile
        known = ", ".join(clean(each) for each in list(offered)[:9]) if isinstance(offered, dict) else "none"
        words = f'{host_of(self.directory_url)} has no profile "{profile}", it has: {known}'
        raise AcmeError(Kind.REFUSED, words, type="invalidProfile")

    @staticmethod
    def _placed(reply: Reply) -> tuple[str, dict[str, Any]]:
        return checked_url(reply.header("location")), json_object(reply, "the order")


_NEEDED: Final = ("newNonce", "newAccount", "newOrder")
_SIX_HOURS: Final = 21600.0
_NONCE = re.compile(r"[A-Za-z0-9_-]{1,512}").fullmatch


def _bound(jwk: JWK, eab: Eab, url: str) -> Any:
    """RFC 8555 §7.3.4: the account's public key, signed with the key that the customer was given."""
    public = json.dumps(jwk.public_key().to_partial_json()).encode("ascii")
    made = jws.JWS.sign(public, JWKOct(key=eab.hmac_key), HS256, None, url, eab.kid)
    return made.to_partial_json()
