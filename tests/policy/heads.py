"""Requests and responses to rewrite, for the tests of forwarding."""

from rproxy.policy.forwarding import ClientFacts, Memory, RequestRewriter, ResponseRewriter
from rproxy.policy.networks import NetworkSet
from rproxy.policy.rules import HeaderRules, Side
from rproxy.wire.address import Address, Inet
from rproxy.wire.http1 import ResponseReader
from rproxy.wire.message import Pair, Request, Response
from tests.wire.reading import request_of

CLIENT = Inet("203.0.113.10", 4321)
PLAIN = RequestRewriter(frozenset(), HeaderRules(Side.REQUEST))
OURS = {
    b"X-Forwarded-For": b"203.0.113.10",
    b"X-Real-IP": b"203.0.113.10",
    b"X-Forwarded-Proto": b"https",
    b"X-Forwarded-Port": b"443",
    b"X-Forwarded-Ssl": b"on",
    b"X-Forwarded-Host": b"app.example",
    b"X-Original-URI": b"/x?y",
}


def facts(
    client: Address = CLIENT, https: bool = True, port: int = 443, trusted: str = "10.0.0.0/8"
) -> ClientFacts:
    return ClientFacts(client, https=https, port=port, trusted=NetworkSet([trusted]))


def get(*lines: bytes, target: bytes = b"/x?y", version: bytes = b"1.1") -> Request:
    start = b"GET %b HTTP/%b" % (target, version)
    return request_of(b"\r\n".join([start, b"Host: app.example", *lines, b"", b""]))


def answer(
    *lines: bytes, status: bytes = b"200 OK", method: bytes = b"GET", upgrade: bool = False
) -> Response:
    reader = ResponseReader()
    reader.expect(method, upgrade)
    reader.receive(b"\r\n".join([b"HTTP/1.1 " + status, *lines, b"", b""]))
    response = reader.read_head()
    assert response is not None
    return response


def sent(
    request: Request, client: ClientFacts | None = None, rewriter: RequestRewriter = PLAIN
) -> list[Pair]:
    """The fields for the peer, without those that are always ours."""
    pairs = rewriter.fields(request, client or facts(), b"peer:8080").pairs
    return [pair for pair in pairs if OURS.get(pair[0]) != pair[1]]


def options(*names: str) -> RequestRewriter:
    return RequestRewriter(frozenset(names), HeaderRules(Side.REQUEST))


FORGED = [
    b"X-Forwarded-For",
    b"x-forwarded-proto",
    b"X-FORWARDED-HOST",
    b"X-Forwarded-Port",
    b"X-Forwarded-Ssl",
    b"X-Forwarded-Server",
    b"X-Forwarded-Prefix",
    b"X-Forwarded-User",
    b"X-Forwarded-Client-Cert",
    b"X-Forwarded-Tls-Client-Cert",
    b"X-Forwarded",
    b"X-Real-IP",
    b"X-Original-URI",
    b"X-Original-URL",
    b"X-Rewrite-URL",
    b"Proxy",
    b"Client-Cert",
    b"Client-Cert-Chain",
    b"X-Client-Cert",
    b"X-Client-Cert-DN",
    b"X-ClientCert",
    b"X-SSL-Client-Verify",
    b"SSL-Client-Cert",
    b"SSL_CLIENT_S_DN",
    b"x_ssl_client_verify",
    b"x.forwarded.user",
    b"X-Ssl-Cert",
    b"X-Tls-Client-Subject",
    b"X-ARR-ClientCert",
    b"X-Amzn-Mtls-Clientcert",
]


PASSED = ResponseRewriter(HeaderRules(Side.RESPONSE))


def received(response: Response, rewriter: ResponseRewriter = PASSED, upgrade: bool = False) -> list[Pair]:
    return rewriter.fields(response, Memory(), upgrade).pairs
