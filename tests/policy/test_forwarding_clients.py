"""What peers are told about a client's certificate: what was verified, and nothing that a client claims."""

from __future__ import annotations

from base64 import b64decode

import pytest

from rproxy.policy.forwarding import ClientFacts, RequestRewriter
from rproxy.policy.networks import NetworkSet
from rproxy.policy.rules import HeaderRules, Side
from rproxy.wire.address import Inet
from rproxy.wire.message import Pair
from tests.policy.heads import CLIENT, PLAIN, get

SUBJECT, DER = "CN=bob@admin,O=Acme", bytes(range(256)) * 3


def knowing(subject: str | None = SUBJECT, certificate: bytes = b"", client: Inet = CLIENT) -> ClientFacts:
    trusted = NetworkSet(["10.0.0.0/8"])
    return ClientFacts(
        client, https=True, port=443, trusted=trusted, subject=subject, certificate=certificate
    )


def told(facts: ClientFacts, *lines: bytes) -> list[Pair]:
    """The fields about certificates that the peer gets."""
    pairs = PLAIN.fields(get(*lines), facts, b"peer").pairs
    return [pair for pair in pairs if b"cert" in pair[0].lower()]


def test_the_subject_is_told_once_it_is_known() -> None:
    assert told(knowing()) == [(b"X-Client-Cert-Subject", b"CN=bob@admin,O=Acme")]
    assert told(knowing(None)) == []
    assert told(knowing("")) == [(b"X-Client-Cert-Subject", b"")]


def test_the_certificate_is_a_byte_sequence_of_structured_fields() -> None:
    """RFC 9440 §2.2, RFC 8941 §3.3.5: colons around base64 on one line."""
    subject, (name, value) = told(knowing(certificate=DER))
    assert subject == (b"X-Client-Cert-Subject", b"CN=bob@admin,O=Acme")
    assert name == b"Client-Cert"
    assert (value[:1], value[-1:]) == (b":", b":")
    assert b"\n" not in value
    assert b64decode(value[1:-1], validate=True) == DER


FORGED = [
    b"X-Client-Cert-Subject",
    b"x-client-cert-subject",
    b"X_Client_Cert_Subject",
    b"x-client_cert-subject",
    b"X.Client.Cert.Subject",
    b"Client-Cert",
    b"CLIENT_CERT",
    b"Client-Cert-Chain",
    b"client_cert_chain",
    b"X-Client-Cert",
    b"X-Client-Cert-Issuer",
    b"X_CLIENT_CERT_SERIAL",
]


@pytest.mark.parametrize("name", FORGED)
@pytest.mark.parametrize("client", [CLIENT, Inet("10.0.0.9", 1)], ids=["stranger", "trusted"])
def test_what_a_client_claims_is_removed_whoever_it_is_and_whatever_it_has_shown(
    name: bytes, client: Inet
) -> None:
    """Peers whose forwarding fields are believed are not believed in this."""
    lines = (name + b": CN=root@admin", b"Connection: x-client-cert-subject, client-cert", name + b": x")
    assert told(knowing(None, client=client), *lines) == []
    expected = told(knowing(certificate=DER))
    assert told(knowing(certificate=DER, client=client), *lines) == expected


def test_it_is_told_with_every_request_of_a_connection_also_of_a_trusted_proxy() -> None:
    for client in (CLIENT, Inet("10.0.0.9", 1)):
        facts = knowing(client=client)
        for lines in ([], [b"X-Forwarded-For: 192.0.2.1"], [b"X-A: 1"], [b"X-A: 1"]):
            assert told(facts, *lines) == told(knowing())


def test_rules_of_the_configuration_come_last() -> None:
    rules = HeaderRules(Side.REQUEST, remove=["X-Client-Cert-Subject"])
    pairs = RequestRewriter(frozenset(), rules).fields(get(), knowing(), b"peer").pairs
    assert not any(b"cert" in name.lower() for name, _ in pairs)
