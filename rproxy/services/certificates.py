"""Certificates with their keys, and the TLS contexts made of them. Owned by `assemble`; asked by `terminate`.

A `Site` is one app's certificates. Its contexts are made on demand, one per choice of protocols,
never changed (pyOpenSSL freezes them with their first connection), and replaced as a whole when
the certificate is renewed: connections keep the one they began with. `Certificates` looks at
the files every few seconds. Imports OpenSSL and cryptography, so `assemble` imports it only for
configurations that terminate TLS.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.application.service import Service
from twisted.logger import Logger

from rproxy.downstream.terminate import NoCertificate
from rproxy.keypair import KeyPair, load_pair
from rproxy.openssl import use_pair, words_of
from rproxy.services.clientca import ClientCA, ClientFiles
from rproxy.services.eye import Eye, Readable
from rproxy.services.reload import fingerprint

log = Logger()

LOOK_EVERY = 5.0
"""Seconds between two looks at the files; a look is two `stat` calls per certificate."""
FRESH_KEYS_EVERY = 86400.0
"""Seconds until tickets are sealed with new keys: who steals a key reads a day of TLS 1.2 at most."""
RESUME_WITHIN = 7200
"""Seconds for which a ticket is good: long enough for a visit, far below the week of RFC 8446 §4.6.1."""

CIPHERS = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    b"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    b"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
"""TLS 1.2 as in Mozilla's intermediate configuration 5.8; the client's order counts, as it says."""
CIPHERS_13 = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
GROUPS = (b"X25519MLKEM768:X25519:prime256v1:secp384r1", b"X25519:prime256v1:secp384r1")
"""Key exchange as in the same configuration, or without what a library before OpenSSL 3.5 does not
know. Its default adds X448, P-521 and finite fields."""

Protocols = tuple[bytes, ...]
Pairs = tuple[KeyPair, ...]
Source = Readable[Pairs]
"""Where a site's certificates come from; a frozen, hashable value."""


@dataclass(frozen=True, slots=True)
class Files:
    """Pairs of PEM files: certificate chain, key."""

    pairs: tuple[tuple[Path, Path], ...]

    def fingerprint(self) -> Hashable:
        """What `stat` says of every file, or of what their symlinks lead to."""
        return tuple(fingerprint(path) for pair in self.pairs for path in pair)

    def load(self) -> Pairs:
        """Read all of them."""
        return tuple(load_pair(certificate, key) for certificate, key in self.pairs)


@dataclass(frozen=True, slots=True)
class Issued:
    """A file that `acme_service` writes, with a key and its chain; nothing before the first certificate.

    It is renewed in good time, and who renews it says so when it is not.
    """

    path: Path

    def fingerprint(self) -> Hashable:
        """What `stat` says of the file."""
        return fingerprint(self.path)

    def load(self) -> Pairs:
        """The pair, if there is one yet; one that is damaged is as good as none, another is ordered."""
        try:
            return (load_pair(self.path, self.path),) if self.path.exists() else ()
        except ValueError as problem:
            log.warn("{why}", why=str(problem))
            return ()


class Site:
    """The certificates of one app. Tickets given out here are good nowhere else.

    With `clients` it asks for certificates, and gives out no tickets that are good for anything.
    """

    def __init__(self, name: str, pairs: Pairs, clients: ClientCA | None = None) -> None:
        self.name, self.pairs, self.clients = name, pairs, clients
        self._contexts: dict[Protocols, SSL.Context] = {}

    def context(self, protocols: Protocols) -> SSL.Context:
        """A server context that agrees on the first of these ALPN protocols that the client lists.

        A client that lists others only gets the alert no_application_protocol (RFC 7301 §3.2), one
        that lists none is served without. Raises `NoCertificate`.
        """
        context = self._contexts.get(protocols)
        if context is None:
            if not self.pairs:
                raise NoCertificate("the first certificate has not been issued yet")
            context = server_context(self.name, self.pairs, protocols, self.clients)
            self._contexts[protocols] = context
        return context

    def replace(self, pairs: Pairs) -> None:
        """Use these from now on, with new ticket keys; connections that live keep what they have."""
        self.pairs, self._contexts = pairs, {}

    def trust(self, clients: ClientCA) -> None:
        """The same for the authorities of clients."""
        self.clients, self._contexts = clients, {}

    def covers(self, name: str) -> bool:
        """Whether every certificate is good for this canonical name, or has just this wildcard."""
        return all(pair.covers(name) for pair in self.pairs)


class Certificates(Service):
    """All sites of one proxy, and the eye on their sources. `now` gives the time of day, in UTC."""

    name = "certificates"

    def __init__(self, reactor: Any, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._reactor, self._now = reactor, now
        self._watched: dict[_Key, _Watched] = {}
        self._used: set[_Key] = set()
        self._timer: Any = None

    def site(
        self, name: str, source: Source, served: Sequence[str], clients: ClientFiles | None = None
    ) -> Site:
        """The site of this app: the same one as before a reload if its sources are the same.

        `served` are the app's names; one that a certificate does not cover is warned about. `clients` are
        the files with the authorities whose certificates its clients show. Raises `ValueError` when a new
        source cannot be loaded.
        """
        key = name, source, clients
        if key not in self._watched:
            self._watched[key] = self._load(name, source, clients)
        watched = self._watched[key]
        watched.served = tuple(served)
        self._warn(watched)
        self._warn_about_clients(watched)
        self._used.add(key)
        return watched.site

    def in_use(self, name: str) -> tuple[Pairs, str] | None:
        """What clients of this app are shown, and why a newer one is not used; None for one without TLS."""
        for (app, _, _), watched in self._watched.items():
            if app == name:
                return watched.site.pairs, watched.pairs.trouble
        return None

    def forget_unused(self) -> None:
        """Called when new routes are in use: sites not asked for since the last call are let go."""
        used, self._used = self._used, set()
        self._watched = {key: self._watched[key] for key in used}

    def look_at(self, source: Source) -> None:
        """Look at this source now: whoever has written it does not want to wait."""
        for watched in list(self._watched.values()):
            if watched.pairs.source == source:
                self._look_at(watched)

    def startService(self) -> None:
        """Twisted's call: begin to look."""
        super().startService()
        self._timer = self._reactor.callLater(LOOK_EVERY, self._look)

    def stopService(self) -> None:
        """Twisted's call: look no more."""
        super().stopService()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _load(self, name: str, source: Source, files: ClientFiles | None) -> _Watched:
        def complain(what: str) -> Callable[[str], None]:
            words = "the new {what} of {app} is not used: {why}; the old one stays"
            return lambda why: log.error(words, what=what, app=name, why=why)

        pairs = Eye(source, lambda found: check(name, found), complain("certificate"))
        if files is None:
            return _Watched(Site(name, pairs.found), pairs, None, self._reactor.seconds())
        clients = Eye(files, ClientCA.check, complain("client CA"))
        return _Watched(Site(name, pairs.found, clients.found), pairs, clients, self._reactor.seconds())

    def _look(self) -> None:
        self._timer = self._reactor.callLater(LOOK_EVERY, self._look)
        for watched in list(self._watched.values()):
            try:
                self._look_at(watched)
            except Exception:  # one broken source must not keep the others from being looked at
                log.failure("looking at the certificates of {app} failed", app=watched.site.name)

    def _look_at(self, watched: _Watched) -> None:
        site = watched.site
        if watched.pairs.look():
            self._use(watched)
            log.info("{app} has a new certificate: {facts}", app=site.name, facts=_facts(site.pairs))
            self._warn(watched)
        if watched.clients is not None and watched.clients.look():
            site.trust(watched.clients.found)
            log.info("{app} has a new client CA: {facts}", app=site.name, facts=watched.clients.found.facts())
        self._warn_about_clients(watched)
        if self._reactor.seconds() - watched.sealed_since >= FRESH_KEYS_EVERY:
            self._use(watched)
            self._warn(watched)
            watched.told = []

    def _use(self, watched: _Watched) -> None:
        watched.site.replace(watched.pairs.found)
        watched.sealed_since = self._reactor.seconds()

    def _warn(self, watched: _Watched) -> None:
        for pair in watched.site.pairs:
            issued = isinstance(watched.pairs.source, Issued)
            concerns = [] if issued else pair.concerns(self._now())
            for concern in [*concerns, *_uncovered(pair, watched.served)]:
                log.warn("certificate of {app}: {concern}", app=watched.site.name, concern=concern)

    def _warn_about_clients(self, watched: _Watched) -> None:
        """Whatever is new among what keeps clients out: a list may expire between two days."""
        if watched.clients is None:
            return
        concerns = watched.clients.found.concerns(self._now())
        for concern in concerns:
            if concern not in watched.told:
                log.error("client CA of {app}: {concern}", app=watched.site.name, concern=concern)
        watched.told = concerns


def check(name: str, pairs: Sequence[KeyPair]) -> None:
    """Raises `ValueError` when OpenSSL does not take these certificates."""
    try:
        server_context(name, pairs, ())
    except SSL.Error as error:
        raise ValueError(f"{pairs[0].certificate_path} is not usable: {words_of(error)}")


def server_context(
    name: str, pairs: Sequence[KeyPair], protocols: Protocols, clients: ClientCA | None = None
) -> SSL.Context:
    """A context with these certificates; OpenSSL picks one that suits the client's signature algorithms."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # 25 KiB less per idle connection
    context.set_cipher_list(CIPHERS)
    context.set_tls13_ciphersuites(CIPHERS_13)
    _set_groups(context)
    _keep_tickets_apart(context, name)
    for pair in pairs:
        use_pair(context, pair)
    if clients is not None:
        clients.ask(context)
    if protocols:
        context.set_alpn_select_callback(_selector(protocols))
    return context


_Key = tuple[str, Source, ClientFiles | None]


@dataclass(slots=True)
class _Watched:
    """A site with its sources; `told` are the concerns about clients that have been written down."""

    site: Site
    pairs: Eye[Pairs]
    clients: Eye[ClientCA] | None
    sealed_since: float
    served: tuple[str, ...] = ()
    told: Sequence[str] = ()


def _set_groups(context: SSL.Context) -> None:
    """Has no public call in pyOpenSSL; without the private one the library's default is kept."""
    try:
        from OpenSSL._util import lib

        for groups in GROUPS:
            if lib.SSL_CTX_set1_curves_list(context._context, groups):
                return
            lib.ERR_clear_error()  # or the next call would be blamed for it
    except (ImportError, AttributeError) as missing:
        log.debug("key exchange groups stay at OpenSSL's default: {why}", why=missing)


def _keep_tickets_apart(context: SSL.Context, name: str) -> None:
    """Tickets only, no cache. Their keys are this context's own; the id says whose they are a second time."""
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(sha256(name.encode()).digest())  # 32 bytes, the most it takes
    context.set_timeout(RESUME_WITHIN)


def _selector(protocols: Protocols) -> Callable[[SSL.Connection, list[bytes]], bytes]:
    def select(connection: SSL.Connection, listed: list[bytes]) -> bytes:
        for protocol in protocols:
            if protocol in listed:
                return protocol
        raise SSL.Error([("", "", "no application protocol")])  # OpenSSL sends the alert

    return select


def _uncovered(pair: KeyPair, served: Sequence[str]) -> list[str]:
    missing = [name for name in served if not pair.covers(name)]
    return [f"{pair.certificate_path} is not good for {', '.join(missing)}"] if missing else []


def _facts(pairs: Sequence[KeyPair]) -> str:
    return "; ".join(f"{', '.join(p.names)} until {p.leaf.not_valid_after_utc:%Y-%m-%d}" for p in pairs)
