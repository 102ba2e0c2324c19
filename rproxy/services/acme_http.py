"""HTTPS to a certificate authority: few requests, each with limits. Used by `acme_client` alone.

Not the data path: Twisted's Agent does the work. Added are a limit on what an answer may weigh,
headers included, one on time, no redirects, and failures as sentences.
"""

from __future__ import annotations

import json
import re
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from OpenSSL import SSL, crypto
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredSemaphore,
    TimeoutError,
    ensureDeferred,
    succeed,
)
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    BrowserLikePolicyForHTTPS,
    HTTPConnectionPool,
    ResponseDone,
    ResponseFailed,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer
from zope.interface import implementer

from rproxy import __version__
from rproxy.openssl import words_of
from rproxy.services.acme_problems import unreachable

MOST_BYTES: Final = 1 << 20
"""Of one answer with its headers: a chain has some 10 KiB, an order of a hundred names 30."""
ANSWER_IN: Final = 30.0
"""Seconds for a request with its answer; authorities answer in one or two, while they sign in ten."""
CONNECT_IN: Final = 10.0
"""Seconds to connect: three lost packets."""
KEEP_FOR: Final = 15.0
"""Seconds an idle connection is kept, longer than the usual pause between two polls and shorter than
what servers grant."""
AT_ONCE: Final = 8
"""Requests at a time to one authority, however many names are due."""
MOST_URL: Final = 2048
"""Characters of an address that an authority gives us; none needs more than 200."""


MOST_HOSTS: Final = 8
"""Whose TLS contexts are kept; an authority has one or two."""
OWN_ROOT: Final = "; for an authority of your own, acme.ca_file names its root"


class Reply(NamedTuple):
    """An answer, whatever its status."""

    status: int
    headers: Headers
    body: bytes

    def header(self, name: str) -> str:
        """The first field of this name, or an empty text."""
        found = self.headers.getRawHeaders(name.encode("ascii")) or [b""]
        return found[0].decode("latin-1").strip()

    def document(self) -> Any:
        """The body as JSON; None if it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    def retry_after(self, now: float) -> float | None:
        """Seconds that the server wants us to wait (RFC 9110 §10.2.3); `now` in epoch seconds."""
        text = self.header("retry-after")
        if text.isascii() and text.isdigit():
            return float(text[:9])
        try:
            return max(0.0, parsedate_to_datetime(text).timestamp() - now)
        except (TypeError, ValueError, IndexError, OverflowError):
            return None


class Web:
    """Requests to one authority. `clock` is the reactor, or stands for it."""

    def __init__(self, clock: Any, agent: IAgent) -> None:
        self._clock, self._agent = clock, agent
        self._places = DeferredSemaphore(AT_ONCE)

    async def ask(self, method: bytes, url: str, body: bytes | None = None, accept: bytes = b"") -> Reply:
        """One request. Raises `AcmeError` when there is no answer; an error status is one."""
        checked_url(url)
        await self._places.acquire()
        try:
            answer = ensureDeferred(self._ask(method, url, body, accept))
            reply: Reply = await answer.addTimeout(ANSWER_IN, self._clock, _too_slow)
        except TimeoutError:
            raise unreachable(f"{host_of(url)} has not answered in {ANSWER_IN:g} s")
        except Exception as failure:
            if isinstance(innermost(failure), CancelledError):  # by whoever waits for us
                raise CancelledError
            raise unreachable(f"{host_of(url)}: {why(failure)}")
        finally:
            self._places.release()
        return reply

    async def _ask(self, method: bytes, url: str, body: bytes | None, accept: bytes) -> Reply:
        headers = Headers({b"User-Agent": [USER_AGENT], b"Accept-Language": [b"en"]})
        if accept:
            headers.setRawHeaders(b"Accept", [accept])
        if body is not None:
            headers.setRawHeaders(b"Content-Type", [b"application/jose+json"])
        producer = None if body is None else _Body(body)
        response: Any = await self._agent.request(method, url.encode("ascii"), headers, producer)
        collected = _Collected()
        response.deliverBody(collected)
        return Reply(response.code, response.headers, await collected.whole)


USER_AGENT: Final = f"rproxy/{__version__}".encode("ascii")
"""Authorities ask for one (RFC 8555 §6.1), and pebble refuses without."""


def agent(reactor: Any, ca_file: Path | None) -> IAgent:
    """Speaks to authorities that the system trusts, or to those of a PEM file instead.

    Raises `ValueError` with a sentence when the file cannot be used.
    """
    policy = BrowserLikePolicyForHTTPS(None if ca_file is None else _roots(ca_file))
    pool = HTTPConnectionPool(reactor)
    pool.cachedConnectionTimeout, pool.maxPersistentPerHost = KEEP_FOR, AT_ONCE  # type: ignore[assignment]
    made: IAgent = Agent.usingEndpointFactory(reactor, _Endpoints(reactor, policy), pool)
    return made


def checked_url(url: str) -> str:
    """The same. Raises `AcmeError` for what is no https address: it may come from the other side."""
    if len(url) > MOST_URL or not _URL(url):
        raise unreachable("the authority gives an address that does not begin with https://")
    return url


_URL = re.compile(r"https://[!-~]+").fullmatch


def host_of(url: str) -> str:
    """What a person calls the server."""
    return url.removeprefix("https://").partition("/")[0]


def innermost(failure: BaseException) -> BaseException:
    """The reason inside what Twisted wraps around it."""
    for inner in getattr(failure, "reasons", ()):
        return innermost(inner.value)
    return failure


def why(failure: BaseException) -> str:
    """The reason in words."""
    failure = innermost(failure)
    match failure:
        case SSL.Error():
            words = words_of(failure)
            return f"TLS: {words}{OWN_ROOT if 'verify failed' in words else ''}"
        case DNSLookupError():
            return "this machine cannot find the address of that name"
        case ConnectError():
            return f"cannot connect: {failure}"
        case ConnectionClosed() | PotentialDataLoss() | ResponseFailed():
            return "the connection broke"
        case _:
            return f"{type(failure).__name__}: {failure}"[:200]


def _too_slow(result: Any, seconds: float) -> Any:
    raise TimeoutError


def _roots(path: Path) -> Any:
    try:
        text = path.read_bytes()
    except OSError as problem:
        raise ValueError(f"cannot read {path}: {problem.strerror}")
    end = b"-----END CERTIFICATE-----"
    try:
        found = [Certificate.loadPEM(block + end) for block in text.split(end)[:-1]]
    except (crypto.Error, ValueError):
        raise ValueError(f"a certificate in {path} is damaged")
    if not found:
        raise ValueError(f"{path} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)")
    return trustRootFromCertificates(found)


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """TLS to the host of an address, with every byte that comes back counted."""

    def __init__(self, reactor: Any, policy: Any) -> None:
        self._reactor, self._policy = reactor, policy
        self._known: dict[tuple[bytes, int], _Counted] = {}

    def endpointForURI(self, uri: Any) -> Any:
        """Kept for the next time: it holds a TLS context, and reading the system's roots takes a while."""
        place = uri.host, uri.port
        if place not in self._known:
            if len(self._known) >= MOST_HOSTS:
                self._known.clear()
            tls = self._policy.creatorForNetloc(*place)
            host = HostnameEndpoint(self._reactor, *place, timeout=CONNECT_IN)
            self._known[place] = _Counted(wrapClientTLS(tls, host))
        return self._known[place]


class _Counted:
    def __init__(self, endpoint: Any) -> None:
        self._endpoint = endpoint

    def connect(self, factory: Any) -> Any:
        factory.noisy = False
        counting = WrappingFactory(factory)
        counting.noisy, counting.protocol = False, _Counting
        return self._endpoint.connect(counting).addCallback(lambda protocol: protocol.wrappedProtocol)


class _Counting(ProtocolWrapper):
    """Ends a connection whose answer is too large: Twisted counts neither header fields nor bodies."""

    _received = 0

    def write(self, data: bytes) -> None:
        self._received = 0  # a request: what comes now is another answer
        super().write(data)

    def writeSequence(self, data: Any) -> None:
        self._received = 0
        super().writeSequence(data)

    def dataReceived(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > MOST_BYTES:
            transport: Any = self.transport
            transport.abortConnection()
        else:
            super().dataReceived(data)


class _Collected(Protocol):
    """A response's body; `whole` can be cancelled, unlike with Twisted's `readBody`."""

    transport: Any

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.whole: Deferred[bytes] = Deferred(lambda _: self.transport.loseConnection())

    def dataReceived(self, data: bytes) -> None:
        self._pieces.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.whole.called:
            return
        if reason.check(ResponseDone):  # a body that only ends with its connection may be half of one
            self.whole.callback(b"".join(self._pieces))
        else:
            self.whole.errback(reason)


@implementer(IBodyProducer)
class _Body:
    """A body of a few KiB, written at once."""

    def __init__(self, octets: bytes) -> None:
        self._octets, self.length = octets, len(octets)

    def startProducing(self, consumer: Any) -> Deferred[None]:
        consumer.write(self._octets)
        return succeed(None)

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        pass

    def stopProducing(self) -> None:
        pass
