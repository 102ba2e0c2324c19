"""TLS to a peer, verified. Made by `assemble` for upstreams with `tls`, used by `http_client`.

A `ClientTLS` is one way to speak TLS to one name: which authorities are believed, which name is
asked for and has to be in the certificate, what we show of ourselves. OpenSSL verifies the chain,
service-identity the name (RFC 9525), both before anything is sent. Imports OpenSSL, so `assemble`
imports it only for configurations with such upstreams.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from cryptography import x509
from OpenSSL import SSL, crypto
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import extract_patterns
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IProtocol

from rproxy.deadlines import Deadlines
from rproxy.errors import PeerTimeout, PeerUnreachable
from rproxy.keypair import load_pair
from rproxy.openssl import Scratch, use_pair, words_of
from rproxy.tls import HANDSHAKE, ByHalves, TLSTransport
from rproxy.wire.hostname import canonical

HTTP1 = b"http/1.1"
HTTP2 = b"h2"
NO_HTTP2 = (
    'the peer takes no HTTP/2 (ALPN h2); without "force_http2_upstream" in upstream_options'
    " it is spoken to in HTTP/1.1"
)

Code = SSL.X509VerificationCodes
MEANING = {
    Code.ERR_CERT_HAS_EXPIRED: "certificate has expired",
    Code.ERR_CERT_NOT_YET_VALID: "certificate is not yet valid",
    Code.ERR_DEPTH_ZERO_SELF_SIGNED_CERT: "certificate is self-signed",
    Code.ERR_SELF_SIGNED_CERT_IN_CHAIN: "certificate is signed by an unknown authority",
    Code.ERR_UNABLE_TO_GET_ISSUER_CERT: "certificate is signed by an unknown authority",
    Code.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY: "certificate is signed by an unknown authority",
    Code.ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE: "certificate is signed by an unknown authority",
    Code.ERR_CERT_SIGNATURE_FAILURE: "certificate has a false signature",
    Code.ERR_CERT_REVOKED: "certificate has been revoked",
    Code.ERR_INVALID_PURPOSE: "certificate is not one for servers",
    Code.ERR_INVALID_CA: "certificate is signed by one that may not sign",
}
"""The verification errors that happen; others are told by their number."""
NO_COMMON_ALPN = "no application protocol"
"""How the words of OpenSSL's end for the alert of a server that takes none of what is offered."""


@dataclass(frozen=True, slots=True)
class ClientTLS:
    """How TLS is spoken to one peer; made by `client_options`. All its connections share a context."""

    name: str
    """The name, or the address, that the certificate has to be for."""
    insecure: bool
    context: SSL.Context = field(repr=False)
    deadlines: Deadlines | None = field(repr=False)
    handshake: float
    protocols: tuple[bytes, ...] = (HTTP1,)
    """What is offered by ALPN; a peer that takes none of it may go on all the same (RFC 7301 §3.2)."""
    scratch: Scratch = field(default_factory=Scratch, repr=False, compare=False)

    def offering(self, *protocols: bytes) -> ClientTLS:
        """The same, for a peer that is offered these protocols."""
        return replace(self, protocols=protocols)

    def wrap(self, protocol: IProtocol, *, by_halves: bool = False) -> IProtocol:
        """TLS around a client protocol, to be connected to a transport.

        `protocol` may write at once: nothing leaves before the peer is verified. When TLS does not
        come about its `connectionLost` gets a `PeerUnreachable` or `PeerTimeout` that says why.
        `by_halves` is for the end of a relay: the peer's goodbye is not the end of both directions.
        """
        peer: Any = (_RelayedPeer if by_halves else _Peer)(self, protocol)
        return cast(IProtocol, peer)


def client_options(
    hostname: str,
    *,
    ca_path: str | os.PathLike[str] | None = None,
    server_name: str | None = None,
    insecure: bool = False,
    client_cert: str | os.PathLike[str] | None = None,
    client_key: str | os.PathLike[str] | None = None,
    protocols: Sequence[bytes] = (HTTP1,),
    deadlines: Deadlines | None = None,
    handshake: float = HANDSHAKE,
) -> ClientTLS:
    """How to speak TLS to `hostname`, a name or an address; empty for a unix socket.

    `server_name` is asked for and verified in its place; `ca_path` replaces the system's authorities;
    `insecure` takes any certificate. `handshake` is in seconds and counts if there are `deadlines`.
    Raises `ValueError` with a sentence when something of this cannot be used.
    """
    name = _name(server_name or hostname)
    if not name and not insecure:
        raise ValueError(
            "there is no host name to verify; tls_server_name says which one the certificate has"
        )
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    _trust(context, ca_path, insecure, name)
    _introduce(context, client_cert, client_key)
    return ClientTLS(name, insecure, context, deadlines, handshake, tuple(protocols))


class _Peer(TLSTransport):
    """A peer's connection, decrypted for the client protocol."""

    def __init__(self, options: ClientTLS, protocol: IProtocol) -> None:
        self._protocols, self._verdict = options.protocols, list[str]()
        connection = _connection(options, self._verdict)
        super().__init__(protocol, connection, options.deadlines, options.handshake, options.scratch, True)

    def handshake_failed(self, words: str, error: BaseException | None) -> PeerUnreachable:
        """TLS's call."""
        return _unreachable(self._protocols, self._verdict, words, error)


class _RelayedPeer(ByHalves):
    """The same for the end of a relay."""

    def __init__(self, options: ClientTLS, protocol: IProtocol) -> None:
        self._protocols, self._verdict = options.protocols, list[str]()
        connection = _connection(options, self._verdict)
        super().__init__(protocol, connection, options.deadlines, options.handshake, options.scratch, True)

    def handshake_failed(self, words: str, error: BaseException | None) -> PeerUnreachable:
        """TLS's call."""
        return _unreachable(self._protocols, self._verdict, words, error)


def _connection(options: ClientTLS, verdict: list[str]) -> SSL.Connection:
    """`verdict` is what `_verifier` fills."""
    connection = SSL.Connection(options.context)
    connection.set_connect_state()
    if options.protocols:  # an empty list is one that OpenSSL refuses
        connection.set_alpn_protos(list(options.protocols))
    if options.name and not _is_address(options.name):
        connection.set_tlsext_host_name(options.name.encode("ascii"))
    connection.set_app_data(verdict)
    return connection


def _unreachable(
    protocols: Sequence[bytes], verdict: Sequence[str], words: str, error: BaseException | None
) -> PeerUnreachable:
    """What our own verification found says more than OpenSSL's "certificate verify failed"."""
    kind = PeerTimeout if error is None else PeerUnreachable
    if verdict:
        words = verdict[0]
    elif HTTP2 in protocols and words.endswith(NO_COMMON_ALPN):
        words = NO_HTTP2
    return kind(f"TLS: {words}")


def _name(text: str) -> str:
    """As it goes into the hello; names that only a private DNS has, such as `my_service`, work too."""
    if _is_address(text):
        return text.partition("%")[0]  # certificates know no zones
    return text.lower().removesuffix(".") if text.isascii() else canonical(text)


def _is_address(name: str) -> bool:
    return isIPAddress(name) or isIPv6Address(name)


def _trust(context: SSL.Context, ca_path: Any, insecure: bool, name: str) -> None:
    if insecure:
        context.set_verify(SSL.VERIFY_NONE, None)
        return
    context.set_verify(SSL.VERIFY_PEER, _verifier(name))
    if ca_path is None:
        context.set_default_verify_paths()
        return
    try:
        with open(ca_path, "rb"):
            context.load_verify_locations(os.fspath(ca_path))
    except OSError as problem:
        raise ValueError(f"cannot read {ca_path}: {problem.strerror}")
    except SSL.Error:
        raise ValueError(f"{ca_path} holds no certificate of an authority in PEM form")


def _introduce(context: SSL.Context, certificate: Any, key: Any) -> None:
    """The client certificate, if there is one; without a key path both are in one file."""
    if certificate is None:
        if key is not None:
            raise ValueError(f"there is a client key, {key}, but no client certificate for it")
        return
    pair = load_pair(certificate, key or certificate)
    try:
        use_pair(context, pair)
    except SSL.Error as error:
        raise ValueError(f"{certificate} is not usable: {words_of(error)}")


def _verifier(name: str) -> Any:
    """OpenSSL's question about each certificate of the chain; the first trouble found is the verdict."""
    try:
        expected = IPAddress_ID(name) if _is_address(name) else DNS_ID(name)
    except ValueError:
        raise ValueError(f"{name!r} is no name that a certificate can have")

    def verify(connection: SSL.Connection, found: crypto.X509, code: int, depth: int, good: int) -> bool:
        verdict = connection.get_app_data()
        try:
            trouble = "" if good else MEANING.get(code, f"verification error {code}")
            if good and depth == 0:
                trouble = _mismatch(found.to_cryptography(), expected)
        except Exception as mistake:  # it would vanish inside OpenSSL, and the certificate must not pass
            trouble = f"certificate cannot be read ({type(mistake).__name__})"
        if trouble:
            verdict.append(trouble)
        return not trouble

    return verify


def _mismatch(leaf: x509.Certificate, expected: DNS_ID | IPAddress_ID) -> str:
    """Empty when the certificate is for this name or address."""
    try:
        patterns = extract_patterns(leaf)
        verify_service_identity(patterns, [expected], [])
    except VerificationError:
        return f"name mismatch: certificate is for {_printed(patterns)}"
    except CertificateError:
        return "certificate has no name that can be verified"
    return ""


def _printed(patterns: Sequence[Any]) -> str:
    """The first names, escaped: the peer chose them, and they are logged."""
    names = [_escaped(p) for p in patterns[:3]]
    return ", ".join(names) + (", …" if len(patterns) > 3 else "")


def _escaped(pattern: Any) -> str:
    text = pattern.pattern.decode("latin-1") if isinstance(pattern.pattern, bytes) else str(pattern.pattern)
    return text.encode("unicode_escape").decode("ascii")[:253]
